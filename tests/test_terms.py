"""Terms against PyTorch's losses, and who is left out of a mean."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from crossfade.clip import UNKNOWN, UserError
from crossfade.training.terms import Objective, cross_entropy


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 3, UNKNOWN, 2, UNKNOWN, 1])
    out = {name: torch.randn(6, 4, generator=generator).requires_grad_() for name in ("emotion", "emotion.audio", "emotion.video")}
    return out, {"emotion": labels, "index": torch.arange(6)}


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.3])
def test_it_equals_torch_with_smoothing_and_unknown_labels(batch, smoothing):
    out, labels = batch
    loss, means = Objective({"label": cross_entropy(target="emotion", smoothing=smoothing)})(out, labels)
    reference = functional.cross_entropy(out["emotion"], labels["emotion"], ignore_index=UNKNOWN, label_smoothing=smoothing)
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(means["label"], reference)
    (ours,) = torch.autograd.grad(loss, out["emotion"], retain_graph=True)
    (theirs,) = torch.autograd.grad(reference, out["emotion"])
    torch.testing.assert_close(ours, theirs)
    assert not ours[2].any() and not ours[4].any()


def test_values_are_per_clip(batch):
    values, known = cross_entropy(target="emotion")(*batch)
    assert values.shape == (6,) and known.tolist() == [True, True, False, True, False, True] and values[2] == 0


def test_terms_add_up_by_weight_and_are_reported_unweighted(batch):
    out, labels = batch
    terms = {"label": cross_entropy(target="emotion"), "ear": cross_entropy(target="emotion", output="emotion.audio", weight=0.3)}
    loss, means = Objective(terms)(out, labels)
    ear = functional.cross_entropy(out["emotion.audio"], labels["emotion"], ignore_index=UNKNOWN)
    torch.testing.assert_close(means["ear"], ear)
    torch.testing.assert_close(loss, means["label"] + 0.3 * ear)


def test_the_head_of_an_absent_stream_counts_for_nothing(batch):
    out, labels = batch
    terms = {"label": cross_entropy(target="emotion"), "ear": cross_entropy(target="emotion", output="emotion.audio")}
    whole, _ = Objective({"label": terms["label"]})(out, labels)
    loss, means = Objective(terms)({"emotion": out["emotion"]}, labels)
    assert torch.equal(loss, whole) and means["ear"] == 0


def test_no_known_label_gives_nought_and_no_gradient(batch):
    out, _ = batch
    loss, _ = Objective({"label": cross_entropy(target="emotion")})(out, {"emotion": torch.full((6,), UNKNOWN)})
    loss.backward()
    assert loss == 0 and not out["emotion"].grad.any()


def test_late_fusion_s_log_probabilities_make_it_the_nll_of_the_mean_probability(batch):
    out, labels = batch
    mean = (out["emotion.audio"].softmax(1) + out["emotion.video"].softmax(1)) / 2
    loss, _ = Objective({"label": cross_entropy(target="emotion")})({"emotion": mean.log()}, labels)
    torch.testing.assert_close(loss, functional.nll_loss(mean.log(), labels["emotion"], ignore_index=UNKNOWN))


def test_half_precision_outputs_are_judged_in_single(batch):
    out, labels = batch
    values, _ = cross_entropy(target="emotion")({"emotion": out["emotion"].bfloat16()}, labels)
    assert values.dtype == torch.float32


@pytest.mark.parametrize("options", [{"smoothing": 1.0}, {"smoothing": -0.1}, {"weight": -1.0}])
def test_options_out_of_range(options):
    with pytest.raises(UserError, match=f"cross_entropy.{next(iter(options))}: found"):
        cross_entropy(target="emotion", **options)
