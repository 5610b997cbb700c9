"""Who learns, and how fast: pattern -> learning rate, first match wins, null = frozen, and frozen means frozen.

A pattern is a dotted path (`encoders.audio`, `heads`, `*`), in which `*` stands for anything and a slice names stages:
`encoders.audio[-2:]` is the last two stages of that encoder. Every parameter must be covered and every pattern used.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping
from fnmatch import translate

from torch import nn, optim

from crossfade.clip import UserError

Rates = Mapping[str, float | None]
SLICE = re.compile(r"^(?P<path>.+)\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\]$")


def resolve(model: nn.Module, rates: Rates, *, where: str = "rates") -> dict[str, float | None]:
    """Each parameter's rate by name. Errors name the parameter no pattern covers or the pattern nothing needs."""
    matchers = {pattern: _matcher(model, pattern, where) for pattern in rates}
    found: dict[str, float | None] = {}
    used: set[str] = set()
    for name, _ in model.named_parameters():
        pattern = next((pattern for pattern, matches in matchers.items() if matches(name)), None)
        if pattern is None:
            raise UserError(f"{where}: no pattern covers {name}; add '*': a rate for all the rest, or null to freeze it")
        used.add(pattern)
        found[name] = rates[pattern]
    for pattern in rates:
        if pattern not in used:
            raise UserError(f"{where}: the pattern {pattern!r} decides nothing: {_why_unused(model, pattern)}")
    return found


def _matcher(model: nn.Module, pattern: str, where: str):
    sliced = SLICE.match(pattern)
    if not sliced:
        return _dotted(pattern)
    path = sliced["path"]
    start, stop = (int(text) if text else None for text in (sliced["start"], sliced["stop"]))
    try:
        stages = model.get_submodule(path).stages
    except AttributeError:
        raise UserError(f"{where}: {pattern!r} names stages, but {path!r} has none; {_nearest(model, path)}") from None
    note = getattr(model.get_submodule(path), "note", "")
    if len(stages) == 1 and note:  # type: ignore[arg-type]
        raise UserError(f"{where}: {pattern!r} names stages, but {path!r} is one stage only: {note}")
    matches = [_dotted(f"{path}.stages.{index}") for index in range(len(stages))[start:stop]]  # type: ignore[arg-type]
    return lambda name: any(match(name) for match in matches)


def _dotted(pattern: str):
    """Match a parameter name by any of its dotted prefixes: `encoders` covers `encoders.audio.stages.0.weight`."""
    matches = re.compile(translate(pattern)).match
    return lambda name: any(matches(prefix) for prefix in _prefixes(name))


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _why_unused(model: nn.Module, pattern: str) -> str:
    matches = _matcher(model, pattern, "rates")
    if any(matches(name) for name, _ in model.named_parameters()):
        return "earlier patterns already cover all of it; put the narrower pattern first"
    if SLICE.match(pattern):
        return f"no stage there has parameters; it has {len(model.get_submodule(pattern.split('[')[0]).stages)} stages"  # type: ignore[arg-type]
    return f"nothing is called that; {_nearest(model, pattern)}"


def _nearest(model: nn.Module, path: str) -> str:
    names = sorted({prefix for name, _ in model.named_parameters() for prefix in _prefixes(name)[:3]})
    close = difflib.get_close_matches(path, names, n=1, cutoff=0.0)
    return f"nearest is {close[0]!r}" if close else "the model has no parameters"


def freeze(model: nn.Module, resolved: Mapping[str, float | None]) -> None:
    """Only what has a rate takes gradients; call `set_modes` before every epoch as well."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(resolved[name] is not None)


def set_modes(module: nn.Module) -> None:
    """Train mode where something learns, eval mode where nothing does: no BatchNorm drift, no dropout in a frozen part."""
    learns: dict[nn.Module, bool | None] = {}
    _survey(module, learns)
    _assign(module, learns)


def _survey(module: nn.Module, learns: dict[nn.Module, bool | None]) -> bool | None:
    """Note of every module whether something in it learns, None where it has no parameters; in one walk, for it is done every epoch."""
    found = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
    found += [below for child in module.children() if (below := _survey(child, learns)) is not None]
    learns[module] = any(found) if found else None
    return learns[module]


def _assign(module: nn.Module, learns: dict[nn.Module, bool | None]) -> None:
    if learns[module] is False:
        module.eval()
        return
    module.training = True
    children = list(module.children())
    for child in children:
        _assign(child, learns)
    if isinstance(module, nn.ModuleList):  # a parameter-free stage before the first that learns belongs to the frozen prefix
        for child in itertools.takewhile(lambda child: not learns[child], children):
            child.eval()


def groups(model: nn.Module, resolved: Mapping[str, float | None]) -> list[dict[str, object]]:
    """One optimiser group per distinct rate, highest first; each keeps its own rate as `rate` for the schedule."""
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = resolved[name]
        if rate is not None:
            by_rate.setdefault(float(rate), []).append(parameter)
    return [{"params": by_rate[rate], "lr": rate, "rate": rate} for rate in sorted(by_rate, reverse=True)]


def adam(groups: list, *, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999)) -> optim.Optimizer:
    """Adam (arXiv 1412.6980); weight decay is L2 in the gradient, as PyTorch's."""
    return optim.Adam(groups, fused=True, weight_decay=weight_decay, betas=betas)


def adamw(groups: list, *, weight_decay: float = 0.01, betas: tuple[float, float] = (0.9, 0.999)) -> optim.Optimizer:
    """AdamW, decoupled weight decay (arXiv 1711.05101)."""
    return optim.AdamW(groups, fused=True, weight_decay=weight_decay, betas=betas)


def sgd(groups: list, *, weight_decay: float = 0.0, momentum: float = 0.9, nesterov: bool = False) -> optim.Optimizer:
    """Stochastic gradient descent with momentum."""
    return optim.SGD(groups, fused=True, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov)
