"""A number that may move through the phase: a term's weight, the threshold of a curriculum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator
from pydantic_core import PydanticCustomError

KEYS = ("use", "from", "to", "over")


def constant(start: float, end: float, along: float) -> float:
    """The first number until `over`, from there on the second: high through a warm-up, then low."""
    return end if along >= 1 else start


def linear(start: float, end: float, along: float) -> float:
    """A straight line."""
    return start + (end - start) * along


def cosine(start: float, end: float, along: float) -> float:
    """Half a cosine, flat at both ends (arXiv 1608.03983 eq. 5)."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * along))


def exponential(start: float, end: float, along: float) -> float:
    """The same ratio in each step of the way; both numbers are above 0."""
    return start * (end / start) ** along


def ramp(start: float, end: float, along: float) -> float:
    """A share min(1, 0.75 (1 - cos(π p))) of the way: the weight of the unlabelled clips in dynamic-cdfsl (arXiv 2106.07807)."""
    return start + (end - start) * min(1.0, 0.75 * (1.0 - math.cos(math.pi * along)))


COURSES: dict[str, Callable[[float, float, float], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "ramp": ramp,
}


class Course(BaseModel):
    """`{use: cosine, from: 0.5, to: 0.1, over: 0.4}`: from one number to another within the first `over` of the phase, then it stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use: Literal["constant", "linear", "cosine", "exponential", "ramp"] = "linear"
    start: float = Field(0.0, alias="from", allow_inf_nan=False)
    to: float = Field(1.0, allow_inf_nan=False)
    over: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _is_one(cls, given: Any) -> Any:
        if isinstance(given, Course) or (isinstance(given, dict) and set(given) <= set(KEYS)):
            return given
        raise PydanticCustomError("course", "it is a number, or keys from use, from, to, over")

    @model_validator(mode="after")
    def _has_a_ratio(self) -> Course:
        if self.use == "exponential" and min(self.start, self.to) <= 0:
            raise PydanticCustomError("course", "from and to are above 0 in an exponential course")
        return self

    @model_serializer
    def _plain(self) -> dict[str, Any]:
        return {"use": self.use, "from": self.start, "to": self.to, "over": self.over}

    def __call__(self, progress: float) -> float:
        """Progress through the phase in [0, 1] -> the number there."""
        return COURSES[self.use](self.start, self.to, min(max(progress / self.over, 0.0), 1.0))

    @property
    def lowest(self) -> float:
        return min(self.start, self.to)

    @property
    def highest(self) -> float:
        return max(self.start, self.to)


Amount = Course | float  # in this order, so that a mistake in a course is what is complained of


def at(amount: Amount, progress: float) -> float:
    """The number at this progress through the phase."""
    return amount(progress) if isinstance(amount, Course) else amount


def bounds(amount: Amount) -> tuple[float, float]:
    """The lowest and the highest that it ever is."""
    return (amount.lowest, amount.highest) if isinstance(amount, Course) else (amount, amount)
