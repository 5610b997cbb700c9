"""Numbers that move through a phase: each shape by hand, how a recipe says it, and how a mistake reads."""

from __future__ import annotations

import math

import pytest

from crossfade import training, use
from crossfade.clip import UserError
from crossfade.training.course import Course, at, bounds

POINTS = (0.0, 0.25, 0.5, 1.0)


def course(**given) -> Course:
    return Course.model_validate(given)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0.5, 0.5, 0.1, 0.1]),
        ("linear", [0.5, 0.3, 0.1, 0.1]),
        ("cosine", [0.5, 0.3, 0.1, 0.1]),
        ("exponential", [0.5, math.sqrt(0.05), 0.1, 0.1]),
        ("ramp", [0.5, 0.5 - 0.4 * 0.75, 0.1, 0.1]),
    ],
)
def test_each_shape_from_one_number_to_another_over_half_the_phase(name, expected):
    moving = course(use=name, over=0.5, **{"from": 0.5, "to": 0.1})
    assert [moving(point) for point in POINTS] == pytest.approx(expected)
    assert at(moving, 0.25) == moving(0.25) and at(0.7, 0.25) == 0.7 and bounds(moving) == (0.1, 0.5)


def test_cosine_is_flat_at_both_ends():
    moving = course(use="cosine", **{"from": 0.5, "to": 0.0})
    assert moving(1 / 3) == pytest.approx(0.25 * (1 + math.cos(math.pi / 3))) and moving(0.01) > 0.4998 and moving(0.99) < 0.0002


def test_the_published_ramp_is_0_75_1_minus_cos_capped_at_1():
    ramp = course(use="ramp")
    for step in range(101):
        assert ramp(step / 100) == pytest.approx(min(1.0, 0.75 * (1 - math.cos(math.pi * step / 100))))
    assert ramp(0.5) == pytest.approx(0.75) and ramp(0.7) == 1.0


def test_a_recipe_says_it_and_gets_its_defaults_written_out():
    spec = {"use": "cross_entropy", "target": "cough", "weight": {"from": 0.5, "to": 0.1}}
    plain = use.check(training.TERMS, spec, "here")
    assert plain["weight"] == {"use": "linear", "from": 0.5, "to": 0.1, "over": 1.0}
    assert use.check(training.TERMS, plain, "here") == plain
    term = use.make(training.TERMS, plain, {})
    assert at(term.weight, 0.5) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        ({"from": 1, "too": 2}, "it is a number, or keys from use, from, to, over"),
        ("high", "it is a number, or keys from use, from, to, over"),
        ({"use": "liner"}, "input should be 'constant', 'linear', 'cosine', 'exponential' or 'ramp'"),
        ({"over": 0}, "input should be greater than 0"),
        ({"use": "exponential"}, "from and to are above 0"),
    ],
)
def test_a_mistake_reads_well(weight, says):
    with pytest.raises(UserError, match=r"^here.weight: found .*; ") as caught:
        use.check(training.TERMS, {"use": "cross_entropy", "target": "cough", "weight": weight}, "here")
    assert says in str(caught.value)


def test_a_weight_that_ever_is_negative_is_refused():
    with pytest.raises(UserError, match=r"cross_entropy.weight: found -1"):
        training.TERMS["cross_entropy"](target="cough", weight=course(**{"from": 1, "to": -1}))
