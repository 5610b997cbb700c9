"""Targets of which a clip may have several classes: labels in batches, the term, and who is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossfade.clip import UNKNOWN, Clip, UserError, classes_in
from crossfade.data.chosen import Chosen, of_clip
from crossfade.data.loader import known_labels, label_sets
from crossfade.training.balance import root
from crossfade.training.binary import binary_cross_entropy

CLASSES = ["graze", "run", "walk"]


def clip(label: str | None, name: str = "a") -> Clip:
    return Clip(name, {"video": Path("a.mp4")}, {} if label is None else {"action": label}, name)


def test_labels_are_sets():
    clips = [clip("walk|graze"), clip("|"), clip(None), clip("run")]
    found = label_sets(clips, "action", CLASSES)
    assert found.tolist() == [[1, 0, 1], [0, 0, 0], [UNKNOWN] * 3, [0, 1, 0]]
    assert known_labels(found).tolist() == [True, True, False, True]
    assert known_labels(torch.tensor([2, UNKNOWN])).tolist() == [True, False]
    assert classes_in(" walk | graze ") == ["walk", "graze"]


def test_is_pytorchs_binary_cross_entropy_over_the_known():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3), torch.tensor([[1.0, 0, 1], [0, 0, 0], [UNKNOWN] * 3, [0, 1, 0]])
    counts = {"action": torch.tensor([[3.0, 1, 2], [1, 3, 2]])}
    for balance, weights in (("none", None), ("inverse", [3, 1 / 3, 1]), ("root", [3**0.5, 3**-0.5, 1]), ([1.0, 2.0, 3.0], [1, 2, 3])):
        term = binary_cross_entropy(counts, target="action", balance=balance)
        values, known = term({"action": logits}, {"action": labels, "index": torch.arange(4)})
        assert known.tolist() == [True, True, False, True]
        expected = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, labels.clamp_min(0), pos_weight=None if weights is None else torch.tensor(weights), reduction="none"
        ).mean(1)
        torch.testing.assert_close(values[known], expected[known])
        assert values[2] == 0


def test_smoothing_moves_both_ends():
    term = binary_cross_entropy(target="action", smoothing=0.2)
    values, _ = term({"action": torch.zeros(1, 2)}, {"action": torch.tensor([[1.0, 0.0]]), "index": torch.arange(1)})
    torch.testing.assert_close(values, torch.full((1,), 2.0).log())
    sure, _ = term({"action": torch.tensor([[4.0, -4.0]])}, {"action": torch.tensor([[1.0, 0.0]]), "index": torch.arange(1)})
    yes = torch.tensor(4.0)
    torch.testing.assert_close(sure[0], -(0.9 * yes.sigmoid().log() + 0.1 * (-yes).sigmoid().log()))


def test_a_class_that_all_or_none_have_has_no_balance():
    with pytest.raises(UserError, match=r"binary_cross_entropy.balance: all or none of the labelled clips in train have class 2 of action"):
        binary_cross_entropy({"action": torch.tensor([[3.0, 4, 2], [1, 0, 2]])}, target="action", balance="inverse")


def test_root_weights_have_mean_one_over_the_clips():
    counts = torch.tensor([100.0, 25.0, 4.0])
    weights = root(counts)
    torch.testing.assert_close(weights / weights[0], torch.tensor([1.0, 2.0, 5.0]))
    torch.testing.assert_close((weights * counts).sum(), counts.sum())


def test_augmentations_for_some_classes():
    class Louder:
        domain = "waveform"

        def __call__(self, x, generator):
            return 2 * x

    rare, all_ = Chosen(Louder(), {"action": ["run"]}, "waveform"), Louder()
    assert of_clip([rare, all_], clip("walk|graze")) == [all_]
    assert of_clip([rare, all_], clip("walk|run")) == [rare, all_]
    assert of_clip([rare, all_], clip(None)) == [all_]
    assert torch.equal(rare(torch.ones(2), torch.Generator()), torch.full((2,), 2.0))
