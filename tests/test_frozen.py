"""What stands still is read off a model, and named by every bit of its weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from crossfade.models import HEADS, MERGERS, MIXERS
from crossfade.models.audio import light_cnn
from crossfade.models.encoder import Encoder
from crossfade.models.model import Fused
from crossfade.models.video import frame_cnn
from crossfade.training import rates
from crossfade.training.frozen import Frozen, digest, frozen, leading


def model(*, merge: str = "gated", mix: bool = True, drop_stream: float = 0.0) -> Fused:
    torch.manual_seed(0)
    encoders: dict[str, Encoder] = {"audio": light_cnn(width=16, tokens=2), "video": frame_cnn(width=4)}
    dims = {name: encoder.dim for name, encoder in encoders.items()}
    mixers = [MIXERS["cross_attention"](dims, dim=16, heads=2)] if mix else []
    merger = MERGERS[merge](mixers[0].dims if mix else dims)
    heads = {name: HEADS["linear"](width, 3) for name, width in merger.dims.items()}
    return Fused(encoders, mix=mixers, merge=merger, heads={"emotion": heads}, drop_stream=drop_stream)


def by(net: Fused, table: dict[str, float | None]) -> Frozen:
    rates.freeze(net, rates.resolve(net, table))
    return frozen(net)


# ---- how far


@pytest.mark.parametrize(
    ("table", "stages"),
    [
        ({"*": 1.0}, {}),
        ({"encoders": None, "*": 1.0}, {"audio": 4, "video": 4}),
        ({"encoders.audio": None, "*": 1.0}, {"audio": 4}),
        ({"encoders.audio[-1:]": 1.0, "encoders.video[-2:]": 1.0, "encoders": None, "*": 1.0}, {"audio": 3, "video": 2}),
        ({"encoders.audio[:1]": 1.0, "encoders": None, "*": 1.0}, {"video": 4}),
        ({"encoders.audio[1:2]": 1.0, "encoders": None, "*": 1.0}, {"audio": 1, "video": 4}),
        ({"encoders.video.stages.3.body.conv.1": 1.0, "encoders.video": None, "*": 1.0}, {"video": 3}),
    ],
)
def test_the_leading_stages_in_which_nothing_learns(table, stages):
    assert by(model(), table) == Frozen(stages, False)


def test_stages_without_parameters_stand_still_with_those_before_them():
    net = model()
    net.encoders["audio"].stages.insert(1, nn.Identity())
    net.encoders["video"].stages.insert(0, nn.Identity())
    assert by(net, {"encoders.audio[:1]": None, "*": 1.0}) == Frozen({"audio": 2}, False)
    assert by(net, {"*": 1.0}) == Frozen({}, False), "with no frozen parameter there is nothing worth keeping"
    assert by(net, {"encoders.video[:2]": None, "*": 1.0}) == Frozen({"video": 2}, False)


def test_leading_counts_up_to_the_first_that_learns():
    stages = [nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2)]
    assert leading(stages) == 0
    stages[0].requires_grad_(False)
    assert leading(stages) == 2
    stages[3].requires_grad_(False)
    assert leading(stages) == 2
    assert leading(stages[:2]) == 2 and leading([]) == 0


HEADS_ALONE: dict[str, float | None] = {"heads": 1.0, "*": None}
WHOLE = {"audio": 4, "video": 4}


def test_the_fusion_stands_still_where_all_before_the_heads_does():
    assert by(model(), HEADS_ALONE) == Frozen(WHOLE, True)
    assert by(model(mix=False), HEADS_ALONE) == Frozen(WHOLE, True)
    assert by(model(), {"heads": 1.0, "merge": 1.0, "*": None}) == Frozen(WHOLE, False)
    assert by(model(), {"heads": 1.0, "mix": 1.0, "*": None}) == Frozen(WHOLE, False)
    assert by(model(), {"heads": 1.0, "encoders.audio[-1:]": 1.0, "*": None}) == Frozen({"audio": 3, "video": 4}, False)


def test_a_fusion_that_drops_streams_is_never_a_function_of_the_clip():
    assert by(model(drop_stream=0.1), HEADS_ALONE) == Frozen(WHOLE, False)


def test_a_fusion_without_weights_is_not_worth_a_shelf_of_its_own():
    assert by(model(merge="each", mix=False), HEADS_ALONE) == Frozen(WHOLE, False)
    assert by(model(merge="each"), HEADS_ALONE) == Frozen(WHOLE, True)


@pytest.mark.parametrize("table", [{"encoders": None, "*": 1.0}, HEADS_ALONE])
def test_what_is_frozen_gives_the_same_bits_while_the_rest_trains(table):
    """The promise behind the store: no dropout, no BatchNorm drift, no draw."""
    net = model()
    stops = by(net, table).stages
    rates.set_modes(net)
    given = {"audio": torch.randn(4, 1, 64, 20), "video": torch.randn(4, 2, 3, 16, 16)}
    given |= {"audio.mask": torch.ones(4, 20, dtype=torch.bool), "video.mask": torch.ones(4, 2, dtype=torch.bool)}
    before = net.states(given, stops)
    optimizer = torch.optim.Adam([parameter for parameter in net.parameters() if parameter.requires_grad], lr=0.1)
    for seed in range(3):
        torch.manual_seed(seed)
        net(given)["emotion"].square().sum().backward()
        optimizer.step()
    after = net.states(given, stops)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    torch.manual_seed(0)
    drawn = torch.rand(())
    torch.manual_seed(0)
    net.states(given, stops)
    assert torch.equal(torch.rand(()), drawn), "nothing was drawn, so what comes later draws the same with and without the store"


# ---- what it is called


def parts() -> dict[str, nn.Sequential]:
    torch.manual_seed(0)
    return {"stages": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4, dtype=torch.bfloat16))}


def flip(tensor: torch.Tensor) -> None:
    """One bit, the lowest."""
    flat = tensor.data.view(-1)[-1:].view(torch.uint8)
    flat[0] ^= 1


def test_equal_weights_have_one_name():
    assert digest(parts()) == digest(parts()) and len(digest(parts())) == 32


@pytest.mark.parametrize("entry", [f"0.{name}" for name in ("weight", "bias")] + ["2.weight"])
def test_a_bit_of_a_parameter_changes_the_name(entry: str):
    changed = parts()
    flip(changed["stages"].get_parameter(entry))
    assert digest(changed) != digest(parts())


@pytest.mark.parametrize("entry", ["running_mean", "running_var", "num_batches_tracked"])
def test_a_bit_of_a_buffer_changes_the_name(entry: str):
    changed = parts()
    flip(changed["stages"].get_buffer(f"1.{entry}"))
    assert digest(changed) != digest(parts())


CHANGES: dict[str, Callable[[dict[str, nn.Sequential]], dict[str, nn.Module]]] = {
    "another name": lambda given: {"other": given["stages"]},
    "a part more": lambda given: {**given, "merge": nn.Linear(1, 1)},
    "another order": lambda given: {"stages": nn.Sequential(*reversed(list(given["stages"])))},
    "a stage less": lambda given: {"stages": given["stages"][:2]},
}


@pytest.mark.parametrize("change", CHANGES)
def test_so_does(change: str):
    assert digest(CHANGES[change](parts())) != digest(parts())


def test_shape_and_type_belong_to_the_name():
    def zeros(*shape: int, dtype=torch.float32) -> str:
        module = nn.Module()
        module.register_buffer("x", torch.zeros(shape, dtype=dtype))
        return digest({"part": module})

    names = [zeros(2, 3), zeros(3, 2), zeros(6), zeros(6, dtype=torch.int32), zeros(12, dtype=torch.float16), zeros(0), zeros()]
    assert len(set(names)) == len(names)


def test_learning_or_not_and_the_mode_do_not_belong_to_it():
    changed = parts()
    changed["stages"].requires_grad_(False).eval()
    assert digest(changed) == digest(parts())
    strided = parts()
    strided["stages"].get_parameter("0.weight").data = strided["stages"].get_parameter("0.weight").data.T.contiguous().T
    assert digest(strided) == digest(parts())
