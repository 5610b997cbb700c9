"""What a recipe may say: its keys, their kinds and their defaults. What a `use` chooses is checked elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from crossfade import settings, use
from crossfade.clip import UserError

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SIZE = re.compile(r"([\d.]+)\s*([KMGT]B)")
UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def bytes_in(given: Any) -> Any:
    """ "50 GB" -> 5e10; anything else as it is."""
    found = SIZE.fullmatch(given.strip().upper()) if isinstance(given, str) else None
    return float(found[1]) * UNITS[found[2]] if found else given


Use = Any  # {use: name, option: value}, or just the name; `use.check` says what is wrong with it, better than a type could


class Strict(BaseModel):
    """Keys that are not there are refused."""

    model_config = ConfigDict(extra="forbid")


class DomainsSpec(Strict):
    """Which domains have labels and which have none to learn from; see crossfade.data.domains."""

    source: list[str] = Field(min_length=1)
    target: list[str] = Field(min_length=1)
    labelled: float = Field(0.0, ge=0, le=1)  # share of the target's training clips whose labels are used after all


class DataSpec(Strict):
    """Which clips, how they are split, and what of them the model sees."""

    corpus: Use
    split: dict[str, Any] = {}
    domains: DomainsSpec | None = None
    streams: dict[str, Use] = Field(min_length=1)
    views: dict[str, dict[str, Any]] = {}  # view -> stream -> augmentations
    degrade: dict[str, Any] = {}  # stream -> augmentations on every clip, test too: a condition, not a help
    several: list[str] = []  # targets of which a clip may have several classes, or none; what the corpus says is added
    batch: PositiveInt = 16
    workers: int = Field(-1, ge=-1)
    bad_fraction: float = Field(0.05, ge=0, le=1)  # of files that may be unreadable before the run refuses to start


class ModelSpec(Strict):
    """Encoders → mixers → merger → heads."""

    encoders: dict[str, Use] = Field(min_length=1)
    init: dict[str, Path] = {}  # part of the model -> bundle or checkpoint it starts from
    allow_missing: list[str] = []  # patterns of entries that such a file may lack
    mix: list[Use] = []
    merge: Use = "each"
    drop_stream: float = Field(0.0, ge=0, lt=1)
    heads: dict[str, Use | dict[str, Use]] = Field(min_length=1)  # target -> head, or embedding -> head


class PruneSpec(Strict):
    """Which share of the weights that learn becomes 0 and stays so: at once, or growing over the phase's first epochs."""

    to: float = Field(gt=0, lt=1)
    over: NonNegativeInt = 0


def prune_keys(given: Any) -> Any:
    """`prune: 0.8` as keys of PruneSpec."""
    return given if given is None or isinstance(given, dict) else {"to": given}


class TeacherSpec(Strict):
    """A copy of the model that follows it slowly; see crossfade.training.teacher.Teacher."""

    momentum: float = Field(0.999, ge=0, le=1)
    sees: str | None = None  # a view; null = the clean clips
    warmup: NonNegativeInt = 0
    every: Literal["step", "epoch"] = "step"
    rising: bool = False
    center: float | None = Field(None, ge=0, lt=1)
    align: float | None = Field(None, ge=0, lt=1)
    prior: Literal["start", "source", "uniform"] = "uniform"  # shares of classes that the teacher's answers are aligned to


MIXES = {"source": {"source": 1.0, "target": 0.0}, "target": {"source": 0.0, "target": 1.0}}


def mix_keys(given: Any) -> Any:
    """`mix: source` as shares of the two domains."""
    if isinstance(given, str):
        if given not in MIXES:
            raise PydanticCustomError("mix", "it is source, target, or shares such as {source: 1, target: 1}")
        return MIXES[given]
    return given


class PhaseSpec(Strict):
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
    balance: Literal["none", "root", "class"] = "none"  # how often the clips of a class are drawn; see crossfade.data.sampling
    mix: Annotated[dict[Literal["source", "target"], Annotated[float, Field(ge=0)]] | None, BeforeValidator(mix_keys)] = None
    teacher: TeacherSpec | None = None
    keep: Literal["student", "teacher"] = "student"
    select: str | None = None  # what this phase is judged by on val; null = as the recipe

    @model_validator(mode="after")
    def _grows_within_its_epochs(self) -> PhaseSpec:
        if self.prune and self.prune.over > self.epochs:
            raise UserError(f"phases.{self.name}.prune.over: found {self.prune.over}, but the phase has {self.epochs} epochs")
        return self

    @model_validator(mode="after")
    def _mixes_something(self) -> PhaseSpec:
        if self.mix is not None and not any(self.mix.values()):
            raise UserError(f"phases.{self.name}.mix: found {self.mix}; one of source and target must be above 0")
        return self


class StoreSpec(Strict):
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


class Recipe(Strict):
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


Kinds = Mapping[str, type[BaseModel]]
KINDS: Kinds = {
    "": Recipe,
    "data": DataSpec,
    "domains": DomainsSpec,
    "model": ModelSpec,
    "phases": PhaseSpec,
    "prune": PruneSpec,
    "store": StoreSpec,
    "teacher": TeacherSpec,
}


def one_line(error: ValidationError, raw: Any, kinds: Kinds) -> str:
    """What is wrong with a recipe: the key, what was found, what would be right. `kinds`: a key -> the keys below it; "": the whole."""
    first = _first(error)
    where = ".".join(_readable(first["loc"], raw))
    if first["type"] == "extra_forbidden":
        return f"{where}: there is no such key; {settings.nearest(first['loc'][-1], _keys_at(first['loc'][:-1], kinds))}"
    if first["type"] == "missing":
        return f"{where}: missing"
    if first["type"] == "list_type" and isinstance(first["input"], str):
        return f"{where}: found {first['input']!r}; it is a list, so write [{first['input']}]"
    return f"{where}: found {first['input']!r}; {use.explain(error)}"


def _first(error: ValidationError) -> Any:
    """What to say of all that is wrong; where a key is missing beside an unknown one, it may be misspelt, so that one goes before."""
    first, *others = error.errors()
    beside = [each for each in others if each["type"] == "extra_forbidden" and each["loc"][:-1] == first["loc"][:-1]]
    return next(iter(beside if first["type"] == "missing" else []), first)


def _readable(path: tuple[Any, ...], raw: Any) -> list[str]:
    """A place in the recipe with phases by name."""
    parts = [str(part) for part in path]
    if path[0] == "phases" and len(path) > 1:
        phase = raw["phases"][path[1]]
        parts[1] = str(phase.get("name", path[1]) if isinstance(phase, dict) else path[1])
    return parts


def _keys_at(path: tuple[Any, ...], kinds: Kinds) -> Iterable[str]:
    return next((kinds[key] for key in reversed(path) if key in kinds), kinds[""]).model_fields
