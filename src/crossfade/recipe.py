"""A recipe: YAML checked against every island's table, with every default written out. Errors name the key and the nearest right one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crossfade import settings, use
from crossfade.clip import UserError
from crossfade.settings import nearest
from crossfade.spec import KINDS, PhaseSpec, Recipe, one_line

CLASSIFICATION = "classification"  # what a recipe that names no `task` is for
TABLES = ("wildlife",)  # corpora whose `root` may be a CSV
ONLY = "only"  # of an augmentation in a view: the classes it is for
AS_THE_ENCODER = ("size", "mean", "std")  # of a stream of pictures, where it does not say otherwise


def every() -> list[str]:
    """The recipes that come with the package."""
    return sorted(Path(str(file)).stem for file in resources.files("crossfade.recipes").iterdir() if str(file).endswith(".yaml"))


def names(task: str = CLASSIFICATION) -> list[str]:
    """Those of one task."""
    return [name for name in every() if task_of(find(name)[1]) == task]


def task_of(raw: Any) -> str:
    """What a recipe's raw content is for."""
    return str(raw.get("task", CLASSIFICATION)) if isinstance(raw, dict) else CLASSIFICATION


def find(name: str) -> tuple[str, Any]:
    """A recipe's raw content by the name of a packaged recipe or the path of a YAML file."""
    if name in every():
        return name, settings.read((resources.files("crossfade.recipes") / f"{name}.yaml").read_text(encoding="utf-8"), name)
    if not name.endswith((".yaml", ".yml")):
        raise UserError(f"recipe: found {name!r}, {nearest(name, every())}, or the path of a .yaml file")
    return Path(name).stem, settings.read_file(Path(name))


def load(
    name: str,
    overrides: Sequence[str] = (),
    *,
    corpus: Path | str | None = None,
    target: str | None = None,
    start: Path | None = None,
) -> Recipe:
    """Find, override, check and resolve. `corpus` is a folder or a CSV; `target` renames the recipe's only head; `start` is a finished
    run whose weights it begins with and whose phases it leaves out.

    The target is renamed first, so that overrides can use the new name; the corpus is set last, so that they can say of what kind it is.

    Raises UserError: one line that names the key, what was found and the nearest right one.
    """
    stem, raw = find(name)
    if not isinstance(raw, dict):
        raise UserError(f"{name}: a recipe is a mapping with data, model and phases")
    if task_of(raw) != CLASSIFICATION:
        raise UserError(f"{name}: is a recipe for a {task_of(raw).replace('_', ' ')}; this verb is for recipes that classify")
    raw = {"name": stem, **raw}
    if target:
        _rename_target(raw, target)
    begun = _weights(raw)
    settings.override(raw, overrides)
    _keep_imagenet(raw, begun)
    if corpus:
        point_at(raw, Path(corpus))
    if start:
        _go_on_from(raw, start)
    return resolve(raw, name)


def _go_on_from(raw: dict[str, Any], run: Path) -> None:
    """Begin with a finished run's weights, without the phases that it has been through."""
    from safetensors import SafetensorError, safe_open

    from crossfade.data.mel import SHARED
    from crossfade.deploy import bundle as bundles

    try:
        with safe_open(run / bundles.WEIGHTS, "pt") as file:
            names = file.keys()
    except (OSError, SafetensorError):
        raise UserError(f"--from {run}: is no finished run; it has no {bundles.WEIGHTS} that can be read") from None
    parts = sorted({name.partition(".")[0] for name in names})
    begun = settings.read_file(run / bundles.RECIPE)
    done = {phase["name"] for phase in begun["phases"] if phase["epochs"]}
    left = [phase for phase in raw["phases"] if phase.get("name") not in done]
    if not left:
        raise UserError(
            f"--from {run}: it has been through all phases of this recipe ({', '.join(sorted(done))}), so none is left to train"
        )
    raw["phases"] = left
    for name, stream in _mapping(_mapping(raw, "data"), "streams").items():  # the weights go on hearing what they have heard
        heard = _mapping(begun["data"]["streams"], name).get("band")
        if isinstance(stream, dict) and stream.get("band") == SHARED and heard:
            stream["band"] = heard
    settings.put(raw, ["model", "init"], {**dict.fromkeys(parts, str(run)), **_mapping(_mapping(raw, "model"), "init")})


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


def without_training(raw: dict[str, Any], *, alone: bool = False) -> dict[str, Any]:
    """The recipe without what only training sees, whose files (noises, say) need not be here; `alone`: nor the conditions of its corpus."""
    dropped = ("views", "degrade") if alone else ("views",)
    try:
        phases = [{key: value for key, value in phase.items() if key not in ("sees", "views")} for phase in raw["phases"]]
        return {**raw, "data": {key: value for key, value in raw["data"].items() if key not in dropped}, "phases": phases}
    except (KeyError, TypeError, AttributeError):
        return raw  # which resolving will find wanting


def resolve(raw: dict[str, Any], where: str = "recipe") -> Recipe:
    """Check plain data and write every default out."""
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise UserError(one_line(error, raw, KINDS)) from None
    from crossfade import data, models, training
    from crossfade.data.split import split

    recipe.data.corpus = use.check(data.CORPORA, recipe.data.corpus, "data.corpus")
    ours = {"target": recipe.targets[0], "seed": recipe.seed}  # a split of its own seed stays while the run's seed varies
    recipe.data.split = use.options(split, ours | recipe.data.split, "data.split")
    recipe.data.streams = _checked(data.STREAMS, recipe.data.streams, "data.streams")
    recipe.data.degrade = _lists(data.AUGMENTATIONS, recipe.data.degrade, "data.degrade")
    first = recipe.targets[0]
    recipe.data.views = {name: _lists(data.AUGMENTATIONS, view, f"data.views.{name}", first) for name, view in recipe.data.views.items()}
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


def _lists(table: use.Table, view: Mapping[str, Any], where: str, target: str | None = None) -> dict[str, list[Any]]:
    """Stream -> augmentations. With a `target` each may say `only: [class, …]` of it, or of another, `only: {target: [class, …]}`."""
    for stream, specs in view.items():
        if not isinstance(specs, list | None):
            raise UserError(f"{where}.{stream}: found {specs!r}; it needs a list such as [{{use: {next(iter(table))}}}]")
    return {
        stream: [_augmentation(table, spec, f"{where}.{stream}.{index}", target) for index, spec in enumerate(specs)]
        for stream, specs in view.items()
        if specs is not None
    }


def _augmentation(table: use.Table, spec: Any, where: str, target: str | None) -> dict[str, Any]:
    if target is None or not isinstance(spec, dict) or ONLY not in spec:
        return use.check(table, spec, where)
    only = spec[ONLY] if isinstance(spec[ONLY], dict) else {target: spec[ONLY]}
    if not only or not all(isinstance(names, list) and names for names in only.values()):
        raise UserError(f"{where}.{ONLY}: found {spec[ONLY]!r}; it needs class names such as [wolf, hare], or {{species: [wolf]}}")
    checked = use.check(table, {key: value for key, value in spec.items() if key != ONLY}, where)
    return checked | {ONLY: {name: [str(each) for each in names] for name, names in only.items()}}


def _head(table: use.Table, head: Any, where: str) -> dict[str, Any]:
    if isinstance(head, dict) and head and "use" not in head:
        return _checked(table, head, where)
    return use.check(table, head, where)


def _agree(recipe: Recipe) -> None:
    """What the parts demand of one another."""
    from crossfade import data
    from crossfade.data.mel import SHARED
    from crossfade.evaluation import METRICS

    one_of(recipe.select, METRICS, "select")
    streams = recipe.data.streams
    for name in recipe.model.encoders:
        _has(streams, name, f"model.encoders.{name}", "data.streams has no such stream")
    for name in streams:
        _has(recipe.model.encoders, name, f"data.streams.{name}", "model.encoders has no encoder for it")
    domains = {name: _made(data.STREAMS, spec, f"data.streams.{name}").domains for name, spec in streams.items()}
    for name, spec in streams.items():
        if spec.get("band") == SHARED and recipe.data.domains is None:
            raise UserError(f"data.streams.{name}.band: found {SHARED!r}, but data.domains names none; give [low, high] in hertz, or null")
    for name, view in recipe.data.views.items():
        _acts_where_it_can(view, domains, f"data.views.{name}")
    _acts_where_it_can(recipe.data.degrade, domains, "data.degrade")
    if len({phase.name for phase in recipe.phases}) < len(recipe.phases):
        raise UserError("phases: two phases have the same name")
    for phase in recipe.phases:
        _phase_agrees(recipe, phase, f"phases.{phase.name}")


def _phase_agrees(recipe: Recipe, phase: PhaseSpec, where: str) -> None:
    from crossfade import training

    for seen, place in ((phase.sees, "sees"), (phase.teacher and phase.teacher.sees, "teacher.sees")):
        if seen:
            one_of(seen, recipe.data.views, f"{where}.{place}")
    _selects(recipe, phase.select, f"{where}.select")
    if recipe.data.domains is None and (phase.mix or (phase.teacher and phase.teacher.prior != "uniform")):
        raise UserError(f"{where}: mixes domains or aligns to what one holds, but data.domains names none")
    if phase.views and not (phase.sees and any(recipe.data.views[phase.sees].values())):
        raise UserError(
            f"{where}.views: found {phase.views}, but the phase sees clean clips, of which there is nothing to draw; set `sees`"
        )
    for name, spec in phase.terms.items():
        term = _made(training.TERMS, spec, f"{where}.terms.{name}")
        one_of(term.target, recipe.model.heads, f"{where}.terms.{name}.target")
        if term.of != "all" and recipe.data.domains is None:
            raise UserError(f"{where}.terms.{name}.of: found {term.of!r}, but data.domains names no domains")
        if term.taught and phase.teacher is None:
            raise UserError(f"{where}.terms.{name}: looks at a teacher, but the phase has none; add teacher: {{}}")
    _made(training.SCHEDULES, phase.schedule, f"{where}.schedule")
    if phase.epochs and not any(phase.rates.values()):
        raise UserError(f"{where}.rates: every part is frozen, so nothing learns; give one a rate, or say epochs: 0")


def _selects(recipe: Recipe, name: str | None, where: str) -> None:
    """A metric of val, or a criterion of the target's clips there, which needs no labels."""
    from crossfade.evaluation import METRICS
    from crossfade.training import CRITERIA
    from crossfade.training.loop import LAST

    criteria = [f"target.{criterion}" for criterion in CRITERIA] if recipe.data.domains else []
    if name is not None:
        one_of(name, [*METRICS, LAST, *criteria], where)


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
            plain = {key: value for key, value in spec.items() if key != ONLY}
            domain = _made(data.AUGMENTATIONS, plain, f"{where}.{stream}").domain
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
    used = _mapping(_mapping(raw, "data"), "corpus").get("use")
    if corpus.is_file() and used not in TABLES:
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
