"""The staged encoder: input -> stem -> ... -> top -> tokens. Any first stages can run alone, be stored, and be continued from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from crossfade.clip import Spec, Tokens
from crossfade.models.lone import allow_lone_values

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.models.surgery import LoadReport


class Encoder(nn.Module):
    """Every encoder of Crossfade, built from parts. All its parameters live under `stages`, stem first.

    `begin` makes the first state from an input (B, …) and its mask (B, T), and takes padding out of the input; each stage maps a state
    to a state: a dict of tensors with the batch first, of which "x" (B, T, D) and "mask" (B, T) become the tokens at the end.
    `grid`: for an input (B, …) the (steps, rows, columns) that its tokens tile in order, where they do; what a map of them is drawn by.
    `report` says what was loaded into it, None where it was built from scratch; `rebuild` holds the options that would build the same
    shape without those weights, where the weights decide it. `note` is what a person should know of it, "" where there is nothing.
    """

    def __init__(
        self,
        stages: Iterable[nn.Module],
        *,
        dim: int,
        spec: Spec,
        begin: Callable[[Tensor, Tensor | None], Named],
        report: LoadReport | None = None,
        note: str = "",
        grid: Callable[[Tensor], tuple[int, int, int]] | None = None,
    ):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.dim, self.spec, self.report, self.note = dim, spec, report, note
        self.begin, self.grid = begin, grid
        self.rebuild: dict[str, object] = {}
        allow_lone_values(self)

    def run(self, state: Named, start: int = 0, stop: int | None = None) -> Named:
        """Run the stages start … stop − 1 (None: to the last) on a state."""
        for stage in list(self.stages)[start:stop]:  # a slice of a ModuleList would be built anew as a module
            state = stage(state)
        return state

    def finish(self, state: Named) -> Tokens:
        """The state after the last stage -> Tokens (B, T, D)."""
        return Tokens(state["x"], state.get("mask"))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        """(B, …), mask (B, T) over the input's time axis, True = real -> Tokens (B, T', D)."""
        return self.finish(self.run(self.begin(x, mask)))


class Stage(nn.Module):
    """A stage that changes only "x", by a module (B, …) -> (B, …)."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, state: Named) -> Named:
        """{"x": (B, …)} -> {"x": (B, …)}"""
        return {**state, "x": self.body(state["x"])}
