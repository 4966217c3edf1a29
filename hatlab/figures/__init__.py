"""Figures: one function each, a tidy table in, a Figure out. Nothing here reads or writes files."""

from __future__ import annotations

from hatlab.figures.ablation import cross_ablation, cross_differences
from hatlab.figures.accuracy import accuracy_of_tasks
from hatlab.figures.capacity import capacity_usage, usage_curves
from hatlab.figures.compression import compression_curve
from hatlab.figures.forgetting import forgetting, hyperparameters
from hatlab.figures.gates import annealed_masks, gate_curves
from hatlab.figures.gradient import cumulative_gradients, gradient_annealing
from hatlab.figures.images import labelled_images
from hatlab.figures.masks import counted_units, gradient_factors, mask_overlap
from hatlab.figures.precision import active_units, precision_usage
from hatlab.figures.reuse import weight_reuse
from hatlab.figures.style import UNREGULARIZED, styled
from hatlab.figures.task_capacity import remaining_capacity, task_shares

__all__ = [
    "UNREGULARIZED",
    "accuracy_of_tasks",
    "active_units",
    "annealed_masks",
    "capacity_usage",
    "compression_curve",
    "counted_units",
    "cross_ablation",
    "cross_differences",
    "cumulative_gradients",
    "forgetting",
    "gate_curves",
    "gradient_annealing",
    "gradient_factors",
    "hyperparameters",
    "labelled_images",
    "mask_overlap",
    "precision_usage",
    "remaining_capacity",
    "styled",
    "task_shares",
    "usage_curves",
    "weight_reuse",
]
