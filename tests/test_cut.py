"""Cutting a network into stages: over many of timm's families the stages give, bit for bit, what timm gives; and what is not cut."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers._fx import get_notrace_functions
from torch import nn
from torch.nn import functional as F

from crossfade.models.cut import Uncuttable, cut
from crossfade.models.timm_image import Pooled
from crossfade.training.rates import set_modes

SIDE = 64
FAMILIES = {  # name -> options, least number of stages
    "resnet18": ({}, 9),
    "mobilenetv3_small_050": ({}, 13),
    "mobilenetv4_conv_small": ({}, 16),
    "tf_efficientnet_lite0": ({}, 18),
    "convnext_atto": ({}, 13),
    "vit_tiny_patch16_224": ({"img_size": SIDE}, 13),
    "deit_tiny_distilled_patch16_224": ({"img_size": SIDE, "depth": 3}, 4),
    "beit_base_patch16_224": ({"img_size": SIDE, "depth": 3, "embed_dim": 48, "num_heads": 3}, 4),
    "eva02_tiny_patch14_224": ({"img_size": 56, "depth": 3}, 4),
    "swin_tiny_patch4_window7_224": ({"img_size": SIDE, "depths": [1, 2, 2, 1], "embed_dim": 24}, 7),
    "mixer_s32_224": ({"img_size": SIDE}, 9),
    "levit_128s": ({"img_size": SIDE}, 12),
    "regnetx_002": ({}, 14),
    "repvgg_a0": ({}, 22),
    "ghostnet_050": ({}, 18),
    "edgenext_xx_small": ({}, 11),
    "fastvit_t8": ({}, 16),
    "mobilevit_xxs": ({}, 12),
    "poolformer_s12": ({}, 13),
    "densenet121": ({}, 5),
    "dla34": ({}, 5),
    "pvt_v2_b0": ({}, 5),
}


def whole(name: str, **options) -> Pooled:
    torch.manual_seed(0)
    return Pooled(timm.create_model(name, num_classes=0, **{**FAMILIES.get(name, ({}, 0))[0], **options}))


def pieces(net: Pooled, side: int = SIDE) -> list:
    return cut(net, (3, side, side), whole=tuple(get_notrace_functions()))


def pictures(side: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def after(stages: list, x: torch.Tensor) -> list[torch.Tensor]:
    """The input, and what leaves each stage."""
    states = [x]
    for stage in stages:
        states.append(stage(states[-1].clone()))
    return states


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_stages_of_a_family_give_what_timm_gives(name: str):
    options, least = FAMILIES[name]
    side = options.get("img_size", SIDE)
    net, x = whole(name), pictures(side)
    reference = copy.deepcopy(net)
    stages = pieces(net, side)
    assert len(stages) >= least and all(any(p.ndim > 1 for p in stage.parameters()) for stage in stages)
    for training in (False, True):
        torch.manual_seed(2)  # swin and ghostnet drop at random by default
        expected = reference.train(training)(x)
        torch.manual_seed(2)
        states = after([stage.train(training) for stage in stages], x)
        assert torch.equal(states[-1], expected), "eval" if not training else "train"
        assert all(len(state) == len(x) for state in states)
    theirs = reference.state_dict()
    ours = [(entry, tensor) for stage in stages for entry, tensor in stage.state_dict().items()]
    assert len(dict(ours)) == len(ours) and set(dict(ours)) <= set(theirs), "timm's own names, each once"
    assert all(torch.equal(tensor, theirs[entry]) for entry, tensor in ours), "the running statistics too"


@pytest.mark.parametrize(
    "name", ["mobilenetv4_conv_small", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224"]
)
@torch.no_grad()
def test_going_on_from_any_stored_state_gives_the_same(name: str):
    side = FAMILIES[name][0].get("img_size", SIDE)
    stages = [stage.eval() for stage in pieces(whole(name), side)]
    states = after(stages, pictures(side))
    other = after(stages, pictures(side).flip(0))[-1]  # another run in between leaves nothing behind
    for start, state in enumerate(states):
        assert torch.equal(after(stages[start:], state)[-1], states[-1])
    assert torch.equal(other.flip(0), states[-1]) or torch.allclose(other.flip(0), states[-1], atol=1e-5)


@torch.no_grad()
def test_stages_take_pictures_of_other_sizes_and_other_batches():
    net = whole("mobilenetv4_conv_small").eval()
    reference, stages = copy.deepcopy(net), pieces(net)
    for side, count in ((96, 1), (33, 5)):
        assert torch.equal(after(stages, pictures(side, count))[-1], reference(pictures(side, count)))


def test_cutting_costs_no_luck_and_changes_nothing():
    net = whole("mobilenetv3_small_050").train()
    net.net.blocks.eval()
    modes, weights, luck = [m.training for m in net.modules()], copy.deepcopy(net.state_dict()), torch.get_rng_state()
    pieces(net)
    assert modes == [m.training for m in net.modules()] and torch.equal(luck, torch.get_rng_state())
    assert all(torch.equal(weights[entry], tensor) for entry, tensor in net.state_dict().items())


def test_a_dropout_that_is_called_as_a_function_follows_the_mode():
    stages = pieces(whole("resnet18", drop_rate=0.5))
    x = pictures(SIDE)
    for stage in stages:
        stage.requires_grad_(False)
    ours = nn.ModuleList(stages)
    set_modes(ours)
    assert torch.equal(after(stages, x)[-1], after(stages, x)[-1]), "frozen: no dropout"
    stages[-1].requires_grad_(True)
    set_modes(ours)
    assert (after(stages, x)[-1] == 0).float().mean() > 0.3
    reference = whole("resnet18", drop_rate=0.5).train()
    torch.manual_seed(3)
    expected = reference(x)
    torch.manual_seed(3)
    assert torch.equal(after([stage.train() for stage in stages], x)[-1], expected)


def test_the_last_norm_goes_with_the_last_block_and_the_positions_with_the_stem():
    stages = pieces(whole("vit_tiny_patch16_224"))
    parts = [{name.split(".")[1] for name in stage.state_dict()} for stage in stages]
    assert parts[0] == {"patch_embed", "cls_token", "pos_embed"} and parts[-1] == {"blocks", "norm"}
    assert all(part == {"blocks"} for part in parts[1:-1])


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        x = self.a(x)
        return (self.b(x) if x.sum() > 0 else x).mean((2, 3))


class Moody(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.a(x.mean((2, 3)))
        return self.b(x) if self.training else self.b(x) * 2


class Tied(nn.Module):
    """One weight at both ends: between them there is no place to cut."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(self.middle(self.first(x.mean((2, 3)))))


class Entangled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = x.mean((2, 3))
        y = self.a(x)
        return x + y + self.c(y + self.b(x))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x):
        x = F.dropout(self.a(x.mean((2, 3))), 0.25, self.training)
        return self.b(x * self.scale.exp())


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (Conditional(), "cannot be followed"),
        (Moody(), "something else while training"),
        (Tied(), "more than one tensor"),
        (Entangled(), "more than one tensor"),
    ],
)
def test_what_cannot_be_cut_says_why(net: nn.Module, why: str):
    with pytest.raises(Uncuttable, match=why):
        cut(net, (3, 8, 8))


@torch.no_grad()
def test_a_network_of_single_layers_is_cut_between_these():
    net, x = Functional().eval(), torch.randn(2, 3, 8, 8)
    first, second = cut(net, (3, 8, 8))
    assert torch.equal(second(first(x)), net(x))
    assert [sorted(stage.state_dict()) for stage in (first, second)] == [["a.bias", "a.weight"], ["b.bias", "b.weight", "scale"]]
