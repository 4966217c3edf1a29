"""HAT's mask-sparsity regularizer (section 2.6) and its `cross` variant.

With m the mask of the current task and p the cumulative mask of the tasks before it, summed over all units:

    R1 = sum m (1 - p) / sum (1 - p)        share of the free units that the task takes (the paper's eq. 5)
    R2 = 1 - sum m p / sum p                share of the used units that the task does not reuse

`original` is factor R1, `cross` is factor (R1 + R2) / 2, `reuse` is factor R2. A ratio over `min_units` units or
fewer counts as 0; so in the first task, where nothing is used yet, `cross` is half of `original`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from numbers import Real

import torch
from torch import Tensor, nn

__all__ = ["MODES", "HATMaskSparsityReg", "affine", "mask_sparsity"]

# mode -> what R1 and R2 count in R
MODES = {"original": (1.0, 0.0), "cross": (0.5, 0.5), "reuse": (0.0, 1.0)}


def _known(mode: str) -> tuple[float, float]:
    if mode not in MODES:
        raise ValueError(f"mode = {mode!r}: allowed are {', '.join(MODES)}")
    return MODES[mode]


def _share(part: Tensor, whole: Tensor, min_units: float) -> tuple[Tensor, Tensor]:
    """Return part / whole and whether it counts; no branch on a value, no division by 0, always differentiable."""
    counts = whole > min_units
    return part / torch.where(counts, whole, torch.ones_like(whole)), counts


def mask_sparsity(masks: Iterable[Tensor], previous: Iterable[Tensor], mode: str, min_units: float = 10) -> Tensor:
    """Return the regularizer R over all layers, in [0, 1] for masks in [0, 1], as a tensor without axes.

    `masks` and `previous` hold (units,) for each layer: the current task's mask, and the cumulative one before it, in
    the same dtype. A ratio whose denominator is at most `min_units` counts as 0.

    Raises:
        ValueError: the mode is none of `MODES`.
    """
    of_r1, of_r2 = _known(mode)
    # summed layer by layer, as the authors do: another order would round otherwise
    sums = [
        torch.stack(((m * (1 - p)).sum(), (1 - p).sum(), (m * p).sum(), p.sum()))
        for m, p in zip(masks, previous, strict=True)
    ]
    in_free, free, in_used, used = torch.stack(sums).sum(0)
    taken, taken_counts = _share(in_free, free, min_units)
    reused, reused_counts = _share(in_used, used, min_units)
    zero = torch.zeros_like(taken)
    r1 = torch.where(taken_counts, taken, zero)
    r2 = torch.where(reused_counts, 1 - reused, zero)
    return of_r1 * r1 + of_r2 * r2


def affine(previous: Tensor, mode: str, factor: float = 1, min_units: float = 10) -> tuple[Tensor, Tensor]:
    """Return (coefficient, offset) with factor R = offset + sum of coefficient times mask.

    R is affine in the mask of the current task: the coefficients, which are its gradient, are known before the task
    starts. They are rounded in the order of autograd's gradient of `mask_sparsity`: factor, over the count, times the
    unit.

    `previous`: (all units,) cumulative mask of the tasks before; the rest as for `mask_sparsity`. The result has
    (all units,) and no axes.
    """
    of_r1, of_r2 = _known(mode)
    zero = torch.zeros_like(previous)
    parts = []
    for share, chosen in ((of_r1, 1 - previous), (of_r2, previous)):
        per_unit, counts = _share(torch.full_like(chosen.sum(), factor * share), chosen.sum(), min_units)
        parts.append(torch.where(counts, per_unit * chosen, zero))
    free, used = parts
    return free - used, factor * of_r2 * (previous.sum() > min_units).to(previous.dtype)


class HATMaskSparsityReg(nn.Module):
    """The regularizer as a module, in the place of CLArena's class of the same name.

    Args:
        factor: the paper's compressibility c; finite and not negative.
        mode: "original", "cross" or "reuse"; see the module's text.
        min_units: a ratio over at most this many units counts as 0.

    Raises:
        ValueError: a factor or `min_units` that is negative or not finite, an unknown mode.

    `forward` warns if the network has at most `min_units` units, so that the loss is always 0.
    """

    def __init__(self, factor: float, mode: str = "original", min_units: float = 10) -> None:
        super().__init__()
        given: dict[str, object] = {"factor": factor, "min_units": min_units}
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
                raise ValueError(f"{name} = {value!r}: allowed is a finite number of at least 0")
        _known(mode)
        self.factor, self.mode, self.min_units = float(factor), mode, float(min_units)

    def extra_repr(self) -> str:
        return f"factor={self.factor}, mode={self.mode!r}, min_units={self.min_units}"

    def forward(
        self, mask: Mapping[str, Tensor], previous_cumulative_mask: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss, network_sparsity).

        Args:
            mask: layer name -> (units,), the mask of the current task, floating point.
            previous_cumulative_mask: the same layers and shapes; floating point or bool.

        Returns:
            factor R over the units of all layers, no axes; and per layer, without the factor, sum m(1-p) / sum (1-p)
            for "original", sum m p / sum p for "reuse", the mean of the two for "cross", each 0 where its denominator
            is at most `min_units`.

        Raises:
            ValueError: no layers, layers that do not match, or shapes that do not match; names them.
            TypeError: a mask that is not floating point.
        """
        self._check(mask, previous_cumulative_mask)
        if (units := sum(m.numel() for m in mask.values())) <= self.min_units:
            warnings.warn(
                f"the network has {units} units, and a ratio over at most min_units = {self.min_units:g} counts as 0: "
                "the regularizer is always 0; lower min_units (the paper's formula has 0)",
                stacklevel=2,
            )
        previous = {name: previous_cumulative_mask[name].to(m.dtype) for name, m in mask.items()}
        loss = self.factor * mask_sparsity(mask.values(), previous.values(), self.mode, self.min_units)
        return loss, {name: self._layer_sparsity(m, previous[name]) for name, m in mask.items()}

    def _layer_sparsity(self, m: Tensor, p: Tensor) -> Tensor:
        shares = []
        for chosen in {"original": (1 - p,), "reuse": (p,), "cross": (1 - p, p)}[self.mode]:
            share, counts = _share((m * chosen).sum(), chosen.sum(), self.min_units)
            shares.append(torch.where(counts, share, torch.zeros_like(share)))
        return torch.stack(shares).mean()

    @staticmethod
    def _check(mask: Mapping[str, Tensor], previous: Mapping[str, Tensor]) -> None:
        if not mask or mask.keys() != previous.keys():
            raise ValueError(f"mask has layers {list(mask)}, previous_cumulative_mask {list(previous)}: not the same")
        for name, m in mask.items():
            if not m.is_floating_point():
                raise TypeError(f"mask['{name}'] has dtype {m.dtype}: a floating-point mask is needed")
            one, other = tuple(m.shape), tuple(previous[name].shape)
            if m.dim() != 1 or one != other:
                raise ValueError(
                    f"layer '{name}': mask has shape {one}, previous_cumulative_mask {other}; both must be (units,)"
                )
