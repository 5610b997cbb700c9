"""Stored states join a batch by row, in place of the streams they were computed from; no clip is touched on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from crossfade.clip import seed_of

if TYPE_CHECKING:
    from crossfade.clip import Named


class Table(Protocol):
    """Rows of packed arrays, as `crossfade.rows` keeps them."""

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """(B,) places -> {name: (B, …)}"""
        ...


@dataclass(frozen=True)
class Draws:
    """A fixed number of draws of a view: each is the same for a clip whenever it comes, so what follows it can be stored."""

    count: int
    seed: int
    only: int | None = None  # this one at every turn, while it is being stored

    def pick(self, stream: str, tag: tuple[object, ...], row: int) -> int:
        """Which draw a clip's turn takes: another each epoch, the same with and without the store."""
        return seed_of(*tag, row, stream, "draw") % self.count if self.only is None else self.only

    def seed_for(self, stream: str, clip_id: str, pick: int) -> int:
        return seed_of(self.seed, stream, clip_id, "draw", pick)


@dataclass(frozen=True)
class Stored:
    """What was stored of some streams: a table of the clean clips, or one for each draw of their view.

    `has`: (clips,) bool, which clips have all of the streams. `widen` turns bfloat16, where it was chosen to save room, back into float32.
    """

    streams: tuple[str, ...]
    has: Sequence[bool]
    tables: Sequence[Table]
    draws: Draws | None = None
    widen: bool = False
    suffix: str = ""  # to the streams' names, for states as the teacher sees them

    def states(self, rows: Tensor, tag: tuple[object, ...]) -> Named:
        """(B,) rows of clips with the same streams -> {"audio[11:].x": (B, …), …}; nothing where they lack these."""
        if not self.has[int(rows[0])]:
            return {}
        if self.draws is None:
            return self._tensors(self.tables[0].take(rows.numpy()))
        picks = np.array([self.draws.pick(self.streams[0], tag, row) for row in rows.tolist()])
        return self._tensors(self._by_draw(rows.numpy(), picks))

    def _by_draw(self, rows: np.ndarray, picks: np.ndarray) -> dict[str, np.ndarray]:
        """Each row from its own draw's table, in the order asked for."""
        order = np.argsort(picks, kind="stable")
        parts = [self.tables[pick].take(rows[picks == pick]) for pick in np.unique(picks)]
        back = np.argsort(order)
        return {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}

    def _tensors(self, arrays: Mapping[str, np.ndarray]) -> Named:
        return {self._named(name): tensor_of(array, widen=self.widen) for name, array in arrays.items()}

    def _named(self, entry: str) -> str:
        """ "audio[11:].x" -> "audio@teacher[11:].x" """
        stream, mark, rest = entry.partition("[")
        return f"{stream}{self.suffix}{mark}{rest}"


def array_of(tensor: Tensor, *, narrow: bool = False) -> np.ndarray:
    """A tensor as NumPy keeps it: bfloat16, which NumPy lacks, as the uint16 of its bits. `narrow` makes float32 bfloat16 first."""
    tensor = tensor.detach().cpu().contiguous()
    tensor = tensor.to(torch.bfloat16) if narrow and tensor.dtype == torch.float32 else tensor
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def tensor_of(array: np.ndarray, *, widen: bool = False) -> Tensor:
    """The reverse of `array_of`."""
    tensor = torch.from_numpy(array)
    if tensor.dtype != torch.uint16:
        return tensor
    return tensor.view(torch.bfloat16).float() if widen else tensor.view(torch.bfloat16)
