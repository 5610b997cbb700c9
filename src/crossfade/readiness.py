"""Before the first step: what cannot be trained is refused, weights are put in, and what a reader must know is found out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from crossfade import judge, settings
from crossfade.clip import Clip, UserError
from crossfade.data.band import APART, ENOUGH, Common, common_band, level
from crossfade.data.intake import Intake
from crossfade.data.labels import names_in
from crossfade.data.loader import known_labels
from crossfade.data.log_mel import LogMel
from crossfade.data.mel import SHARED
from crossfade.models.surgery import load_weights
from crossfade.recipe import Recipe
from crossfade.training.rates import resolve

if TYPE_CHECKING:
    from crossfade.models.model import Fused

Parts = dict[str, list[Clip]]  # split -> clips
LEAST = 0.25  # of a stream's filters must be shared by the domains


def refuse_empty(parts: Parts, recipe: Recipe, classes: Mapping[str, list[str]]) -> None:
    """Nothing to tell apart, nothing to learn from, or nothing to choose by."""
    for target in recipe.targets:
        if not classes[target]:
            raise UserError(f"model.heads.{target}: no clip of the corpus has any class of it")
        if len(classes[target]) < 2:
            raise UserError(f"model.heads.{target}: the corpus has one class only, {classes[target][0]!r}; two or more can be told apart")
    for name in ("train", "val"):
        if not parts[name]:
            raise UserError(f"data.split: {name} has no clip that can be read")
        if not any(target in clip.labels for clip in parts[name] for target in recipe.targets):
            raise UserError(f"data.split: no clip of {name} is labelled with {' or '.join(recipe.targets)}")
    if recipe.data.domains:
        _refuse_one_class(parts["train"], recipe, recipe.data.domains.source)


def _refuse_one_class(train: list[Clip], recipe: Recipe, source: list[str]) -> None:
    """The corpus may have two classes where the domain that is learnt from has not."""
    for target in recipe.targets:
        several = target in recipe.data.several
        found = sorted({name for clip in train if target in clip.labels for name in names_in(clip.labels[target], several)})
        if len(found) < 2:
            what = f"one class only, {found[0]!r}" if found else "no class"
            where = f"data.domains.source: the training clips of {', '.join(source)} have {what}"
            raise UserError(f"{where} (model.heads.{target}); two or more can be told apart")


def class_counts(clips: list[Clip], desk: judge.Desk) -> dict[str, torch.Tensor]:
    """Target -> (C,) how many of these clips are labelled with each class; (2, C) without and with it, where a clip may have several."""
    return {target: COUNTED[desk.several(target)](desk.labels(clips, target), len(names)) for target, names in desk.classes.items()}


def _counted(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """(N,) -> (C,)"""
    return torch.bincount(labels[known_labels(labels)], minlength=classes).float()


def _counted_sets(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """(N, C) -> (2, C)"""
    known = labels[known_labels(labels)]
    return torch.stack([len(known) - known.sum(0), known.sum(0)])


COUNTED = {False: _counted, True: _counted_sets}


def refuse_deaf(clips: list[Clip], intake: Intake, desk: judge.Desk) -> None:
    """A stream that no clip has, so that its encoder would stay as it began."""
    there = {name for clip in clips for name in intake.streams[clip.id]}
    for name, stream in desk.reader.streams.items():
        if name not in there:
            raise UserError(f"data.streams.{name}: no clip of train has it, read from {' or '.join(stream.reads)} files; leave it out")


def warm_start(model: Fused, part: str, source: Path, allow: list[str]) -> Any:
    try:
        module = model.get_submodule(part)
    except AttributeError:
        parts = [name for name, _ in model.named_modules() if 0 < name.count(".") < 3]
        raise UserError(f"model.init: found {part!r}, {settings.nearest(part, parts)}") from None
    return load_weights(module, source, prefix=f"{part}.", allow=allow)


def random_and_frozen(model: Fused, recipe: Recipe) -> list[str]:
    """Encoders that start at random and never learn: allowed, never silent."""
    learns = {name for phase in recipe.phases for name, rate in resolve(model, phase.rates).items() if rate is not None}
    warnings = []
    for name, encoder in model.encoders.items():
        path = f"encoders.{name}"
        warm = encoder.report or any(path == part or path.startswith(f"{part}.") for part in recipe.model.init)
        if not warm and not any(each.startswith(f"{path}.") for each in learns):
            warnings.append(f"{path} has random weights and never learns; name some in model.{path}.weights or model.init")
    return warnings


def faceless(intake: Intake, desk: judge.Desk) -> list[str]:
    """How many clips kept the whole picture because no face was found in them, for streams that crop to the face."""
    warnings = []
    for name, stream in desk.reader.streams.items():
        if getattr(stream, "face", None) is not None:
            clips = [clip for clip in intake.clips if name in intake.streams[clip.id]]
            without = sum(not desk.reader.remember(clip, name, "face found", stream.face_found) for clip in clips)  # type: ignore[attr-defined]
            if without:
                warnings.append(f"no face was found in {without} of {len(clips)} clips; they keep the whole picture")
    return warnings


class Bands(NamedTuple):
    """`found`: stream -> the band in hertz that all domains carry, where the recipe asks for it; lines on what is heard, and to warn of."""

    found: dict[str, list[float]]
    heard: list[str]
    warnings: list[str]


def bands(desk: judge.Desk, clips: list[Clip], intake: Intake) -> Bands:
    """What several domains carry, by the sound of these clips, whatever their labels. UserError where they share too little."""
    bands = Bands({}, [], [])
    names = [*desk.domains.source, *desk.domains.target] if desk.domains else []
    for name, stream in desk.reader.streams.items():
        if names and isinstance(stream, LogMel):
            there = [clip for clip in clips if name in intake.streams[clip.id]]
            band, line = BANDS.get(stream.band, _given)(desk, there, name, stream, names)
            bands.found.update({name: band} if band else {})
            (bands.warnings if stream.band is None else bands.heard).extend([line] if line else [])
    return bands


Settled = tuple[list[float] | None, str]  # the band of a stream, where it was to be found; a line to know, or ""


def _given(desk: judge.Desk, clips: list[Clip], name: str, stream: LogMel, domains: list[str]) -> Settled:
    return None, _hears(name, *stream.band)  # type: ignore[misc]


def _shared(desk: judge.Desk, clips: list[Clip], name: str, stream: LogMel, domains: list[str]) -> Settled:
    where, common = f"data.streams.{name}.band: found {SHARED}", _common(desk, clips, name, stream, domains)
    if isinstance(common, str):
        raise UserError(f"{where}, but no training clip of domain {common!r} has sound")
    if common.shared < LEAST * common.filters:
        raise UserError(f"{where}, but {_among(common, domains)}; give [low, high] in hertz, or null for all")
    return [common.low, common.high], _hears(name, common.low, common.high)


def _warned(desk: judge.Desk, clips: list[Clip], name: str, stream: LogMel, domains: list[str]) -> Settled:
    common = _common(desk, clips, name, stream, domains)
    if isinstance(common, str) or common.shared == common.filters:
        return None, ""
    remedy = f"band={SHARED} listens to what all carry" if common.shared >= LEAST * common.filters else "band=[low,high] chooses hertz"
    return None, (
        f"{name}: {_among(common, domains)}; elsewhere they differ by more than {APART:g} dB, and a model may learn the channel "
        f"instead of the sound: data.streams.{name}.{remedy}"
    )


BANDS = {SHARED: _shared, None: _warned}


def _hears(name: str, low: float, high: float) -> str:
    return f"{name}: hears {low:g} to {high:g} Hz alone, by data.streams.{name}.band"


def _among(common: Common, domains: list[str]) -> str:
    where = f" ({common.low:g} to {common.high:g} Hz)" if common.shared else ""
    return f"{' and '.join(domains)} carry {common.shared} of {common.filters} filters alike{where}"


def _common(desk: judge.Desk, clips: list[Clip], name: str, stream: LogMel, domains: list[str]) -> Common | str:
    """What the domains have in common, or the first of them without sound. Listens to clips from all over each list, whose order may be
    that of its classes.
    """
    levels = []
    for domain in domains:
        own = [clip for clip in clips if clip.domain == domain]
        found = level(stream, (desk.reader.read(clip, name) for clip in own[:: -(-len(own) // ENOUGH) or 1]))
        if found is None:
            return domain
        levels.append(found)
    return common_band(stream, levels)


def learning(model: Fused, rates: Mapping[str, float | None]) -> int:
    found = resolve(model, rates)
    return sum(parameter.numel() for name, parameter in model.named_parameters() if found[name] is not None)
