"""Which clips an epoch shows: rare classes more often, domains in fixed shares."""

from __future__ import annotations

import pytest
import torch

from crossfade.clip import NEITHER, SOURCE, TARGET, UNKNOWN, UserError
from crossfade.data.sampling import Sampling, weights

LABELS = torch.tensor([0] * 90 + [1] * 10 + [UNKNOWN] * 60)
DOMAINS = torch.tensor([SOURCE] * 100 + [TARGET] * 50 + [NEITHER] * 10)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(sampling: Sampling, size: int = 16, seed: int = 0) -> list[torch.Tensor]:
    return sampling.batches(LABELS, DOMAINS, size, generator(seed))


def test_as_they_are_every_row_comes_once():
    batches = drawn(Sampling())
    assert sorted(torch.cat(batches).tolist()) == list(range(160)) and {len(rows) for rows in batches} == {16}
    assert [rows.tolist() for rows in drawn(Sampling())] == [rows.tolist() for rows in batches], "the same seed, the same order"
    assert [rows.tolist() for rows in drawn(Sampling(), seed=1)] != [rows.tolist() for rows in batches]


def test_weights_are_one_over_the_count_to_a_power():
    found = weights(LABELS, 1.0)
    assert found[0] == 1 / 90 and found[95] == 1 / 10 and found[-1] == pytest.approx((90 / 90 + 10 / 10) / 100)
    root = weights(LABELS, 0.5)
    assert root[95] / root[0] == pytest.approx(3.0)
    assert (weights(torch.full((4,), UNKNOWN), 1.0) == 1).all()


@pytest.mark.parametrize(("balance", "share"), [("none", 0.1), ("root", 0.25), ("class", 0.5)])
def test_balance_draws_the_rare_class_as_often_as_it_says(balance, share):
    """n · n^-p: 90 to 10 as they are, √90 to √10 (3 to 1) by the root, 1 to 1 by class."""
    rows = torch.cat([each for seed in range(200) for each in drawn(Sampling(balance, (1, 0)), seed=seed)])
    assert (DOMAINS[rows] == SOURCE).all() and (LABELS[rows] == 1).double().mean() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("mix", "few"), [((1, 1), 8), ((3, 1), 12), ((1, 15), 1), ((1, 100), 1), ((100, 1), 15)])
def test_a_mix_has_its_share_in_every_batch_and_shows_each_target_row_once(mix, few):
    batches = drawn(Sampling("none", mix))
    assert all((DOMAINS[rows] == SOURCE).sum() == few for rows in batches)
    targets = torch.cat([rows[DOMAINS[rows] == TARGET] for rows in batches]).tolist()
    assert sorted(targets) == list(range(100, 150))
    sources = torch.cat([rows[DOMAINS[rows] == SOURCE] for rows in batches])
    counts = torch.bincount(sources, minlength=100)[:100]
    assert counts.max() - counts.min() <= 1, "in turn: none comes a second time before all came once"


def test_one_domain_alone():
    assert sorted(torch.cat(drawn(Sampling("none", (1, 0)))).tolist()) == list(range(100))
    assert sorted(torch.cat(drawn(Sampling("class", (0, 1)))).tolist()) == list(range(100, 150))


def test_a_domain_without_clips_is_refused():
    with pytest.raises(UserError, match="target domain in every batch, but train has none"):
        Sampling("none", (1, 1)).batches(LABELS[:100], DOMAINS[:100], 8, generator())
    with pytest.raises(UserError, match="source domain"):
        Sampling("none", (1, 0)).batches(LABELS[100:], DOMAINS[100:], 8, generator())
