"""A checked recipe of a talking face to its network, with what it starts from, and its phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossfade import models, training, use
from crossfade.clip import UserError, seed_of
from crossfade.data.face import FEATURES
from crossfade.data.face import prepared as prepares
from crossfade.data.face.batches import Faces, Part, Sides, divide
from crossfade.data.face.crop import Crop
from crossfade.data.face.prepared import Prepared, Talk
from crossfade.data.face.sound_rows import window
from crossfade.deploy import bundle as bundles
from crossfade.face.judge import Ways
from crossfade.face.recipe import SELECT, FacePhase, FaceRecipe, fit_to
from crossfade.models.face_unet import FEATURES as WIDTH
from crossfade.models.face_unet import FaceUnet
from crossfade.models.picture_trunk import picture_trunk
from crossfade.models.surgery import load_weights
from crossfade.training.loop import Phase
from crossfade.training.terms import Objective

EXAMPLE = 20  # rows of sound


def prepared_for(recipe: FaceRecipe) -> Prepared:
    """The clips that a recipe names; what follows from them is written into it. UserError where it names none, or none that fit."""
    if recipe.data.corpus is None:
        raise UserError("data.corpus: is missing; give the folder that `crossfade face prepare VIDEO FOLDER` made: --data FOLDER")
    prepared = prepares.read(recipe.data.corpus)
    fit_to(recipe, prepared)
    return prepared


def sides_of(recipe: FaceRecipe, prepared: Prepared) -> Sides:
    """The split that a recipe describes."""
    split = recipe.data.split
    return divide(prepared, val=split.val, test=split.test, seed=split.seed if split.seed is not None else recipe.seed)


SIDES = "sides.json"  # of a run: which pictures of which clip it was trained, chosen and judged on


def sides_of_run(folder: Path, recipe: FaceRecipe, prepared: Prepared) -> Sides:
    """The sides as the run wrote them, whatever was prepared since; of a file without its run, as the recipe divides.

    UserError where a clip has gone or was prepared anew.
    """
    path = next((place / SIDES for place in (folder, folder.parent) if (place / SIDES).is_file()), None)
    if path is None:
        return sides_of(recipe, prepared)
    talks, found = {talk.clip: talk for talk in prepared.talks}, bundles.read_json(path)
    sides: dict[str, list[Part]] = {}
    for name in ("train", "val", "test"):
        sides[name] = [_part(talks, clip, span, found["whole"], path) for clip, span in found[name].items()]
    return Sides(**sides, whole=found["whole"])


def _part(talks: Mapping[str, Talk], clip: str, span: Sequence[int], whole: bool, path: Path) -> Part:
    start, stop, pictures = span
    talk = talks.get(clip)
    if talk is None or len(talk) != pictures:
        raise UserError(
            f"{path}: clip {clip} of {pictures} pictures is not among the prepared clips any more, so its split cannot be repeated"
        )
    kept = np.flatnonzero(talk.kept)
    return Part(talk, kept[(kept >= start) & (kept < stop)], pieces=not whole)


def write_sides(folder: Path, sides: Sides) -> None:
    """Which clip is on which side: first picture, the one after the last, and how many the clip has."""
    named = {"train": sides.train, "val": sides.val, "test": sides.test}
    spans = {
        name: {part.talk.clip: [int(part.frames[0]), int(part.frames[-1]) + 1, len(part.talk)] for part in parts}
        for name, parts in named.items()
    }
    bundles.write_json(folder / SIDES, {"whole": sides.whole, **spans})


def ways(recipe: FaceRecipe, crop: Crop) -> Ways:
    """How this recipe's network is given pictures, and how in silence: as the features are of samples that are all zero."""

    def mute() -> Faces:
        return Faces(crop, window(use.make(FEATURES, recipe.data.features)(np.zeros(16_000, np.float32), 1), 0))

    return Ways(Faces(crop), mute) if recipe.data.sound else Ways(mute(), None)


def network(recipe: FaceRecipe) -> FaceUnet:
    """With random weights, the same for the same seed."""
    torch.manual_seed(seed_of(recipe.seed, "model"))
    spec = {"use": recipe.model.use, "size": recipe.model.size or 160, "features": recipe.model.features or WIDTH}
    return use.make(models.FACES, spec)


def warm_start(model: FaceUnet, source: Path) -> str:
    """Weights from a bundle, a file of them, or a .param of the same network; what was loaded. UserError where they do not fit."""
    if source.suffix == ".param":
        return _from_param(model, source)
    allow = ["project.*"] if model.features != WIDTH else []
    return load_weights(model, source, allow=allow).line()


def _from_param(model: FaceUnet, source: Path) -> str:
    from crossfade.deploy.structure import from_ncnn, from_torch
    from crossfade.deploy.structure.align import align
    from crossfade.deploy.structure.weights import transfer

    theirs = from_ncnn.read(source, weights=True)
    moved = transfer(align(theirs, from_torch.of(model, example(model))), theirs.tensors or {}, model)
    if not moved.complete:
        way = "`crossfade compare --structure` says what differs"
        raise UserError(f"model.init: {source}: is not this network at {model.size} pixels; {way}")
    return f"{source.name}: all weights, by structure"


def example(model: FaceUnet) -> dict[str, torch.Tensor]:
    """Silence and a grey face."""
    return {"audio": torch.zeros(1, 1, EXAMPLE, model.features), "face": torch.zeros(1, 6, model.size, model.size)}


def phases(recipe: FaceRecipe) -> list[Phase]:
    return [_phase(spec) for spec in recipe.phases]


CARRIED = ("name", "epochs", "rates", "patience", "clip_norm", "accumulate", "steps")


def _phase(spec: FacePhase) -> Phase:
    terms = {name: use.make(training.PICTURE_TERMS, term, *_network(term)) for name, term in spec.terms.items()}
    return Phase(
        **{name: getattr(spec, name) for name in CARRIED},
        objective=Objective(terms),
        optimizer=lambda groups: use.make(training.OPTIMIZERS, spec.optimizer, groups),
        schedule=use.make(training.SCHEDULES, spec.schedule),
    )


def _network(term: Mapping[str, Any]) -> list[Any]:
    """What a term that looks through a network is given besides; made now, for a wrong file must be known before training."""
    if "network" not in term:
        return []
    made = picture_trunk(term["network"], term["blocks"], term["weights"])
    return [lambda *_: made]


@dataclass(frozen=True)
class Selector:
    """What training maximises, from the scores of val, by its name."""

    name: str

    def __call__(self, scores: Mapping[str, float]) -> float:
        return scores[self.name] if SELECT[self.name] else -scores[self.name]
