"""Schedules against PyTorch's, and that no floor raises a rate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR

from crossfade.clip import UserError
from crossfade.training.schedules import constant, cosine

SHARES = st.floats(0, 1)


@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_cosine_equals_torch(floor):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    reference = CosineAnnealingLR(optimizer, T_max=20, eta_min=floor * 3e-4)
    schedule = cosine(floor=floor)
    for step in range(21):
        assert 3e-4 * schedule(step / 20) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        reference.step()


@examples(max_examples=200, deadline=None)
@given(SHARES, SHARES, SHARES)
def test_no_factor_is_above_one_or_below_nought(warmup, floor, progress):
    for schedule in (constant(warmup=warmup), cosine(warmup=warmup, floor=floor)):
        assert 0 <= schedule(progress) <= 1


@examples(max_examples=100, deadline=None)
@given(SHARES, SHARES, SHARES)
def test_after_the_warm_up_cosine_only_falls_to_its_floor(floor, first, second):
    schedule = cosine(warmup=0.1, floor=floor)
    early, late = sorted((0.1 + 0.9 * first, 0.1 + 0.9 * second))
    assert schedule(early) >= schedule(late) - 1e-12 and schedule(late) >= floor - 1e-12


def test_warm_up_is_linear_and_its_first_step_learns_something():
    for schedule in (constant(warmup=0.2), cosine(warmup=0.2)):
        assert schedule(0.0) == pytest.approx(0.01) and schedule(0.1) == pytest.approx(0.5) and schedule(0.2) == pytest.approx(1.0)
    assert {constant()(step / 10) for step in range(11)} == {1.0}


@pytest.mark.parametrize(
    "make", [lambda: cosine(floor=1.5), lambda: cosine(floor=-0.1), lambda: cosine(warmup=2), lambda: constant(warmup=-1)]
)
def test_shares_lie_between_nought_and_one(make):
    with pytest.raises(UserError, match="a fraction between 0 and 1"):
        make()
