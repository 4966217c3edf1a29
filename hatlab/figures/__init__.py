"""Figures: one function each, a tidy table in, a Figure out. Nothing here reads or writes files."""

from __future__ import annotations

from hatlab.figures.ablation import cross_ablation, cross_differences
from hatlab.figures.capacity import capacity_usage, usage_curves
from hatlab.figures.compression import compression_curve
from hatlab.figures.forgetting import forgetting, hyperparameters
from hatlab.figures.gradient import cumulative_gradients, gradient_annealing
from hatlab.figures.precision import active_units, precision_usage
from hatlab.figures.reuse import weight_reuse
from hatlab.figures.style import UNREGULARIZED, styled
from hatlab.figures.task_capacity import remaining_capacity, task_shares

__all__ = [
    "UNREGULARIZED",
    "active_units",
    "capacity_usage",
    "compression_curve",
    "cross_ablation",
    "cross_differences",
    "cumulative_gradients",
    "forgetting",
    "gradient_annealing",
    "hyperparameters",
    "precision_usage",
    "remaining_capacity",
    "styled",
    "task_shares",
    "usage_curves",
    "weight_reuse",
]
