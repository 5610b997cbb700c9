"""A checked recipe to objects: corpus, splits, streams, views, model, phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossfade import data, models, training, use
from crossfade.clip import Clip, Corpus, Spec, UserError
from crossfade.data.augment import Augmentation
from crossfade.data.chosen import Chosen
from crossfade.data.domains import Domains, split_across
from crossfade.data.images import packed_corpus
from crossfade.data.intake import Stream
from crossfade.data.loader import View
from crossfade.data.ravdess import RAVDESS_FOLDS, parse
from crossfade.data.split import Splits, split
from crossfade.evaluation import METRICS
from crossfade.models.model import JOINT, Fused
from crossfade.recipe import ONLY, one_of
from crossfade.spec import PhaseSpec, Recipe, TeacherSpec
from crossfade.training.balance import Counts
from crossfade.training.by_class import in_class_order
from crossfade.training.loop import Phase
from crossfade.training.prune import Prune
from crossfade.training.teacher import Teacher
from crossfade.training.terms import Objective


def corpus(recipe: Recipe) -> Corpus:
    """Read the corpus the recipe names; every target must be labelled in it.

    The recipe learns which of them have several classes a clip.
    """
    found = use.make(data.CORPORA, recipe.data.corpus)
    for target in recipe.targets:
        one_of(target, found.classes, "model.heads")
    recipe.data.several = [target for target in recipe.targets if target in (*found.several, *recipe.data.several)]
    if recipe.data.domains and recipe.targets[0] in recipe.data.several:
        raise UserError(f"model.heads: with two domains the first head has one class a clip, but {recipe.targets[0]} may have several")
    return found


def guess_corpus(path: Path | None) -> Corpus:
    """A CSV as a manifest, a folder with RAVDESS's file names as RAVDESS, one with files of many pictures as those, another as a tree."""
    if path is None or not path.exists():
        raise UserError(f"{path}: no such folder or CSV")
    if path.is_file():
        return data.manifest(path=path)
    named = any(parse(file) for file in path.rglob("*-*-*-*-*-*-*.*"))
    return data.ravdess(root=path) if named else packed_corpus(path) or data.tree(root=path)


def splits(recipe: Recipe, clips: list[Clip]) -> list[Splits]:
    """One split, or one a fold where the recipe asks for folds and names none."""
    given = recipe.data.split
    domains = domains_of(recipe)
    if domains:
        if given["folds"]:
            raise UserError("data.split.folds: cross-validation over two domains is not there; leave it out, or leave data.domains out")
        return [split_across(clips, domains, lambda own: use.call(split, given, own), given["target"])]
    if not given["folds"] or given["fold"] is not None:
        return [use.call(split, given, clips)]
    count = given["folds"] if isinstance(given["folds"], int) else len(RAVDESS_FOLDS if given["folds"] == "ravdess" else given["folds"])
    return [use.call(split, {**given, "fold": number}, clips) for number in range(count)]


def domains_of(recipe: Recipe) -> Domains | None:
    spec = recipe.data.domains
    return Domains(tuple(spec.source), tuple(spec.target), spec.labelled, recipe.seed) if spec else None


def streams(recipe: Recipe) -> dict[str, Stream]:
    return {name: use.make(data.STREAMS, spec) for name, spec in recipe.data.streams.items()}


def view(recipe: Recipe, name: str | None) -> View:
    """The augmentations of a view, by stream; None is the clean one."""
    return _made(recipe.data.views[name]) if name else {}


def degrade(recipe: Recipe) -> View:
    return _made(recipe.data.degrade)


def _made(view: Mapping[str, list[Any]]) -> View:
    return {stream: [_augmentation(spec) for spec in specs] for stream, specs in view.items()}


def _augmentation(spec: Mapping[str, Any]) -> Augmentation:
    made = use.make(data.AUGMENTATIONS, {key: value for key, value in spec.items() if key != ONLY})
    return Chosen(made, spec[ONLY], made.domain) if ONLY in spec else made


def check_views(recipe: Recipe, classes: Mapping[str, Sequence[str]]) -> None:
    """The classes that augmentations are for are classes of the corpus. UserError."""
    for name, view in recipe.data.views.items():
        for stream, specs in view.items():
            for number, spec in enumerate(specs):
                for target, names in spec.get(ONLY, {}).items():
                    where = f"data.views.{name}.{stream}.{number}.{ONLY}"
                    one_of(target, classes, where)
                    for each in names:
                        one_of(each, classes[target], f"{where}.{target}")


def phases(recipe: Recipe, classes: Mapping[str, Sequence[str]], counts: Counts) -> list[Phase]:
    """`counts`: target -> (C,), how many labelled training clips there are of each class, in the order of `classes`."""
    return [_phase(recipe, spec, classes, counts) for spec in recipe.phases]


CARRIED = ("name", "epochs", "rates", "sees", "views", "patience", "clip_norm", "accumulate", "steps", "balance", "mix", "keep")


def _phase(recipe: Recipe, spec: PhaseSpec, classes: Mapping[str, Sequence[str]], counts: Counts) -> Phase:
    where = f"phases.{spec.name}.terms"
    for name, term in spec.terms.items():
        _judges_as_labelled(recipe, term, f"{where}.{name}")
    terms = {name: in_class_order(term, classes[term["target"]], f"{where}.{name}") for name, term in spec.terms.items()}
    return Phase(
        **{name: getattr(spec, name) for name in CARRIED},
        objective=Objective({name: use.make(training.TERMS, term, counts) for name, term in terms.items()}),
        optimizer=lambda groups: use.make(training.OPTIMIZERS, spec.optimizer, groups),
        schedule=use.make(training.SCHEDULES, spec.schedule),
        prune=Prune(**spec.prune.model_dump()) if spec.prune else None,
        teacher=_teacher(spec.teacher, counts) if spec.teacher else None,
        select=Selector(spec.select) if spec.select else None,
    )


def _judges_as_labelled(recipe: Recipe, spec: Mapping[str, Any], where: str) -> None:
    """One class a clip, or several, is a matter of the corpus; the term must be made for it."""
    term, several = use.make(training.TERMS, spec), spec["target"] in recipe.data.several
    if term.several != several:
        kind = "may have several classes a clip: binary_cross_entropy" if several else "has one class a clip: cross_entropy, say"
        raise UserError(f"{where}.use: found {spec['use']!r}, but {spec['target']} {kind}")


def _teacher(spec: TeacherSpec, counts: Counts) -> Teacher:
    given = spec.model_dump()
    return Teacher(priors=dict(counts) if given.pop("prior") == "source" else {}, **given)


@dataclass(frozen=True)
class Selector:
    """What training maximises, from the scores of val, by its name."""

    name: str

    def __call__(self, scores: Mapping[str, float]) -> float:
        lower = self.name in METRICS and not METRICS[self.name].higher_is_better
        return -scores[self.name] if lower else scores[self.name]


def model(recipe: Recipe, classes: Mapping[str, Sequence[str]], *, pretrained: bool = True) -> Fused:
    """The model the recipe describes, with the encoders' own weights unless `pretrained` is False (a bundle brings its own)."""
    encoders = {name: _encoder(spec, pretrained) for name, spec in recipe.model.encoders.items()}
    for name, stream in streams(recipe).items():
        _fits(name, stream.spec, encoders[name].spec)
    dims = {name: encoder.dim for name, encoder in encoders.items()}
    widths, mix = dict(dims), []
    for spec in recipe.model.mix:
        mix.append(use.make(models.MIXERS, spec, widths))
        widths = mix[-1].dims
    merge = use.make(models.MERGERS, recipe.model.merge, widths)
    heads = {target: _heads(spec, {**dims, **merge.dims}, merge.dims, len(classes[target])) for target, spec in recipe.model.heads.items()}
    _outputs_exist(recipe, heads)
    return Fused(encoders, mix=mix, merge=merge, heads=heads, drop_stream=recipe.model.drop_stream)


def _outputs_exist(recipe: Recipe, heads: Mapping[str, Mapping[str, Any]]) -> None:
    """A term on an output that no head gives would be 0 for every clip, and nobody would notice."""
    outputs = [*heads, *(f"{target}.{name}" for target, named in heads.items() for name in named if name != JOINT)]
    for phase in recipe.phases:
        for name, spec in phase.terms.items():
            one_of(use.make(training.TERMS, spec).output, outputs, f"phases.{phase.name}.terms.{name}.output")


def _encoder(spec: Any, pretrained: bool) -> Any:
    without = {"weights": None} if not pretrained and "weights" in spec else {}
    return use.make(models.ENCODERS, {**spec, **without})


def _heads(spec: Mapping[str, Any], dims: Mapping[str, int], merged: Mapping[str, int], classes: int) -> dict[str, Any]:
    by_embedding = dict.fromkeys(merged, spec) if "use" in spec else spec
    for name in by_embedding:
        one_of(name, dims, "model.heads")
    return {name: use.make(models.HEADS, head, dims[name], classes) for name, head in by_embedding.items()}


def _fits(name: str, declared: Spec, expected: Spec) -> None:
    """An encoder's expectations against what its stream declares; None expects nothing."""
    shape = (1, *declared.shape) if len(declared.shape) + 1 == len(expected.shape) else declared.shape  # a spectrogram is one frame
    pairs = zip(shape, expected.shape, strict=False)
    same_rank = len(shape) == len(expected.shape)
    if not same_rank or any(want is not None and have is not None and have != want for have, want in pairs):
        hint = "; set channels: 1 in the encoder" if len(shape) == 4 and shape[1] == 1 and expected.shape[1:2] == (3,) else ""
        raise UserError(f"data.streams.{name}: makes {declared.shape}, but its encoder takes {expected.shape} (None = any){hint}")
    for what in ("rate", "mean", "std"):
        have, want = getattr(declared, what), getattr(expected, what)
        if want is not None and have is not None and have != want:
            raise UserError(f"data.streams.{name}.{what}: found {have}, but its encoder was made for {want}")
