"""SIGINT and SIGTERM ask for a checkpoint instead of ending the process; a second one ends it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stop:
    """Calling it gives the first signal that arrived, or None."""

    caught: list[int] = field(default_factory=list)

    def __call__(self) -> int | None:
        return self.caught[0] if self.caught else None


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Within it signals are collected; outside the main thread (a notebook's worker) they stay as they are."""
    stop = Stop()

    def ask(number: int, frame: object) -> None:
        if stop.caught:
            raise KeyboardInterrupt
        stop.caught.append(number)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
