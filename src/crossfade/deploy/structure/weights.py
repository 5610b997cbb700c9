"""Weights moved across an alignment, BatchNorms folded into convolutions or made neutral where only one side has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crossfade.deploy.structure.align import Alignment, Pair
from crossfade.deploy.structure.layer import Layer, Stored
from crossfade.ncnn.convolutions import transposed

if TYPE_CHECKING:
    import numpy as np

Roles = dict[str, Tensor]
STATISTICS = ("weight", "bias", "running_mean", "running_var")
# how a source has a weight -> that weight as PyTorch has it
ARRANGEMENTS: dict[str, Callable[[Tensor, Layer], Tensor]] = {
    "as in PyTorch": lambda weight, layer: weight,
    "transposed": lambda weight, layer: weight.mT,
    "flat": lambda weight, layer: weight.reshape(-1),
    "outputs first": lambda weight, layer: transposed(weight, int(layer.fields["groups"])),  # pyright: ignore[reportArgumentType]
}


@dataclass(frozen=True)
class Moved:
    """A tensor of the target and the tensors of the source that it was made of."""

    target: str
    source: str


@dataclass(frozen=True)
class Left:
    """A tensor of one side that was not moved, and why."""

    name: str
    side: str
    reason: str


@dataclass(frozen=True)
class Transfer:
    moved: tuple[Moved, ...]
    left: tuple[Left, ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor of both sides was used."""
        return not self.left


def transfer(alignment: Alignment, source_weights: Mapping[str, np.ndarray | Tensor], target_module: nn.Module) -> Transfer:
    """Put the weights of `alignment.a`, by name, into the module that `alignment.b` was made of. What does not fit stays and is told."""
    held = {name: torch.as_tensor(value) for name, value in source_weights.items()}
    state = target_module.state_dict()
    moved: dict[str, Moved] = {}
    left: list[Left] = []
    with torch.no_grad():
        for pair in alignment.pairs:
            for layer, role, value, names in _values(alignment, pair, held):
                _put(layer, role, value, names, state, moved, left)
    used = {part for one in moved.values() for part in one.source.split(" + ")}
    told = {one.name for one in left}
    left += [Left(name, "target", "has no counterpart in the source") for name in _open(state, moved) if name not in told]
    left += [Left(name, "source", "has no counterpart in the target") for name in _open(held, used)]
    return Transfer(tuple(moved.values()), tuple(left))


def _open(names: Mapping[str, Tensor], used: Any) -> list[str]:
    return [name for name in names if name not in used and not name.endswith("num_batches_tracked")]


def _values(alignment: Alignment, pair: Pair, held: Mapping[str, Tensor]) -> Iterator[tuple[Layer, str, Tensor, str]]:
    """Layer of the target, role, what it gets, and the names of what that was made of."""
    a, b = alignment.a.layers[pair.a], alignment.b.layers[pair.b]
    roles, names = _roles(a, held), {role: stored.name for role, stored in a.weights.items()}
    for norm, into in alignment.folded_a.items():
        if into == pair.a:
            roles, names = _folded(alignment.a.layers[norm], a, roles, names, held)
    for norm, into in alignment.folded_b.items():
        if into == pair.b and roles:
            layer = alignment.b.layers[norm]
            yield from ((layer, role, value, names.get("bias", names["weight"])) for role, value in _neutral(layer, roles).items())
            roles = {**roles, "bias": torch.zeros(int(b.fields["outputs"]))}  # pyright: ignore[reportArgumentType]
    yield from ((b, role, roles[role], names.get(role, names.get("weight", ""))) for role in b.weights if role in roles)


def _roles(layer: Layer, held: Mapping[str, Tensor]) -> Roles:
    """The weights of a layer as PyTorch has them."""
    return {role: _arranged(held[stored.name], stored, layer) for role, stored in layer.weights.items() if stored.name in held}


def _arranged(value: Tensor, stored: Stored, layer: Layer) -> Tensor:
    return ARRANGEMENTS[stored.arrangement](value.float(), layer) if value.is_floating_point() else value


def _folded(norm: Layer, layer: Layer, roles: Roles, names: dict[str, str], held: Mapping[str, Tensor]) -> tuple[Roles, dict[str, str]]:
    """The weighted sum that does what it and the BatchNorm behind it do."""
    own = _roles(norm, held)
    if "running_var" not in own or "weight" not in roles:
        return roles, names
    eps = float(norm.fields["eps"])  # pyright: ignore[reportArgumentType]
    scale = own.get("weight", torch.ones_like(own["running_var"])) / (own["running_var"] + eps).sqrt()
    shift = own.get("bias", torch.zeros_like(scale)) + (roles.get("bias", torch.zeros_like(scale)) - own["running_mean"]) * scale
    together = " + ".join([*names.values(), *(stored.name for stored in norm.weights.values())])
    return {"weight": _scaled(roles["weight"], scale, layer), "bias": shift}, {"weight": together, "bias": together}


def _scaled(weight: Tensor, scale: Tensor, layer: Layer) -> Tensor:
    """Each output times its scale; a transposed convolution has its outputs second, within their group."""
    if "transposed" not in layer.kind:
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    groups = int(layer.fields["groups"])  # pyright: ignore[reportArgumentType]
    apart = weight.unflatten(0, (groups, -1)) * scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
    return apart.flatten(0, 1)


def _neutral(norm: Layer, roles: Roles) -> Roles:
    """A BatchNorm that does nothing but add the bias of the weighted sum before it."""
    channels, eps = int(norm.fields["channels"]), float(norm.fields["eps"])  # pyright: ignore[reportArgumentType]
    bias = roles.get("bias", torch.zeros(channels))
    values = (torch.full((channels,), (1 + eps) ** 0.5), bias, torch.zeros(channels), torch.ones(channels))
    return {role: value for role, value in zip(STATISTICS, values, strict=True) if role in norm.weights}


def _put(layer: Layer, role: str, value: Tensor, names: str, state: dict[str, Tensor], moved: dict[str, Moved], left: list[Left]) -> None:
    stored = layer.weights[role]
    target = state.get(stored.name)
    if target is None or not value.is_floating_point():
        reason = "is not in the module" if target is None else f"{names} is stored as {value.dtype}, not as a float"
        left.append(Left(stored.name, "target", reason))
        return
    wanted = value.mT if stored.arrangement == "transposed" else value
    fitted = wanted.reshape(target.shape) if role in FLAT and wanted.numel() == target.numel() else wanted
    if fitted.shape != target.shape:
        left.append(Left(stored.name, "target", f"is {tuple(target.shape)}, but {names} is {tuple(fitted.shape)}"))
        return
    target.copy_(fitted)
    moved[stored.name] = Moved(stored.name, names)


FLAT = ("bias", "constant")
