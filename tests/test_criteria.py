"""Criteria without labels: by hand, against numpy, and what the docstrings say fools each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy as reference

from crossfade.training import CRITERIA, criteria

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.05, 0.9, 0.05]])
SURE = np.eye(3)[[0, 1, 2, 0, 1, 2]]
COLLAPSED = np.eye(3)[[0] * 6]


def test_entropy_and_information_equal_scipy_s():
    each = reference(P, axis=1).mean()
    assert CRITERIA["entropy"](P) == pytest.approx(-each)
    assert CRITERIA["information"](P) == pytest.approx(reference(P.mean(0)) - each)


@pytest.mark.parametrize("rows", [1024, 3])
def test_snd_by_its_formula(monkeypatch, rows):
    monkeypatch.setattr(criteria, "ROWS", rows)
    unit = P / np.linalg.norm(P, axis=1, keepdims=True)
    values = []
    for row in range(4):
        others = np.delete(unit @ unit[row], row) / 0.05
        weights = np.exp(others) / np.exp(others).sum()
        values.append(reference(weights))
    assert CRITERIA["snd"](P) == pytest.approx(np.mean(values))
    assert CRITERIA["snd"](P[:1]) == 0.0


def test_agreement_is_the_chance_that_two_draws_are_equal():
    assert CRITERIA["agreement"](P, P[::-1].copy()) == pytest.approx(float((P * P[::-1]).sum(1).mean()))
    assert CRITERIA["agreement"](SURE, SURE) == 1.0 and CRITERIA["agreement"](SURE, SURE[[1, 2, 0, 4, 5, 3]]) == 0.0
    assert [name for name, each in CRITERIA.items() if each.pair] == ["agreement"]


def test_what_fools_each():
    """A collapse has the best certainty, density and agreement there are; information alone sees through it."""
    assert CRITERIA["entropy"](COLLAPSED) == 0.0 == CRITERIA["entropy"](SURE)
    assert CRITERIA["snd"](COLLAPSED) == pytest.approx(math.log(5)) and CRITERIA["snd"](SURE) < math.log(2)
    assert CRITERIA["agreement"](COLLAPSED, COLLAPSED) == 1.0
    assert CRITERIA["information"](COLLAPSED) == 0.0 and CRITERIA["information"](SURE) == pytest.approx(math.log(3))


def test_tensors_and_arrays_alike():
    assert all(each(*[torch.tensor(P)] * (1 + each.pair)) == each(*[P] * (1 + each.pair)) for each in CRITERIA.values())
