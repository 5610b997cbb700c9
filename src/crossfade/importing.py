"""ncnn in: a network shown as a table, and a classifier made into a bundle, from which all else works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfade import build
from crossfade import recipe as recipes
from crossfade.clip import UserError
from crossfade.deploy import bundle as bundles
from crossfade.deploy import card
from crossfade.models.ends import Ending, ending, picture_of
from crossfade.models.imported import NOTE, Colours, ncnn, text_of
from crossfade.models.surgery import one_line
from crossfade.ncnn.model import Model, read, weights_beside
from crossfade.ncnn.show import Row
from crossfade.ncnn.show import show as rows_of
from crossfade.recipe import Recipe

if TYPE_CHECKING:
    from crossfade.models.encoder import Encoder
    from crossfade.models.model import Fused

FINE_TUNING = "fine-tuning.yaml"  # beside the bundle: a recipe that starts from it
LIKE = "image"  # the packaged recipe whose phases that has
TOP = 4  # stages that its second phase trains
TERMS = {"Sigmoid": "binary_cross_entropy"}  # of a network that says yes or no to each class; else cross_entropy
INTO_MODULE = "crossfade.ncnn.convert.to_torch(read(param, weights)) gives it as a module nonetheless"


# ---- shown


@dataclass(frozen=True)
class Shown:
    """A network as rows, one a layer; sums leave out layers of which no number is known."""

    rows: list[Row]

    @property
    def weights(self) -> int:
        return sum(row.weights or 0 for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        return sum(row.multiply_adds or 0 for row in self.rows)

    def table(self) -> list[dict[str, Any]]:
        """For a terminal: plain words in columns."""
        return [
            {
                "layer": row.name,
                "kind": row.kind,
                "inputs": ", ".join(row.inputs),
                "shape": ", ".join("×".join(map(str, shape)) if shape else "?" for shape in row.shapes),
                "parameters": " ".join(f"{name}={_brief(value)}" for name, value in row.parameters.items()),
                "weights": "?" if row.weights is None else f"{row.weights:,}",
                "multiply-adds": "?" if row.multiply_adds is None else f"{row.multiply_adds:,}",
            }
            for row in self.rows
        ]

    def total(self) -> str:
        """One line: layers, weights and multiply-adds, and what is not in the sums."""
        unknown = [row for row in self.rows if row.kind != "Input" and None in (row.weights, row.multiply_adds)]
        without = f"; {len(unknown)} layers are not in the sums, for their kind or shape is not known" if unknown else ""
        return f"{len(self.rows)} layers, {self.weights:,} weights, {self.multiply_adds:,} multiply-adds{without}"

    def to_json(self) -> dict[str, Any]:
        return {"layers": [asdict(row) for row in self.rows], "weights": self.weights, "multiply_adds": self.multiply_adds}


def show(param: Path, weights: Path | None = None, input_size: Sequence[int] | None = None) -> Shown:
    """A network of ncnn as a table. `weights` are read too, where given, so that a file of another network is found out.

    `input_size` is the shape (C, H, W) of the only input, where the file says none or another one is wanted. UserError.
    """
    model = read(param, weights)
    inputs = model.graph.inputs
    if input_size and len(inputs) != 1:
        raise UserError(f"{param}: takes {len(inputs)} inputs ({', '.join(inputs)}), so one shape does not say what goes in")
    return Shown(rows_of(model, {inputs[0]: tuple(input_size)} if input_size else None))


def _brief(value: Any) -> str:
    numbers = value if isinstance(value, tuple) else (value,)
    return ",".join(f"{number:g}" if isinstance(number, float) else str(number) for number in numbers)


# ---- imported


def import_ncnn(
    param: Path,
    weights: Path | None,
    out: Path,
    *,
    labels: Path | Sequence[str] | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    white: float = 1.0,
    colours: Colours = "rgb",
    target: str = "label",
    command: str = "",
) -> Path:
    """A classifier of ncnn as a bundle in a new folder, which predicts what ncnn does; in it too FINE_TUNING, a recipe that starts from it.

    `weights` None: the .bin beside the .param. `labels`: the names of the classes in order, or a file with one a line; else class0 ….
    ncnn's files do not say what pictures look like: `mean` and `std` are numbers for red, green and blue, of pixels in 0 … `white`, 1 or
    255 (std is the inverse of what ncnn's programs call norm_vals), by default ImageNet's. `colours` bgr: it takes blue first.
    UserError in one line where the network is no classifier, or the labels are not as many as its scores.
    """
    _refuse_taken(out)
    model = read(param, weights or weights_beside(param))
    end = _classifier(model, size)
    classes = _class_names(labels, end.classes)
    options = {"size": size, "mean": _in_one(mean, white), "std": _in_one(std, white), "colours": colours}
    encoder = ncnn(graph=str(param), weights=str(weights or weights_beside(param)), **options)
    encoder_spec = {"use": "ncnn", "graph": text_of(model.graph), **options}
    recipe = _recipe(param, encoder_spec, end, encoder, target, whole=True)
    fused = _filled(recipe, encoder, model, end, {target: classes})
    return _write(out, recipe, fused, {target: classes}, _tuned(param, out, encoder_spec, end, encoder, target), encoder, command)


def _refuse_taken(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; choose another --out")


def _classifier(model: Model, size: int | None) -> Ending:
    try:
        return ending(model.graph, picture_of(model.graph, size).shapes)
    except UserError as error:
        raise UserError(f"{error}; a bundle is made of classifiers alone, but {INTO_MODULE}") from None


def _class_names(labels: Path | Sequence[str] | None, count: int) -> list[str]:
    if labels is None:
        return [f"class{number}" for number in range(count)]
    names = _lines(labels) if isinstance(labels, Path) else list(labels)
    where = labels if isinstance(labels, Path) else "labels"
    if len(names) != count:
        raise UserError(f"{where}: holds {len(names)} names, but the network gives {count} scores")
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise UserError(f"{where}: {twice!r} stands twice; every class needs a name of its own")
    return names


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of labels ({one_line(error)})") from None


def _in_one(values: Sequence[float] | None, white: float) -> tuple[float, ...] | None:
    """Of pixels in 0 … white -> of pixels in 0 … 1. UserError."""
    if white <= 0:
        raise UserError(f"--white: found {white:g}; it is what a white pixel is, 1 or 255")
    return None if values is None else tuple(value / white for value in values)


def _recipe(param: Path, encoder_spec: dict[str, Any], end: Ending, encoder: Encoder, target: str, *, whole: bool) -> Recipe:
    """The packaged recipe with this encoder. `whole`: with its own classifier too, and through no phase of training yet."""
    raw = recipes.load(LIKE, target=target).model_dump(mode="json")
    name = param.name.removesuffix(".bin").removesuffix(".param")
    raw |= {"name": name, "about": f"imported from {param.name}"}
    raw["data"]["streams"] = {"image": {"use": "image", "channels": encoder.spec.shape[1]}}
    raw["data"]["several"] = [target] if end.squash in TERMS else []
    raw["model"]["encoders"] = {"image": encoder_spec}
    term = {"use": TERMS.get(end.squash, "cross_entropy")}
    raw["phases"] = [{**phase, "terms": {name: spec | term for name, spec in phase["terms"].items()}} for phase in raw["phases"]]
    if whole:
        raw["data"]["views"] = {}
        raw["model"]["heads"] = {target: {"use": "linear" if end.linear else "identity"}}
        raw["phases"] = [{"name": "imported", "epochs": 0, "rates": {"*": 1e-4}, "terms": {target: term | {"target": target}}}]
    return recipes.resolve(raw, str(param))


def _tuned(param: Path, out: Path, encoder_spec: dict[str, Any], end: Ending, encoder: Encoder, target: str) -> Recipe:
    """A recipe that starts from the bundle: first a new head, then the last stages of the network too."""
    recipe = _recipe(param, encoder_spec | {"weights": str((out / bundles.WEIGHTS).absolute())}, end, encoder, target, whole=False)
    top = min(TOP, len(encoder.stages) // 2)
    recipe.phases[-1].rates = {f"encoders.image[-{top}:]": 1e-4, "encoders": None, "*": 1e-3} if top else {"encoders": 1e-4, "*": 1e-3}
    recipe.name = f"{recipe.name}-tuned"
    return recipe


def _filled(recipe: Recipe, encoder: Encoder, model: Model, end: Ending, classes: dict[str, list[str]]) -> Fused:
    """The bundle's model with the network's weights."""
    import torch

    fused = build.model(recipe, classes, pretrained=False)
    fused.encoders["image"].load_state_dict(encoder.state_dict())
    if end.linear:
        arrays = (model.weights or {})[end.linear.name]
        (target,) = classes
        linear = fused.heads[target]["image"][-1]
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(arrays["weight"]).flatten(1))
            linear.bias.copy_(torch.from_numpy(arrays["bias"])) if "bias" in arrays else linear.bias.zero_()
    return fused.eval().requires_grad_(False)


def _write(out: Path, recipe: Recipe, model: Fused, classes: dict[str, list[str]], tuned: Recipe, encoder: Encoder, command: str) -> Path:
    """The folder, metrics.json last: where it is, the bundle is whole."""
    from crossfade.training.checkpoint import save_weights

    out.mkdir(parents=True, exist_ok=True)
    save_weights(out / bundles.WEIGHTS, model.state_dict())
    bundles.write_json(out / bundles.LABELS, classes)
    bundles.write_json(out / bundles.ENVIRONMENT, bundles.environment("cpu"))
    bundles.write_json(out / bundles.NOTES, _notes(recipe, model, encoder, command))
    bundles.write_text(out / FINE_TUNING, tuned.yaml())
    bundles.write_text(out / bundles.RECIPE, recipe.yaml())
    card.write(out, {"target": recipe.targets[0]})
    bundles.write_json(out / bundles.METRICS, {"target": recipe.targets[0]})
    return out


def _notes(recipe: Recipe, model: Fused, encoder: Encoder, command: str) -> dict[str, Any]:
    """As a run writes them, of a network that saw none of our clips."""
    import torch

    from crossfade.models.cost import multiply_adds
    from crossfade.models.model import describe

    shape = [size or 1 for size in build.streams(recipe)["image"].spec.shape]
    return {
        "warnings": [f"image: {NOTE}"] if encoder.note else [],
        "skipped": [],
        "partly": [],
        "loads": [f"image: {encoder.report.line()}"] if encoder.report else [],
        "unseen": False,
        "streams": {},
        "counts": {},
        "heads": {},
        "parameters": [[name, count] for name, count in describe(model)],
        "multiply_adds": multiply_adds(model, {"image": torch.zeros(1, *shape)}),
        "learning": {},
        "command": command,
    }
