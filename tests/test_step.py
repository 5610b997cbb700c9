"""Batches that the memory does not hold go through in parts, and learn the same."""

from __future__ import annotations

import pytest
import test_loop
import torch
from test_loop import Toy, Y, bits, equal, make_run, phase, toy_batches

from crossfade.clip import UNKNOWN, UserError
from crossfade.judge import in_halves
from crossfade.training.loop import fit


class Small(Toy):
    """A model on a device that holds so many clips at once."""

    def __init__(self, holds: int):
        super().__init__()
        self.holds = holds
        self.sizes: list[int] = []

    def forward(self, batch):
        """{"audio": (B, 4)} -> {"emotion": (B, C)}"""
        clips = len(batch["index"])
        if clips > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.sizes.append(clips)
        return super().forward(batch)


def test_halves_until_it_fits_and_learns_the_same(tmp_path):
    whole, small = Toy(), Small(holds=2)
    fit(make_run(tmp_path / "whole", whole, batches=toy_batches(8)), [phase()])
    run = make_run(tmp_path / "small", small, batches=toy_batches(8), score=lambda model: {"nll": 0.0})
    fit(run, [phase()])
    assert max(small.sizes) == 2 and run.parts == 4
    assert [text.partition(":")[0] for text in run.screen.warnings] == [
        "out of memory with 8 clips at once",
        "out of memory with 4 clips at once",
    ]


def test_gradients_of_parts_are_those_of_the_whole(tmp_path, monkeypatch):
    """Without dropout and BatchNorm, parts give the same weights to rounding."""

    monkeypatch.setattr(test_loop, "Y", Y.masked_fill(torch.arange(len(Y)) % 5 < 2, UNKNOWN))  # parts with few and with many known labels

    class Plain(Small):
        def __init__(self, holds: int):
            super().__init__(holds)
            self.encoders["audio"] = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh())

    found = []
    for holds in (100, 3):
        model = Plain(holds)
        fit(make_run(tmp_path / str(holds), model, batches=toy_batches(8), score=lambda model: {"nll": 0.0}), [phase(epochs=2)])
        found.append(bits(model))
    assert not equal(*found)
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-6)


def test_says_what_to_set_where_no_part_is_small_enough(tmp_path):
    with pytest.raises(UserError, match=r"out of memory with 1 clips at once; set data.batch=1 and accumulate=2"):
        fit(make_run(tmp_path, Small(holds=0), batches=toy_batches(8)), [phase()])


def test_other_errors_stay_what_they_are(tmp_path):
    class Broken(Toy):
        def forward(self, batch):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        fit(make_run(tmp_path, Broken(), batches=toy_batches(8)), [phase()])


def test_answers_come_in_halves():
    def call(batch):
        if len(batch["x"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"y": 2 * batch["x"]}

    x = torch.arange(10.0)
    assert torch.equal(in_halves(call, {"x": x, "index": x})["y"], 2 * x)
