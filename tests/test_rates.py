"""Who learns: patterns, coverage, groups, and that frozen means frozen, buffers too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossfade.clip import UserError
from crossfade.training import rates


class Staged(nn.Module):
    """Three stages with parameters, the first with BatchNorm and dropout, and a bare one in the middle and at the top."""

    def __init__(self):
        super().__init__()
        bottom = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.stages = nn.ModuleList(
            [bottom, nn.Dropout(0.5), nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), nn.Linear(8, 8), nn.Dropout(0.3)]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 4) -> (B, 8)"""
        for stage in self.stages:
            x = stage(x)
        return x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleDict({"audio": Staged(), "audio2": Staged()})
        self.heads = nn.ModuleDict({"emotion": nn.Linear(8, 3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 4) -> (B, 3)"""
        return self.heads["emotion"](self.encoders["audio"](x) + self.encoders["audio2"](x))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def learning(model, table):
    return {name: rate for name, rate in rates.resolve(model, table).items() if rate is not None}


def under(found, prefix):
    return {rate for name, rate in found.items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    ("pattern", "stages"),
    [("[-1:]", []), ("[-2:]", [3]), ("[:]", [0, 2, 3]), ("[:1]", [0]), ("[1:3]", [2]), ("[-3:-1]", [2, 3]), ("[2:2]", [])],
)
def test_slices_name_stages(model, pattern, stages):
    table = {f"encoders.audio{pattern}": 1.0, "*": None}
    if not stages:
        with pytest.raises(UserError, match="no stage there has parameters; it has 5 stages"):
            rates.resolve(model, table)
        return
    names = [name for name, _ in model.named_parameters()]
    assert list(learning(model, table)) == [n for n in names if n.startswith(tuple(f"encoders.audio.stages.{i}." for i in stages))]


def test_the_first_match_wins_and_a_name_is_whole(model):
    found = rates.resolve(model, {"encoders.audio[-2:]": 1e-5, "encoders.audio": None, "encoders": 1e-4, "*": 1e-3})
    assert under(found, "encoders.audio.stages.3") == {1e-5} and under(found, "encoders.audio.stages.0") == {None}
    assert under(found, "encoders.audio2.") == {1e-4} and under(found, "heads") == {1e-3}  # `audio` does not cover `audio2`


def test_stars_stand_for_anything(model):
    found = rates.resolve(model, {"encoders.*.stages.0": 1.0, "*.bias": 2.0, "*": 3.0})
    assert found["encoders.audio.stages.0.0.bias"] == found["encoders.audio2.stages.0.0.weight"] == 1.0
    assert found["heads.emotion.bias"] == 2.0 and found["heads.emotion.weight"] == 3.0


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"encoders": 1.0}, "r: no pattern covers heads.emotion.weight; add '*'"),
        ({"encoder": 1.0, "*": 1.0}, "r: the pattern 'encoder' decides nothing: nothing is called that; nearest is 'encoders'"),
        ({"encoders.audio3": 1.0, "*": 1.0}, "nearest is 'encoders.audio'"),
        ({"*": 1.0, "encoders.audio[-2:]": 1.0}, "earlier patterns already cover all of it; put the narrower pattern first"),
        ({"encoders": 1.0, "encoders.audio": None, "*": 1.0}, "the pattern 'encoders.audio' decides nothing: earlier patterns"),
        ({"heads[-1:]": 1.0, "*": 1.0}, "'heads[-1:]' names stages, but 'heads' has none; nearest is"),
        (
            {"encoders.audoi[-1:]": 1.0, "*": 1.0},
            "'encoders.audoi[-1:]' names stages, but 'encoders.audoi' has none; nearest is 'encoders.audio'",
        ),
        ({"encoders.audio[-:]": 1.0, "*": 1.0}, "decides nothing"),
        ({"encoders.audio[0]": 1.0, "*": 1.0}, "decides nothing"),
        ({}, "no pattern covers"),
    ],
)
def test_what_decides_nothing_or_is_forgotten_is_an_error(model, table, says):
    with pytest.raises(UserError) as caught:
        rates.resolve(model, table, where="r")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_groups_are_one_a_rate_highest_first_and_hold_each_parameter_once(model):
    found = rates.resolve(model, {"encoders.audio": 1e-4, "encoders": None, "*": 1e-2})
    groups = rates.groups(model, found)
    assert [(group["lr"], group["rate"]) for group in groups] == [(1e-2, 1e-2), (1e-4, 1e-4)]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    rates.freeze(model, found)
    assert len(set(held)) == len(held) and set(held) == {id(p) for p in model.parameters() if p.requires_grad}
    assert rates.groups(model, rates.resolve(model, {"*": None})) == []


def steps(model, table, count=4):
    found = rates.resolve(model, table)
    rates.freeze(model, found)
    rates.set_modes(model)
    optimizer = rates.adam(rates.groups(model, found), weight_decay=0.1)
    for _ in range(count):
        model(torch.randn(6, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_frozen_parts_are_bit_equal_after_real_steps_buffers_too(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steps(model, {"encoders.audio[2:]": 1e-2, "encoders": None, "*": 1e-2})
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    frozen = ("encoders.audio.stages.0.", "encoders.audio2.")
    assert moved == {name for name in before if not name.startswith(frozen)}
    assert any("running_mean" in name for name in moved) and any("num_batches" in name for name in moved)


def test_dropout_of_a_frozen_part_is_off_and_of_its_bare_stages_too(model):
    steps(model, {"encoders.audio[2:]": 1e-2, "encoders": None, "*": 1e-2}, count=1)
    audio, other = model.encoders["audio"], model.encoders["audio2"]
    x = torch.randn(5, 4)
    assert torch.equal(audio.stages[1](audio.stages[0](x)), audio.stages[1](audio.stages[0](x)))
    assert not any(module.training for module in other.modules()) and torch.equal(other(x), other(x))
    assert audio.stages[4].training and audio.training and model.training and not torch.equal(audio(x), audio(x))


def test_modes_follow_the_rates_both_ways(model):
    rates.freeze(model, rates.resolve(model, {"*": None}))
    rates.set_modes(model.train())
    assert not any(module.training for module in model.modules())
    rates.freeze(model, rates.resolve(model, {"*": 1.0}))
    rates.set_modes(model.eval())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (lambda groups: rates.adam(groups, weight_decay=0.1), lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1)),
        (lambda groups: rates.adamw(groups), lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01)),
        (lambda groups: rates.sgd(groups, nesterov=True), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
    ],
)
def test_optimizers_equal_torch(make, reference):
    ours, theirs = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    pair = [(ours, make([{"params": [ours], "lr": 0.1, "rate": 0.1}])), (theirs, reference([theirs]))]
    for _ in range(5):
        for parameter, optimizer in pair:
            optimizer.zero_grad()
            (parameter * torch.tensor([1.0, -2.0, 3.0])).square().sum().backward()
            optimizer.step()
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=0) and not torch.allclose(ours, torch.ones(3)), "fused, so rounded differently"
