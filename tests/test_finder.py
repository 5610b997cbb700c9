"""The range test: where a curve falls fastest, that its suggestion trains, and that nothing is left changed."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
import torch
from test_loop import Toy, bits, equal, make_run, phase, toy_batches
from torch import nn

from crossfade.clip import UserError
from crossfade.training import sgd
from crossfade.training.finder import HIGHEST, INERTIA, LOWEST, STOP, curve, exponential, find_rate, untouched
from crossfade.training.loop import fit
from crossfade.training.prune import Prune

STEPS = 100


@pytest.fixture(autouse=True)
def _no_sweeping(monkeypatch):
    """As test_loop's."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


# ---- the curve


def sigmoid_curve(noise: float, seed: int = 0):
    """Falls from 2 to 1 around 1e-3, steepest there, and shoots up from 1e-1 on."""
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    losses = 1 + 1 / (1 + np.exp(2 * np.log(rates / 1e-3))) + np.maximum(rates - 0.1, 0) ** 2 * 50
    return rates.tolist(), (losses + noise * np.random.default_rng(seed).standard_normal(STEPS)).tolist()


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_suggestion_is_where_it_falls_fastest(noise):
    for seed in range(20):
        found = curve(*sigmoid_curve(noise, seed))
        assert 1e-4 < found.suggestion < 1e-2, f"seed {seed}"
        assert found.fell == pytest.approx(0.5, abs=0.1)
    assert abs(math.log10(curve(*sigmoid_curve(0.0)).suggestion) + 3) < 0.2


def test_the_smoothed_losses_are_a_savitzky_golay_filter():
    from scipy.signal import savgol_filter

    factors, losses = sigmoid_curve(0.2)
    expected = np.asarray(savgol_filter(losses, 2 * 8 + 1, 1))  # half of the window is 0.08 of the steps
    np.testing.assert_allclose(curve(factors, losses).smooth[8:-8], expected[8:-8], rtol=1e-9)


def test_a_loss_that_never_falls_says_so():
    assert curve(np.geomspace(1, 10, 30).tolist(), np.linspace(1, 4, 30).tolist()).fell < 0.1


def test_too_few_steps_are_one_line(tmp_path):
    with pytest.raises(UserError, match="found 9 steps; a curve needs 10 or more"):
        find_rate(make_run(tmp_path, Toy()), phase(), 9)
    with pytest.raises(UserError, match="the loss is no number after 0 steps"):
        broken = {**toy_batches(5)(phase(), 0, 0)[0], "audio": torch.full((5, 4), math.nan)}
        find_rate(make_run(tmp_path, Toy(), batches=lambda phase, epoch, start: repeat(broken)), phase())
    with pytest.raises(UserError, match="nothing learns in this phase"):
        find_rate(make_run(tmp_path, Toy()), phase(rates={"*": None}))


# ---- the test itself


class Bowl(nn.Module):
    """Σ curvature · w² / 2: gradient descent diverges from the rate 2 / curvature on."""

    def __init__(self, curvature: float = 4.0):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.curvature = curvature

    def forward(self, batch):
        """{"index": (B,)} -> {"emotion": (B, 1)}"""
        return {"emotion": (self.curvature * self.w.square().sum() / 2).expand(len(batch["index"]), 1)}


def bowl_run(folder, model):
    return make_run(
        folder,
        model,
        batches=lambda phase, epoch, start: [{"index": torch.arange(2), "emotion": torch.zeros(2)}] * 7,
        hits=lambda out, batch: (torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)),
        score=lambda model: {"nll": float(model({"index": torch.arange(1)})["emotion"])},
    )


def bowl_phase(rate: float, **options):
    def loss(out, batch, *more):
        return out["emotion"].mean(), {}

    return phase(rates={"*": rate}, objective=loss, optimizer=lambda groups: sgd(groups, momentum=0.0), **options)


@pytest.mark.parametrize("rate", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("curvature", [4.0, 50.0, 1000.0])
def test_on_a_bowl_it_lies_below_the_rate_that_diverges_whatever_the_recipe_says(tmp_path, rate, curvature):
    found = find_rate(bowl_run(tmp_path, Bowl(curvature)), bowl_phase(rate), STEPS)
    diverges = 2 / curvature
    assert 0.005 * diverges < found.suggestion * rate < 0.5 * diverges and found.fell > 0.9
    assert found.losses[-1] > 2 * min(found.losses) and len(found.losses) < STEPS, "it stops once it diverges"
    rates = np.geomspace(LOWEST, HIGHEST, STEPS + 1)[: len(found.losses)]
    np.testing.assert_allclose([factor * rate for factor in found.factors], rates, rtol=1e-9)
    # every loss is what gradient descent at those rates gives
    w = 3 * curvature / 2 * np.cumprod(np.r_[1.0, (1 - rates * curvature)[:-1]]) ** 2
    falling = slice(0, int(np.argmax(w < 1e-6 * w[0])) or None)
    np.testing.assert_allclose(found.losses[falling], w[falling], rtol=1e-3)


def test_it_stops_at_a_multiple_of_the_lowest_running_mean(tmp_path):
    losses = find_rate(bowl_run(tmp_path, Bowl()), bowl_phase(1.0), STEPS).losses
    mean, unbiased = 0.0, []
    for step, loss in enumerate(losses, 1):
        mean = INERTIA * mean + (1 - INERTIA) * loss
        unbiased.append(mean / (1 - INERTIA**step))
    lowest = np.minimum.accumulate(unbiased)
    assert unbiased[-1] > STOP * lowest[-1] and all(
        value <= STOP * least for value, least in zip(unbiased[10:-1], lowest[10:-1], strict=True)
    )


def test_the_suggestion_trains_and_a_thousandth_of_it_does_not(tmp_path):
    given = phase(rates={"heads": 1e-2, "*": 1e-3})
    found = find_rate(make_run(tmp_path, Toy()), given, STEPS)

    def loss_with(factor: float) -> float:
        rates = {name: rate * factor for name, rate in given.rates.items() if rate}
        rows = fit(make_run(tmp_path / str(factor), Toy()), [replace(given, rates=rates, epochs=8)])
        return rows[-1]["train"]["loss"]

    good, timid = loss_with(found.suggestion), loss_with(found.suggestion / 1000)
    assert math.isfinite(good) and good < 0.8 * timid and found.fell > 0.1


def test_accumulated_batches_are_one_step(tmp_path):
    whole = find_rate(bowl_run(tmp_path, Bowl()), bowl_phase(1.0), STEPS)
    pieces = find_rate(bowl_run(tmp_path, Bowl()), bowl_phase(1.0, accumulate=3), STEPS)
    np.testing.assert_allclose(pieces.losses, whole.losses, rtol=1e-3)


def test_a_phase_that_prunes_is_tested_pruned(tmp_path):
    dense, pruned = (find_rate(make_run(tmp_path, Toy()), phase(prune=cut)).losses[0] for cut in (None, Prune(0.9)))
    assert dense != pruned


# ---- what it leaves


def test_weights_buffers_modes_learners_gradients_and_random_numbers_are_as_they_were(tmp_path):
    model = Toy()
    model.encoders["audio"].eval()
    model.register_buffer("passing", torch.zeros(2), persistent=False)
    model.get_parameter("heads.emotion.bias").requires_grad_(False)
    model.get_parameter("heads.emotion.weight").grad = gradient = torch.ones(3, 8)
    torch.manual_seed(5)
    expected, before = torch.rand(3), bits(model)
    modes = [module.training for module in model.modules()]
    learners = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    torch.manual_seed(5)

    found = find_rate(make_run(tmp_path, model, begin=lambda phase: model.get_buffer("passing").add_(1)), phase(), 20)
    assert found.losses[0] != found.losses[-1]
    assert torch.equal(torch.rand(3), expected) and equal(bits(model), before) and not model.get_buffer("passing").any()
    assert [module.training for module in model.modules()] == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == learners
    assert model.get_parameter("heads.emotion.weight").grad is gradient and bool((gradient == 1).all())
    assert list(tmp_path.iterdir()) == []
    assert find_rate(make_run(tmp_path, model), phase(), 20) == find_rate(make_run(tmp_path, model), phase(), 20)


def test_an_error_on_the_way_leaves_it_as_it_was_too():
    model = Toy()
    before = bits(model)
    with pytest.raises(RuntimeError), untouched(model, torch.device("cpu")):
        nn.init.zeros_(model.get_parameter("heads.emotion.weight"))
        raise RuntimeError
    assert equal(bits(model), before)


def test_the_factors_are_a_fixed_ratio_apart():
    schedule = exponential(1e-4, 1e4)
    assert [schedule(step / 8) for step in range(9)] == pytest.approx([10.0 ** (step - 4) for step in range(9)])
