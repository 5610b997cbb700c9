"""What an exported file is held to: how far its numbers may be off, and how many decisions must be the same."""

from __future__ import annotations

from dataclasses import dataclass

from crossfade.deploy.parity import Parity, acceptable

FAINT = "a spectrogram in float32 is itself that far from the exact one where it is faintest; hence the wider tolerance of the front end"


@dataclass(frozen=True)
class Bar:
    """What a file is held to: of each output max |a − b| / max |a|, and the share of equal decisions; of few clips one may differ."""

    tolerance: float
    agreement: float
    one_may: bool = False
    note: str = ""

    def complaints(self, parities: list[Parity]) -> list[str]:
        return [line for each in parities for line in acceptable([each], self.tolerance, self.share(each.clips))]

    def share(self, clips: int) -> float:
        return min(self.agreement, (clips - 1) / clips) if self.one_may and clips else self.agreement


EXACT, WITH_FRONT_END = Bar(1e-4, 1.0), Bar(1e-2, 0.995, note=FAINT)
HALF = Bar(0.1, 0.995, one_may=True)  # in half precision decisions count; numbers that far off are no rounding
