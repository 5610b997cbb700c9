"""Each of many small changes to a MobileNetV2 is found at its layer, with its grade, and nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from crossfade.deploy.structure import from_torch
from crossfade.deploy.structure.compare import Comparison, compare
from crossfade.deploy.structure.layer import Structure

PICTURE = (torch.rand(1, 3, 64, 64),)
Edit = Callable[[nn.Module], None]


def put(path: str, module: nn.Module) -> Edit:
    def edit(model: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module)

    return edit


def changed(path: str, **fields: object) -> Edit:
    """A convolution or other module with some arguments of its own changed."""

    def edit(model: nn.Module) -> None:
        old = model.get_submodule(path)
        assert isinstance(old, nn.Conv2d)
        told = {"kernel_size": old.kernel_size, "stride": old.stride, "padding": old.padding, "dilation": old.dilation}
        told |= {"groups": old.groups, "bias": old.bias is not None, "padding_mode": old.padding_mode, **fields}
        sizes = {"in_channels": old.in_channels, "out_channels": old.out_channels}
        put(path, nn.Conv2d(**{**sizes, **told}))(model)  # pyright: ignore[reportArgumentType]

    return edit


def several(*edits: Edit) -> Edit:
    def edit(model: nn.Module) -> None:
        for one in edits:
            one(model)

    return edit


def swapped(path: str, one: int, other: int) -> Edit:
    def edit(model: nn.Module) -> None:
        parts = model.get_submodule(path)
        assert isinstance(parts, nn.Sequential)
        parts[one], parts[other] = parts[other], parts[one]

    return edit


def inserted(path: str, place: int, module: nn.Module) -> Edit:
    def edit(model: nn.Module) -> None:
        parts = model.get_submodule(path)
        assert isinstance(parts, nn.Sequential)
        parts.insert(place, module)

    return edit


def without(path: str, place: int) -> Edit:
    def edit(model: nn.Module) -> None:
        parts = model.get_submodule(path)
        assert isinstance(parts, nn.Sequential)
        del parts[place]

    return edit


def no_residual(path: str) -> Edit:
    return lambda model: setattr(model.get_submodule(path), "use_res_connect", False)


def pooled_by(pool: nn.Module) -> Edit:
    """torchvision pools in the forward, so that the head pools before it, where its own pooling changes nothing."""

    class Pooled(nn.Module):
        def __init__(self, model: Any):
            super().__init__()
            self.features, self.pool, self.classifier = model.features, pool, model.classifier

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(self.pool(self.features(x)).flatten(1))

    return lambda model: setattr(model, "forward", Pooled(model).forward)


class Other(nn.Module):
    """A residual that takes another layer's values, as a mistake in wiring would."""

    def __init__(self, block: Any):
        super().__init__()
        self.conv = block.conv

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for part in self.conv[:2]:
            y = part(y)
        z = self.conv[3](self.conv[2](y))
        return z + z


def wired(path: str) -> Edit:
    return lambda model: put(path, Other(model.get_submodule(path)))(model)


class Scaled(nn.Module):
    def __init__(self, block: Any):
        super().__init__()
        self.conv = block.conv

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x)


def multiplied(path: str) -> Edit:
    return lambda model: put(path, Scaled(model.get_submodule(path)))(model)


# what is done -> edit, (layer, field, grade) as they have to be told; of a layer that is only in the other network, its name there
EDITS: dict[str, tuple[Edit, list[tuple[str, str, str]]]] = {
    "stride": (changed("features.4.conv.1.0", stride=1), [("features.4.conv.1.0", "stride", "P0")]),
    "stride of a row": (changed("features.0.0", stride=(1, 2)), [("features.0.0", "stride", "P0")]),
    "padding": (changed("features.14.conv.1.0", padding=0), [("features.14.conv.1.0", "padding", "P0")]),
    "dilation": (
        changed("features.8.conv.1.0", dilation=2, padding=2),
        [("features.8.conv.1.0", "dilation", "P0"), ("features.8.conv.1.0", "padding", "P0")],
    ),
    "kernel": (
        changed("features.11.conv.1.0", kernel_size=5, padding=2),
        [("features.11.conv.1.0", "kernel", "P0"), ("features.11.conv.1.0", "padding", "P0")],
    ),
    "kernel of a 1 x 1": (
        changed("features.7.conv.2", kernel_size=3, padding=1),
        [("features.7.conv.2", "kernel", "P0"), ("features.7.conv.2", "padding", "P0")],
    ),
    "groups": (changed("features.9.conv.1.0", groups=96), [("features.9.conv.1.0", "groups", "P0")]),
    "no groups": (changed("features.3.conv.1.0", groups=1), [("features.3.conv.1.0", "groups", "P0")]),
    "bias": (changed("features.6.conv.0.0", bias=True), [("features.6.conv.0.0", "bias", "P1")]),
    "padding mode": (changed("features.2.conv.1.0", padding_mode="reflect"), [("features.2.conv.1.0", "padding mode", "P1")]),
    "channels": (
        several(
            changed("features.12.conv.0.0", out_channels=500),
            put("features.12.conv.0.1", nn.BatchNorm2d(500)),
            changed("features.12.conv.1.0", in_channels=500, out_channels=500, groups=500),
            put("features.12.conv.1.1", nn.BatchNorm2d(500)),
            changed("features.12.conv.2", in_channels=500),
        ),
        [("features.12.conv.0.0", "outputs", "P0")],
    ),
    "channels of a block": (
        several(
            changed("features.1.conv.1", out_channels=20),
            put("features.1.conv.2", nn.BatchNorm2d(20)),
            changed("features.2.conv.0.0", in_channels=20),
        ),
        [("features.1.conv.1", "outputs", "P0")],
    ),
    "classes": (put("classifier.1", nn.Linear(1280, 10)), [("classifier.1", "outputs", "P0")]),
    "activation": (put("features.10.conv.1.2", nn.ReLU()), [("features.10.conv.1.2", "function", "P1")]),
    "another activation": (put("features.13.conv.0.2", nn.Hardswish()), [("features.13.conv.0.2", "function", "P1")]),
    "leaky": (
        put("features.13.conv.0.2", nn.LeakyReLU(0.1)),
        [("features.13.conv.0.2", "function", "P1"), ("features.13.conv.0.2", "slope", "P1")],
    ),
    "normalisation": (put("features.7.conv.0.1", nn.GroupNorm(1, 192)), [("features.7.conv.0.1", "kind", "P1")]),
    "eps": (put("features.14.conv.3", nn.BatchNorm2d(160, eps=1e-3)), [("features.14.conv.3", "eps", "P2")]),
    "pooling": (pooled_by(nn.AdaptiveMaxPool2d(1)), [("adaptive_avg_pool2d", "function", "P1")]),
    "missing activation": (without("features.5.conv.0", 2), [("features.5.conv.0.2", "missing", "P1")]),
    "missing normalisation": (without("features.16.conv", 3), [("features.16.conv.3", "missing", "P0")]),
    "missing convolution": (
        several(without("features.15.conv.1", 2), without("features.15.conv.1", 1), without("features.15.conv.1", 0)),
        [("features.15.conv.1.0", "missing", "P0"), ("features.15.conv.1.1", "missing", "P0"), ("features.15.conv.1.2", "missing", "P1")],
    ),
    "extra convolution": (inserted("features.6.conv", 2, nn.Conv2d(192, 192, 1)), [("features.6.conv.2", "extra", "P0")]),
    "extra activation": (inserted("features.11.conv", 4, nn.ReLU6()), [("features.11.conv.4", "extra", "P1")]),
    "extra pooling": (inserted("features", 4, nn.AvgPool2d(3, 1, 1)), [("features.4", "extra", "P1")]),
    "order of two": (swapped("features.9.conv.0", 1, 2), [("features.9.conv.0.1|features.9.conv.0.2", "order", "P0")]),
    "residual removed": (no_residual("features.8"), [("features.8.add", "missing", "P0")]),
    "residual of another": (wired("features.12"), [("features.12.add", "wiring", "P0")]),
    "product for sum": (multiplied("features.15"), [("features.15.add", "kind", "P0")]),
}


@pytest.fixture(scope="module")
def original() -> tuple[nn.Module, Structure]:
    torch.manual_seed(0)
    model = mobilenet_v2(weights=None).eval()
    return model, from_torch.of(model, PICTURE)


def told(comparison: Comparison) -> list[tuple[str, str, str]]:
    return [(one.a or one.b, one.field, one.grade) for one in comparison.own]


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_found_and_graded(name: str, original: tuple[nn.Module, Structure]):
    model, structure = copy.deepcopy(original[0]), original[1]
    edit, expected = EDITS[name]
    edit(model)
    other = from_torch.of(model, PICTURE)
    found = told(compare(structure, other))
    assert len(found) == len(expected)
    for (layer, field, grade), (where, *rest) in zip(found, expected, strict=True):
        assert layer in where.split("|") and [field, grade] == rest
    back = compare(other, structure)
    assert len(back.own) == len(expected) and {one.grade for one in back.own} == {grade for *_, grade in expected}


def test_there_are_enough_edits():
    assert len(EDITS) >= 20


def test_identical_for_identical(original: tuple[nn.Module, Structure]):
    again = compare(original[1], from_torch.of(copy.deepcopy(original[0]), PICTURE))
    assert again.verdict == "identical" and not again.differences
    assert original[1].parameters == sum(p.numel() for p in original[0].parameters()) == 3_504_872
