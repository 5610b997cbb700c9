"""A recipe: YAML checked against every island's table, with every default written out. Errors name the key and the nearest right one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from crossfade import settings, use
from crossfade.clip import UserError
from crossfade.settings import nearest

AS_THE_ENCODER = ("size", "mean", "std")  # of a stream of pictures, where it does not say otherwise
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SIZE = re.compile(r"([\d.]+)\s*([KMGT]B)")
UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def bytes_in(given: Any) -> Any:
    """ "50 GB" -> 5e10; anything else as it is."""
    found = SIZE.fullmatch(given.strip().upper()) if isinstance(given, str) else None
    return float(found[1]) * UNITS[found[2]] if found else given


Use = Any  # {use: name, option: value}, or just the name; `use.check` says what is wrong with it, better than a type could


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataSpec(_Strict):
    """Which clips, how they are split, and what of them the model sees."""

    corpus: Use
    split: dict[str, Any] = {}
    streams: dict[str, Use] = Field(min_length=1)
    views: dict[str, dict[str, Any]] = {}  # view -> stream -> augmentations
    degrade: dict[str, Any] = {}  # stream -> augmentations on every clip, test too: a condition, not a help
    batch: PositiveInt = 16
    workers: int = Field(-1, ge=-1)
    bad_fraction: float = Field(0.05, ge=0, le=1)  # of files that may be unreadable before the run refuses to start


class ModelSpec(_Strict):
    """Encoders → mixers → merger → heads."""

    encoders: dict[str, Use] = Field(min_length=1)
    init: dict[str, Path] = {}  # part of the model -> bundle or checkpoint it starts from
    allow_missing: list[str] = []  # patterns of entries that such a file may lack
    mix: list[Use] = []
    merge: Use = "each"
    drop_stream: float = Field(0.0, ge=0, lt=1)
    heads: dict[str, Use | dict[str, Use]] = Field(min_length=1)  # target -> head, or embedding -> head


class PruneSpec(_Strict):
    """Which share of the weights that learn becomes 0 and stays so: at once, or growing over the phase's first epochs."""

    to: float = Field(gt=0, lt=1)
    over: NonNegativeInt = 0


def prune_keys(given: Any) -> Any:
    """`prune: 0.8` as keys of PruneSpec."""
    return given if given is None or isinstance(given, dict) else {"to": given}


class PhaseSpec(_Strict):
    """One stretch of training; see crossfade.training.loop.Phase."""

    name: str
    epochs: NonNegativeInt
    rates: dict[str, Rate | None] = Field(min_length=1)
    terms: dict[str, Use] = Field(min_length=1)
    sees: str | None = None  # a view; null = the clean clips
    views: PositiveInt | None = None  # draws of that view before a frozen part, each stored; null = drawn anew each time, not stored
    optimizer: Use = "adam"
    schedule: Use = "constant"
    patience: NonNegativeInt = 0
    clip_norm: float | None = Field(None, gt=0)
    accumulate: PositiveInt = 1
    steps: PositiveInt | None = None
    prune: Annotated[PruneSpec | None, BeforeValidator(prune_keys)] = None

    @model_validator(mode="after")
    def _grows_within_its_epochs(self) -> PhaseSpec:
        if self.prune and self.prune.over > self.epochs:
            raise UserError(f"phases.{self.name}.prune.over: found {self.prune.over}, but the phase has {self.epochs} epochs")
        return self


class StoreSpec(_Strict):
    """What is kept between epochs and runs; `store: off` keeps nothing."""

    keep: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; bfloat16 takes half the room and rounds them
    limit: Annotated[float, BeforeValidator(bytes_in), Field(gt=0, allow_inf_nan=False)] = 0.5  # up to 1: of the free disk; else bytes


def store_keys(given: Any) -> Any:
    """`on` and `off` as keys of StoreSpec."""
    if isinstance(given, str):
        if given not in ("on", "off"):
            raise PydanticCustomError("store", "it is on, off, or keys from keep, dtype, limit")
        return {"keep": given == "on"}
    return given


class Recipe(_Strict):
    """The whole recipe, resolved: every default written out, every path absolute."""

    name: str
    about: str = ""
    seed: int = 0
    data: DataSpec
    model: ModelSpec
    phases: list[PhaseSpec] = Field(min_length=1)
    select: str = "macro_f1"
    precision: Literal["no", "bf16", "fp16"] = "no"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    store: Annotated[StoreSpec, BeforeValidator(store_keys)] = StoreSpec()
    track: list[Literal["tensorboard", "wandb", "mlflow"]] = []

    @property
    def targets(self) -> list[str]:
        return list(self.model.heads)

    def yaml(self) -> str:
        return settings.write(self.model_dump(mode="json"))


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(Path(str(file)).stem for file in resources.files("crossfade.recipes").iterdir() if str(file).endswith(".yaml"))


def find(name: str) -> tuple[str, Any]:
    """A recipe's raw content by the name of a packaged recipe or the path of a YAML file."""
    if name in names():
        return name, settings.read((resources.files("crossfade.recipes") / f"{name}.yaml").read_text(encoding="utf-8"), name)
    if not name.endswith((".yaml", ".yml")):
        raise UserError(f"recipe: found {name!r}, {nearest(name, names())}, or the path of a .yaml file")
    return Path(name).stem, settings.read_file(Path(name))


def load(name: str, overrides: Sequence[str] = (), *, corpus: Path | str | None = None, target: str | None = None) -> Recipe:
    """Find, override, check and resolve. `corpus` is a folder or a CSV; `target` renames the recipe's only head.

    The target is renamed first, so that overrides can use the new name; the corpus is set last, so that they can say of what kind it is.

    Raises UserError: one line that names the key, what was found and the nearest right one.
    """
    stem, raw = find(name)
    if not isinstance(raw, dict):
        raise UserError(f"{name}: a recipe is a mapping with data, model and phases")
    raw = {"name": stem, **raw}
    if target:
        _rename_target(raw, target)
    begun = _weights(raw)
    settings.override(raw, overrides)
    _keep_imagenet(raw, begun)
    if corpus:
        point_at(raw, Path(corpus))
    return resolve(raw, name)


def _weights(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What each encoder's weights are called, where the recipe says so."""
    encoders = _mapping(_mapping(raw, "model"), "encoders")
    return {name: spec["weights"] for name, spec in encoders.items() if isinstance(spec, dict) and "weights" in spec}


def _keep_imagenet(raw: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Where an override chose another encoder and no weights, it starts from ImageNet as the recipe's own did, if it can."""
    from crossfade import models

    for name, spec in _mapping(_mapping(raw, "model"), "encoders").items():
        if before.get(name) == "imagenet" and isinstance(spec, dict) and "weights" not in spec and spec.get("use") in models.IMAGENET:
            spec["weights"] = "imagenet"


def resolve(raw: dict[str, Any], where: str = "recipe") -> Recipe:
    """Check plain data and write every default out."""
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise UserError(_one_line(error, raw)) from None
    from crossfade import data, models, training
    from crossfade.data.split import split

    recipe.data.corpus = use.check(data.CORPORA, recipe.data.corpus, "data.corpus")
    ours = {"target": recipe.targets[0], "seed": recipe.seed}  # a split of its own seed stays while the run's seed varies
    recipe.data.split = use.options(split, ours | recipe.data.split, "data.split")
    recipe.data.streams = _checked(data.STREAMS, recipe.data.streams, "data.streams")
    recipe.data.degrade = _lists(data.AUGMENTATIONS, recipe.data.degrade, "data.degrade")
    recipe.data.views = {name: _lists(data.AUGMENTATIONS, view, f"data.views.{name}") for name, view in recipe.data.views.items()}
    recipe.model.encoders = _checked(models.ENCODERS, recipe.model.encoders, "model.encoders")
    for spec in recipe.model.encoders.values():  # a hub's name stays a name; a file's must not depend on where it was typed
        if spec.get("weights") and Path(spec["weights"]).exists():
            spec["weights"] = str(use.absolute(Path(spec["weights"])))
    _fill_in(recipe)
    recipe.model.init = {part: use.absolute(path) for part, path in recipe.model.init.items()}
    recipe.model.mix = [use.check(models.MIXERS, item, f"model.mix.{index}") for index, item in enumerate(recipe.model.mix)]
    recipe.model.merge = use.check(models.MERGERS, recipe.model.merge, "model.merge")
    recipe.model.heads = {target: _head(models.HEADS, head, f"model.heads.{target}") for target, head in recipe.model.heads.items()}
    for phase in recipe.phases:
        where = f"phases.{phase.name}"
        phase.terms = _checked(training.TERMS, phase.terms, f"{where}.terms")
        phase.optimizer = use.check(training.OPTIMIZERS, phase.optimizer, f"{where}.optimizer")
        phase.schedule = use.check(training.SCHEDULES, phase.schedule, f"{where}.schedule")
    _agree(recipe)
    return recipe


def _fill_in(recipe: Recipe) -> None:
    """What a stream of pictures leaves open is as its encoder's weights were trained; the resolved recipe says it in numbers."""
    from crossfade.models.image import spec_of

    for name, spec in recipe.model.encoders.items():
        stream = recipe.data.streams.get(name, {})
        open_keys = [key for key in AS_THE_ENCODER if key in stream and stream[key] is None]
        if open_keys:
            expected = spec_of(spec["use"], {key: value for key, value in spec.items() if key != "use"})
            found = {key: getattr(expected, key) for key in open_keys}
            stream |= {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _checked(table: use.Table, specs: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {name: use.check(table, spec, f"{where}.{name}") for name, spec in specs.items() if spec is not None}


def _lists(table: use.Table, view: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    for stream, specs in view.items():
        if not isinstance(specs, list | None):
            raise UserError(f"{where}.{stream}: found {specs!r}; it needs a list such as [{{use: {next(iter(table))}}}]")
    return {
        stream: [use.check(table, spec, f"{where}.{stream}.{index}") for index, spec in enumerate(specs)]
        for stream, specs in view.items()
        if specs is not None
    }


def _head(table: use.Table, head: Any, where: str) -> dict[str, Any]:
    if isinstance(head, dict) and head and "use" not in head:
        return _checked(table, head, where)
    return use.check(table, head, where)


def _agree(recipe: Recipe) -> None:
    """What the parts demand of one another."""
    from crossfade import data
    from crossfade.evaluation import METRICS

    one_of(recipe.select, METRICS, "select")
    streams = recipe.data.streams
    for name in recipe.model.encoders:
        _has(streams, name, f"model.encoders.{name}", "data.streams has no such stream")
    for name in streams:
        _has(recipe.model.encoders, name, f"data.streams.{name}", "model.encoders has no encoder for it")
    domains = {name: _made(data.STREAMS, spec, f"data.streams.{name}").domains for name, spec in streams.items()}
    for name, view in recipe.data.views.items():
        _acts_where_it_can(view, domains, f"data.views.{name}")
    _acts_where_it_can(recipe.data.degrade, domains, "data.degrade")
    if len({phase.name for phase in recipe.phases}) < len(recipe.phases):
        raise UserError("phases: two phases have the same name")
    for phase in recipe.phases:
        _phase_agrees(recipe, phase, f"phases.{phase.name}")


def _phase_agrees(recipe: Recipe, phase: PhaseSpec, where: str) -> None:
    from crossfade import training

    if phase.sees:
        one_of(phase.sees, recipe.data.views, f"{where}.sees")
    if phase.views and not (phase.sees and any(recipe.data.views[phase.sees].values())):
        raise UserError(
            f"{where}.views: found {phase.views}, but the phase sees clean clips, of which there is nothing to draw; set `sees`"
        )
    for name, spec in phase.terms.items():
        term = _made(training.TERMS, spec, f"{where}.terms.{name}")
        one_of(term.target, recipe.model.heads, f"{where}.terms.{name}.target")
    _made(training.SCHEDULES, phase.schedule, f"{where}.schedule")
    if phase.epochs and not any(phase.rates.values()):
        raise UserError(f"{where}.rates: every part is frozen, so nothing learns; give one a rate, or say epochs: 0")


def _made(table: use.Table, spec: Mapping[str, Any], where: str) -> Any:
    try:
        return use.make(table, spec)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _acts_where_it_can(view: Mapping[str, list[Any]], domains: Mapping[str, Sequence[str]], where: str) -> None:
    from crossfade import data

    for stream, specs in view.items():
        one_of(stream, domains, where)
        for spec in specs:
            domain = _made(data.AUGMENTATIONS, spec, f"{where}.{stream}").domain
            if domain not in domains[stream]:
                raise UserError(f"{where}.{stream}: {spec['use']} acts on {domain}, but this stream has {' and '.join(domains[stream])}")


def one_of(found: str, known: Iterable[str], where: str) -> None:
    if found not in known:
        raise UserError(f"{where}: found {found!r}, {nearest(found, known)}")


def _has(known: Iterable[str], name: str, where: str, complaint: str) -> None:
    if name not in known:
        raise UserError(f"{where}: {complaint}; {nearest(name, known)}")


def point_at(raw: dict[str, Any], corpus: Path) -> None:
    """Make raw recipe data read another corpus: a CSV is a manifest, a folder the root of the corpus that the recipe names."""
    from crossfade import data

    if not corpus.exists():
        raise UserError(f"{corpus}: no such folder or CSV")
    if corpus.is_file():
        settings.put(raw, ["data", "corpus", "use"], "manifest")
        settings.put(raw, ["data", "corpus", "path"], str(corpus))
        return
    settings.put(raw, ["data", "corpus", "root"], str(corpus))
    name = str(raw["data"]["corpus"].setdefault("use", "tree"))
    if use.accepts(data.CORPORA.get(name, data.tree), "path"):
        raise UserError(f"{corpus}: this recipe's corpus ({name}) is described by a CSV; give that file, or data.corpus.use=tree")


def _rename_target(raw: dict[str, Any], target: str) -> None:
    """Rename the only head, and what the phases' terms and the split say about it. What is malformed stays, for `resolve` to name."""
    heads = _mapping(_mapping(raw, "model"), "heads")
    if len(heads) != 1:
        raise UserError(f"--target: this recipe has {len(heads)} heads ({', '.join(heads)}); set model.heads and the terms instead")
    (old,) = heads
    raw["model"]["heads"] = {target: heads[old]}
    phases = raw.get("phases")
    for phase in phases if isinstance(phases, list) else ():
        terms = _mapping(phase, "terms")
        for name in terms:
            term = _mapping(terms, name)
            term["target"] = target
            output = str(term.get("output") or "")
            if output.split(".")[0] == old:
                term["output"] = target + output[len(old) :]
    split = _mapping(_mapping(raw, "data"), "split")
    if split.get("target") == old:
        split["target"] = target


def _mapping(above: Any, key: str) -> dict[str, Any]:
    found = above.get(key) if isinstance(above, dict) else None
    return found if isinstance(found, dict) else {}


def _one_line(error: ValidationError, raw: Any) -> str:
    first = error.errors()[0]
    where = ".".join(_readable(first["loc"], raw))
    if first["type"] == "extra_forbidden":
        return f"{where}: there is no such key; {nearest(first['loc'][-1], _keys_at(first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: found {first['input']!r}; {use.explain(error)}"


def _readable(path: tuple[Any, ...], raw: Any) -> list[str]:
    """A place in the recipe with phases by name."""
    parts = [str(part) for part in path]
    if path[0] == "phases" and len(path) > 1:
        parts[1] = str(_mapping({"phase": raw["phases"][path[1]]}, "phase").get("name", path[1]))
    return parts


def _keys_at(path: tuple[Any, ...]) -> Iterable[str]:
    kinds: dict[str, type[BaseModel]] = {"data": DataSpec, "model": ModelSpec, "phases": PhaseSpec, "prune": PruneSpec, "store": StoreSpec}
    return next((kinds[key] for key in reversed(path) if key in kinds), Recipe).model_fields
