"""What a recipe of a talking face may say, checked, with every default written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from crossfade import recipe as recipes
from crossfade import settings, training, use
from crossfade.clip import UserError
from crossfade.spec import Rate, Strict, Use, one_line

if TYPE_CHECKING:
    from crossfade.data.face.prepared import Prepared

TASK = "talking_face"
HIGHER = {"psnr": True, "ssim": True, "mae": False, "temporal": False}
SELECT = {f"{place}{name}": higher for place in ("mouth_", "") for name, higher in HIGHER.items()}  # metric -> whether more is better


class SplitSpec(Strict):
    """Shares that are held out: whole groups of many, else the ends of each clip."""

    val: float = Field(0.1, gt=0, lt=0.5)
    test: float = Field(0.15, gt=0, lt=0.5)
    seed: int | None = None  # null = the recipe's


class FaceData(Strict):
    """A folder that `crossfade face prepare` made, and what of it is learnt from."""

    corpus: Path | None = None
    split: SplitSpec = Field(default_factory=lambda: SplitSpec.model_validate({}))
    sound: bool = True  # false: silence in its place, which says what the picture alone gives
    batch: int = Field(16, ge=2, multiple_of=2)  # pictures, in twos that follow each other
    val_clips: PositiveInt = 12  # that an epoch is scored on; the last word is on all
    features: dict[str, Any] = Field(default_factory=dict)  # of the sound; as it was prepared


class FaceModel(Strict):
    """The network. Its size and how wide the sound's features are follow from what was prepared."""

    use: Literal["face_unet"] = "face_unet"
    size: PositiveInt | None = None
    features: PositiveInt | None = None
    init: Path | None = None  # a bundle, a file of weights, or a .param of the same network to start from


class LpipsSpec(Strict):
    """Files of weights that the user owns: torchvision's AlexNet, and the linear layers of the published alex.pth."""

    alexnet: Path
    linear: Path


class ScoresSpec(Strict):
    """Scores by published networks, each where its weights are named."""

    lpips: LpipsSpec | None = None
    syncnet: Path | None = None  # the published syncnet_v2.model


class FacePhase(Strict):
    """One stretch of training; see crossfade.training.loop.Phase."""

    name: str
    epochs: NonNegativeInt
    rates: dict[str, Rate | None] = Field(min_length=1)
    terms: dict[str, Use] = Field(min_length=1)
    optimizer: Use = "adamw"
    schedule: Use = "constant"
    patience: NonNegativeInt = 0
    clip_norm: float | None = Field(None, gt=0)
    accumulate: PositiveInt = 1
    steps: PositiveInt | None = None


class FaceRecipe(Strict):
    """The whole recipe, resolved."""

    task: Literal["talking_face"]
    name: str
    about: str = ""
    seed: int = 0
    data: FaceData = Field(default_factory=lambda: FaceData.model_validate({}))
    model: FaceModel = FaceModel()
    phases: list[FacePhase] = Field(min_length=1)
    scores: ScoresSpec = ScoresSpec()
    select: str = "mouth_psnr"
    precision: Literal["no", "bf16", "fp16"] = "no"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    track: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default_factory=list)

    def yaml(self) -> str:
        return settings.write(self.model_dump(mode="json"))


KINDS = {"": FaceRecipe, "data": FaceData, "split": SplitSpec, "model": FaceModel, "phases": FacePhase, "scores": ScoresSpec}


def load(name: str, overrides: Sequence[str] = (), *, corpus: Path | None = None, start: Path | None = None) -> FaceRecipe:
    """Find, override, check and resolve. `corpus`: what `face prepare` made; `start`: a finished run whose weights it begins with."""
    stem, raw = recipes.find(name)
    raw = {"name": stem, **raw}
    settings.override(raw, overrides)
    if corpus:
        settings.put(raw, ["data", "corpus"], str(corpus))
    if start:
        settings.put(raw, ["model", "init"], str(start))
    return resolve(raw)


def resolve(raw: Mapping[str, Any]) -> FaceRecipe:
    """Check plain data and write every default out. UserError: one line."""
    try:
        recipe = FaceRecipe.model_validate(raw)
    except ValidationError as error:
        raise UserError(one_line(error, raw, KINDS)) from None
    if recipe.data.corpus:
        recipe.data.corpus = use.absolute(recipe.data.corpus)
    if recipe.model.init:
        recipe.model.init = use.absolute(recipe.model.init)
    _absolute(recipe.scores)
    recipe.data.split.seed = recipe.seed if recipe.data.split.seed is None else recipe.data.split.seed
    recipes.one_of(recipe.select, SELECT, "select")
    if len({phase.name for phase in recipe.phases}) < len(recipe.phases):
        raise UserError("phases: two phases have the same name")
    for phase in recipe.phases:
        _resolve_phase(phase, f"phases.{phase.name}")
    return recipe


def _absolute(scores: ScoresSpec) -> None:
    if scores.lpips:
        scores.lpips = LpipsSpec(alexnet=use.absolute(scores.lpips.alexnet), linear=use.absolute(scores.lpips.linear))
    if scores.syncnet:
        scores.syncnet = use.absolute(scores.syncnet)


def _resolve_phase(phase: FacePhase, where: str) -> None:
    given = {name: spec for name, spec in phase.terms.items() if spec is not None}
    if not given:
        raise UserError(f"{where}.terms: there is none, so there is nothing to minimise; one of {', '.join(training.PICTURE_TERMS)}")
    phase.terms = {name: use.check(training.PICTURE_TERMS, spec, f"{where}.terms.{name}") for name, spec in given.items()}
    phase.optimizer = use.check(training.OPTIMIZERS, phase.optimizer, f"{where}.optimizer")
    phase.schedule = use.check(training.SCHEDULES, phase.schedule, f"{where}.schedule")
    for name, spec in phase.terms.items():
        try:
            use.make(training.PICTURE_TERMS, spec)
        except UserError as error:
            raise UserError(f"{where}.terms.{name}: {error}") from None
    if phase.epochs and not any(phase.rates.values()):
        raise UserError(f"{where}.rates: every part is frozen, so nothing learns; give one a rate, or say epochs: 0")


def fit_to(recipe: FaceRecipe, prepared: Prepared) -> None:
    """What follows from the prepared clips is written out; what contradicts them is refused."""
    follows = {"size": prepared.crop.size, "features": prepared.dim}
    for key, found in follows.items():
        said = getattr(recipe.model, key)
        if said not in (None, found):
            way = "leave the key out, or prepare anew"
            raise UserError(f"model.{key}: found {said}, but {prepared.folder} was prepared with {found}; {way}")
        setattr(recipe.model, key, found)
    if recipe.data.features not in ({}, prepared.features):
        raise UserError(f"data.features: found {recipe.data.features}, but {prepared.folder} was prepared with {prepared.features}")
    recipe.data.features = dict(prepared.features)
