"""What a number of a frame is called, its unit, how it is written, and whether more of it is better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One number of a frame. `unit`: "dB", "of 1" (values of a picture lie in 0 … 1) or ""."""

    label: str
    unit: str
    digits: int
    higher_is_better: bool = True

    def show(self, value: float) -> str:
        """24.13 dB, 0.0312, 0.8712."""
        return self._with_unit(f"{value:.{self.digits}f}".replace("-", "−"))

    def signed(self, value: float) -> str:
        """A difference: +0.41 dB, −0.0012."""
        return self._with_unit(f"{value:+.{self.digits}f}".replace("-", "−"))

    def _with_unit(self, number: str) -> str:
        return f"{number} dB" if self.unit == "dB" else number
