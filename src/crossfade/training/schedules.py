"""How a learning rate moves through a phase: a factor in [0, 1] of each group's own rate, so no floor can ever raise a rate."""

from __future__ import annotations

import math
from collections.abc import Callable

from crossfade.clip import UserError

Schedule = Callable[[float], float]  # progress through the phase in [0, 1] -> factor


def constant(*, warmup: float = 0.0) -> Schedule:
    """The full rate throughout, after a linear warm-up over the fraction `warmup` of the phase."""
    _check_share("constant.warmup", warmup)
    return lambda progress: _rise(progress, warmup)


def cosine(*, warmup: float = 0.0, floor: float = 0.1) -> Schedule:
    """Half a cosine from 1 to `floor` (a fraction of each group's rate) after a linear warm-up (arXiv 1608.03983 eq. 5)."""
    _check_share("cosine.warmup", warmup)
    _check_share("cosine.floor", floor)

    def factor(progress: float) -> float:
        along = (progress - warmup) / max(1.0 - warmup, 1e-12)
        fall = floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(max(along, 0.0), 1.0)))
        return _rise(progress, warmup) * fall

    return factor


def _rise(progress: float, warmup: float) -> float:
    # The first step has progress 0 and must still learn something, hence the small head start.
    return 1.0 if progress >= warmup else max(progress / warmup, 0.01)


def _check_share(what: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise UserError(f"{what}: found {share:g}; it is a fraction between 0 and 1")
