"""Long-tail terms against torch's, torchvision's and scikit-learn's, and formulas worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from crossfade.clip import UNKNOWN, UserError
from crossfade.training import cross_entropy, focal, logit_adjusted
from crossfade.training.by_class import in_class_order
from crossfade.training.terms import Objective

COUNTS = {"cough": torch.tensor([60.0, 30.0, 10.0])}
TWO = {"cough": torch.tensor([10.0, 90.0])}


def batch_of(classes: int):
    generator = torch.Generator().manual_seed(classes)
    labels = torch.arange(8) % classes
    labels[5] = UNKNOWN
    return {"cough": torch.randn(8, classes, generator=generator).requires_grad_()}, {"cough": labels, "index": torch.arange(8)}


def loss_of(term, out, batch) -> torch.Tensor:
    return Objective({"it": term})(out, batch)[0]


# ---- weights of classes


def test_inverse_weights_are_scikit_learn_s_balanced():
    out, batch = batch_of(3)
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    expected = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=labels), dtype=torch.float32)
    values, _ = cross_entropy(COUNTS, target="cough", balance="inverse", smoothing=0.1)(out, batch)
    reference = functional.cross_entropy(
        out["cough"], batch["cough"], weight=expected, ignore_index=UNKNOWN, label_smoothing=0.1, reduction="none"
    )
    torch.testing.assert_close(values, reference)


def test_effective_numbers_by_hand():
    beta = 0.9
    raw = [(1 - beta) / (1 - beta**count) for count in (60, 30, 10)]
    expected = torch.tensor([each * 3 / sum(raw) for each in raw])
    out, batch = batch_of(3)
    values, known = cross_entropy(COUNTS, target="cough", balance="effective", beta=beta)(out, batch)
    plain, _ = cross_entropy(target="cough")(out, batch)
    torch.testing.assert_close(values[known], plain[known] * expected[batch["cough"][known]])
    assert values[~known].tolist() == [0.0]


def test_effective_numbers_lie_between_no_weights_and_inverse_ones():
    out, batch = batch_of(3)
    flat, _ = cross_entropy(COUNTS, target="cough", balance="effective", beta=0.0)(out, batch)
    torch.testing.assert_close(flat, cross_entropy(target="cough")(out, batch)[0])


def test_weights_by_class_are_bce_with_a_pos_weight():
    out, batch = batch_of(2)
    spec = in_class_order({"balance": {"non-cough": 1, "cough": 2.5}}, ["cough", "non-cough"], "phases.a.terms.label")
    values, known = cross_entropy(target="cough", **spec)(out, batch)
    logit = out["cough"][:, 0] - out["cough"][:, 1]
    reference = functional.binary_cross_entropy_with_logits(
        logit, (batch["cough"] == 0).float(), pos_weight=torch.tensor(2.5), reduction="none"
    )
    torch.testing.assert_close(values[known], reference[known])


def test_over_smooth_is_near_uniform_and_right():
    """Label Over-Smooth: at 0.98 of two classes the target is (0.51, 0.49), so the least loss lies at a logit difference of ln(51/49)."""
    logits = torch.zeros(1, 2, requires_grad=True)
    term = cross_entropy(target="cough", smoothing=0.98)
    values, _ = term({"cough": logits}, {"cough": torch.tensor([0]), "index": torch.tensor([0])})
    values.sum().backward()
    assert logits.grad is not None and logits.grad[0].tolist() == pytest.approx([0.5 - 0.51, 0.5 - 0.49], abs=1e-6)
    best = torch.tensor([[math.log(51 / 49), 0.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(term({"cough": best}, {"cough": torch.tensor([0]), "index": torch.tensor([0])})[0].sum(), best)
    assert slope.abs().max() < 1e-6


# ---- focal


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("alpha", [-1.0, 0.25])
def test_focal_of_two_classes_equals_torchvision_s(gamma, alpha):
    out, batch = batch_of(2)
    known = batch["cough"] != UNKNOWN
    given = None if alpha < 0 else [1 - alpha, alpha]  # torchvision's α is of class 1
    values, found = focal(target="cough", gamma=gamma, alpha=given)(out, batch)
    logit = out["cough"][:, 1] - out["cough"][:, 0]
    reference = sigmoid_focal_loss(logit, (batch["cough"] == 1).float(), alpha=alpha, gamma=gamma)
    torch.testing.assert_close(values[known], reference[known])
    assert torch.equal(found, known) and values[~known].tolist() == [0.0]


def test_focal_of_three_classes_by_hand():
    probability = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]])
    batch = {"cough": torch.tensor([0, 2]), "index": torch.arange(2)}
    values, _ = focal(target="cough", gamma=2, alpha=0.5)({"cough": probability.log()}, batch)
    assert values.tolist() == pytest.approx([0.5 * 0.09 * -math.log(0.7), 0.5 * 0.5625 * math.log(4)])
    balanced, _ = focal(COUNTS, target="cough", gamma=2, alpha="balanced")({"cough": probability.log()}, batch)
    assert balanced.tolist() == pytest.approx([100 / 180 * 0.09 * -math.log(0.7), 100 / 30 * 0.5625 * math.log(4)])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gamma_nought_is_cross_entropy(smoothing):
    out, batch = batch_of(3)
    ours = focal(target="cough", gamma=0, smoothing=smoothing)
    torch.testing.assert_close(loss_of(ours, out, batch), loss_of(cross_entropy(target="cough", smoothing=smoothing), out, batch))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_of_a_certain_answer_has_a_finite_slope(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    values, _ = focal(target="cough", gamma=gamma)({"cough": logits}, {"cough": torch.tensor([0, 0]), "index": torch.arange(2)})
    values.sum().backward()
    assert values[0] == 0 and logits.grad is not None and logits.grad.isfinite().all() and logits.grad[1, 0] < 0


# ---- logit adjustment


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_logit_adjustment_by_its_formula(tau):
    out, batch = batch_of(3)
    prior = torch.tensor([0.6, 0.3, 0.1])
    values, known = logit_adjusted(COUNTS, target="cough", tau=tau)(out, batch)
    for row in known.nonzero()[:, 0].tolist():
        logits, true = out["cough"][row].detach().double(), batch["cough"][row]
        others = sum((prior[c].double() / prior[true]) ** tau * (logits[c] - logits[true]).exp() for c in range(3) if c != true)
        assert values[row].item() == pytest.approx(math.log1p(others), rel=1e-5)  # eq. 10


def test_what_it_learns_is_balanced():
    """Where the inputs say nothing, the logits that fit it best are equal for all classes, however rare."""
    logits = torch.zeros(1, 2, requires_grad=True)
    labels = torch.tensor([0] * 10 + [1] * 90)
    term = logit_adjusted(TWO, target="cough")
    loss = loss_of(term, {"cough": logits.expand(100, 2)}, {"cough": labels, "index": labels})
    (slope,) = torch.autograd.grad(loss, logits)
    assert slope.abs().max() < 1e-6


def test_focal_with_tau_is_both():
    out, batch = batch_of(2)
    shifted = {"cough": out["cough"] + torch.tensor([0.1, 0.9]).log()}
    torch.testing.assert_close(loss_of(focal(TWO, target="cough", tau=1.0), out, batch), loss_of(focal(target="cough"), shifted, batch))


# ---- what a person is told


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda counts: cross_entropy(counts, target="cough", balance="inverse"), "cross_entropy.balance"),
        (lambda counts: focal(counts, target="cough", alpha="balanced"), "focal.alpha"),
        (lambda counts: focal(counts, target="cough", tau=1.0), "focal.tau"),
        (lambda counts: logit_adjusted(counts, target="cough"), "logit_adjusted.tau"),
    ],
)
def test_classes_that_nobody_counted_or_that_are_empty(make, says):
    out, batch = batch_of(2)
    term = make({})  # a recipe is only checked
    with pytest.raises(UserError, match=f"{says}: how many labelled clips"):
        term(out, batch)
    with pytest.raises(UserError, match=f"{says}: class 2 of cough has no labelled clip in train"):
        make({"cough": torch.tensor([5, 0])})
    with pytest.raises(UserError, match=f"{says}: found 3 numbers; the output has 2 classes"):
        make(COUNTS)(out, batch)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: focal(target="a", gamma=-1), "focal.gamma: found -1"),
        (lambda: focal(target="a", alpha=-1.0), "focal.alpha: found -1"),
        (lambda: focal(target="a", alpha=[0.0, 0.0]), r"focal.alpha: found \[0.0, 0.0\]"),
        (lambda: focal(target="a", smoothing=1.0), "focal.smoothing: found 1"),
        (lambda: logit_adjusted(target="a", tau=-0.5), "logit_adjusted.tau: found -0.5"),
        (lambda: cross_entropy(target="a", beta=1.0), "cross_entropy.beta: found 1"),
        (lambda: in_class_order({"alpha": {"cogh": 1}}, ["cough", "other"], "t"), "t.alpha: found 'cogh', nearest is 'cough'"),
        (lambda: in_class_order({"alpha": {"cough": 1}}, ["cough", "other"], "t"), "t.alpha: other has no value"),
    ],
)
def test_options_out_of_range(make, says):
    with pytest.raises(UserError, match=says):
        make()
