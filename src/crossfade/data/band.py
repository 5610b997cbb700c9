"""The band of frequencies that several recording domains all carry, found in their sound without labels.

Telephones, codecs and recorders end at different frequencies. A model that has learnt where its labelled domain ends meets sound beyond
that, or nothing where there was sound, in the other; within what all of them carry it meets the same kind of thing everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crossfade.data.log_mel import LogMel
from crossfade.data.mel import FLOORS, Levelled

ENOUGH = 200  # clips of a domain that are listened to
APART = 30.0  # dB between domains from which a filter is taken to be carried by the louder one alone
LOUD = 0.9  # the share of filters below the one that the others are measured against


@dataclass(frozen=True)
class Common:
    """From `low` to `high`, in hertz, lie `shared` neighbours of the stream's `filters`."""

    low: float
    high: float
    shared: int
    filters: int


def common_band(stream: LogMel, levels: Sequence[np.ndarray]) -> Common:
    """The most neighbouring filters in which all domains' levels, (mels,) each, lie within 30 dB of one another."""
    apart = np.ptp(np.stack(levels), axis=0)
    empty = ~stream.bank.any(0).numpy()  # narrower than what the Fourier transform tells apart: they hear nothing anywhere
    first, last = _longest(((apart <= APART) | empty).tolist())
    centres = stream.centres[first:last] if last > first else np.zeros(1)
    return Common(float(np.floor(centres[0])), float(np.ceil(centres[-1])), last - first, len(stream.centres))


def level(stream: LogMel, clips: Iterable[np.ndarray]) -> np.ndarray | None:
    """A domain's (mels,) in dB: the median over its clips, decoded (N,), of what each is against its own loud filters, so that neither gain
    nor what share of the clips is quiet decides. None where no clip has sound.
    """
    ears = replace(stream, log="db", floor=FLOORS["db"], power=2.0, after=Levelled())
    found = [_heard(ears, sound) for sound in clips if sound.any()]
    return np.median(found, axis=0) if found else None


def _heard(ears: LogMel, sound: np.ndarray) -> np.ndarray:
    """(mels,) in dB: the clip's mean energy, against the filter that is louder than nine in ten."""
    mel, real = ears.finish(sound)
    energy = 10 * np.log10((10 ** (mel[0, :, real].double().numpy() / 10)).mean(1))
    return energy - np.quantile(energy, LOUD)


def _longest(shared: list[bool]) -> tuple[int, int]:
    """[first, last) of the longest run of True."""
    best = run = (0, 0)
    for index, here in enumerate(shared):
        run = (run[0], index + 1) if here else (index + 1, index + 1)
        best = max(best, run, key=lambda found: found[1] - found[0])
    return best
