"""What the steps of an epoch gave, added up. It is looked at now and then, so that no step has to wait for the device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from crossfade.clip import Named

LOOK_EVERY = 0.1  # seconds


@dataclass
class Tally:
    """`sums`: name -> sum over clips, and "clips", "correct", "known"; complete after `look`, the same however often that is called."""

    sums: dict[str, float]
    _names: tuple[str, ...] = ()
    _steps: list[tuple[int, list[Tensor], Tensor, Tensor]] = field(default_factory=list)
    _looked_at: float = field(default_factory=time.monotonic)

    def add(self, clips: int, means: Named, correct: Tensor, known: Tensor) -> None:
        """One step: each loss's mean over so many clips, and of the answers (N,) which are right and which are known."""
        self._names = tuple(means)
        self._steps.append((clips, [mean.detach() for mean in means.values()], correct, known))

    @property
    def due(self) -> bool:
        return time.monotonic() - self._looked_at > LOOK_EVERY

    def look(self) -> int:
        """Add what is new to the sums, in three transfers; how many steps that were."""
        steps, self._steps, self._looked_at = self._steps, [], time.monotonic()
        if not steps:
            return 0
        means = torch.stack([mean for _, means, _, _ in steps for mean in means]).view(len(steps), -1).tolist()
        for (clips, _, _, _), values in zip(steps, means, strict=True):
            self._add({name: value * clips for name, value in zip(self._names, values, strict=True)} | {"clips": clips})
        self._add({"correct": torch.cat([correct for _, _, correct, _ in steps]).sum().item()})
        self._add({"known": torch.cat([known for _, _, _, known in steps]).sum().item()})
        return len(steps)

    def _add(self, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
