"""Figures: one function each, a tidy table in, a Figure out. Nothing here reads or writes files."""

from __future__ import annotations

from hatlab.figures.capacity import capacity_usage, usage_curves
from hatlab.figures.forgetting import forgetting, hyperparameters
from hatlab.figures.style import UNREGULARIZED, styled

__all__ = ["UNREGULARIZED", "capacity_usage", "forgetting", "hyperparameters", "styled", "usage_curves"]
