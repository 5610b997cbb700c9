"""SIGINT and SIGTERM ask for a checkpoint instead of ending the process; a second one ends it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

ASKED = (signal.SIGINT, signal.SIGTERM)


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
        before = {number: signal.signal(number, ask) for number in ASKED}
    except ValueError:
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def withheld() -> Iterator[None]:
    """A process that starts within it gets neither signal before it says `outlive`: until then PyTorch's workers would end by SIGTERM."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows, where no signal goes to a group
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        yield


def outlive(worker: int = 0) -> None:
    """A terminal or batch system signals the whole group; the run still needs its workers to reach the checkpoint, and ends them itself."""
    for number in ASKED:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
