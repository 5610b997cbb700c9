"""Weights from elsewhere into our modules, strictly and with a report: what was loaded, adapted, missing, unexpected, mismatched."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from crossfade.clip import UserError
from crossfade.models.recognise import hint

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.models.encoder import Encoder

Adapt = Literal["sum", "mean"]
Rename = Mapping[str, str]  # foreign prefix -> ours

BUNDLE_FILE = "model.safetensors"
WRAPPERS = ("model", "state_dict")  # keys under which training scripts keep the weights
ALWAYS_ALLOWED = ("heads.*", "*num_batches_tracked")  # a head belongs to its classes; the counters steer nothing
SHOWN = 4  # names in a message
LINE = 160  # characters of a foreign error in a message


@dataclass(frozen=True)
class LoadReport:
    """What happened to every weight. `adapted` and `mismatched` say the two shapes beside the name; `renamed` counts foreign names."""

    source: str
    loaded: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    renamed: int = 0

    def line(self) -> str:
        """One line for the screen."""
        parts = {name: getattr(self, name) for name in ("adapted", "missing", "unexpected", "mismatched")}
        counts = [f"{len(names)} {part} ({shown(names)})" if names else f"0 {part}" for part, names in parts.items()]
        return f"{self.source}: {len(self.loaded)} loaded, " + ", ".join(counts)

    def to_json(self) -> str:
        """Every name, as a JSON object."""
        return json.dumps(asdict(self))


def start_from(
    encoder: Encoder,
    weights: str | None,
    *,
    named: Mapping[str, Callable[[], Named]] | None = None,
    rename: Rename | None = None,
    allow: Sequence[str] = (),
    adapt: Adapt = "sum",
    label: str = "",
    spare: Sequence[str] | None = None,
) -> Encoder:
    """The encoder with the weights a recipe names: None leaves it random, a key of `named` calls that, else a file or a bundle.

    `spare` are beginnings of names that may be left over of a file, where others may not (a ResNet34's weights fill a ResNet18 too).
    UserError where the weights do not fit, which names the encoder that they would fit.
    """
    if weights is None:
        return encoder
    entries = (named or {}).get(weights, lambda: read_weights(Path(weights), known=tuple(named or ())))()
    try:
        encoder.report = load_weights(encoder, entries, rename=rename, allow=allow, adapt=adapt, label=label or weights)
        _refuse_surplus(encoder.report, rename or {}, spare)
    except UserError as error:
        raise UserError(f"{error}{hint(entries, encoder.state_dict())}") from error
    return encoder


def load_weights(
    module: nn.Module,
    source: Path | str | Named,
    *,
    prefix: str = "",
    rename: Rename | None = None,
    allow: Sequence[str] = (),
    adapt: Adapt = "sum",
    label: str = "",
) -> LoadReport:
    """Fill a module from a file, a bundle folder or a dict of tensors.

    Names are taken under `prefix` where the source has it, else under the one prefix that fits most of the module ("encoders.audio.",
    "backbone.", none …), and foreign ones are renamed by `rename`. `allow` holds patterns (`stages.3.*`) of our names that may be missing
    or of another shape; heads always may. UserError where the source cannot be read, fits nothing or two parts, or leaves others out.
    """
    entries = source if isinstance(source, Mapping) else read_weights(Path(source))
    label = label or ("weights" if isinstance(source, Mapping) else str(source))
    wanted = module.state_dict()
    under, found = _under(entries, wanted, prefix=prefix, rename=rename or {}, label=label)
    fitting, report = _fit(found, wanted, adapt=adapt, label=label)
    report = replace(report, renamed=sum(name.startswith(under) and name.removeprefix(under) not in found for name in entries))
    _refuse_gaps(report, len(wanted), allow)
    module.load_state_dict(fitting, strict=False)
    return report


def adapt_input(weight: Tensor, channels: int, how: Adapt) -> Tensor:
    """A first convolution (O, I, …) for another number of input channels -> (O, channels, …).

    "sum" is timm's convention: to one channel the sum over I, to more the filters in turn times I / channels; both answer to a grey
    picture as before. "mean" puts the mean over I in every channel, as the cough original does; to one channel it answers I times weaker.
    """
    return ADAPTERS[how](weight, channels)


def read_weights(path: Path, *, known: Sequence[str] = ()) -> Named:
    """The tensors of a `.safetensors`, `.pth`, `.pt` or `.bin` file, or of a bundle folder, by name; `module.` prefixes stripped.

    `known` are the names a person could have meant instead of a path, for the message. No file is allowed to run code.
    """
    file = path / BUNDLE_FILE if path.is_dir() else path
    if not file.exists():
        others = f" or one of: {', '.join(known)}" if known else ""
        raise UserError(f"weights: {file}: no such file; give a file, a bundle folder{others}, or `null` to train from scratch")
    if file.suffix not in READERS:
        raise UserError(f"weights: {file}: {file.suffix or 'no ending'} is not one of {', '.join(READERS)}")
    entries = _unwrap(READERS[file.suffix](file))
    if not entries:
        raise UserError(f"weights: {file}: holds no tensors, neither bare nor under {' or '.join(WRAPPERS)}")
    return entries


def _safetensors(file: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights: {file}: not a whole safetensors file ({one_line(error)})") from error


def _torch(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        code = f"it asks for {asked[1]}" if asked else "it is not a plain dict of tensors"
        raise UserError(f"weights: {file}: needs code to load ({code}), which is refused; save its state_dict alone") from error
    except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"weights: {file}: not a whole PyTorch file ({one_line(error)})") from error


READERS: dict[str, Callable[[Path], object]] = {".safetensors": _safetensors, ".pth": _torch, ".pt": _torch, ".bin": _torch}


def _unwrap(content: object) -> Named:
    mapping = content if isinstance(content, Mapping) else {}
    inner = next((mapping[key] for key in WRAPPERS if isinstance(mapping.get(key), Mapping)), mapping)
    entries = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    parallel = bool(entries) and all(name.startswith("module.") for name in entries)
    return {name.removeprefix("module."): value for name, value in entries.items()} if parallel else entries


def _under(entries: Named, wanted: Named, *, prefix: str, rename: Rename, label: str) -> tuple[str, Named]:
    """The prefix that was asked for or else fits best, and the entries under it by our names."""
    prefixes = [prefix] if any(name.startswith(prefix) for name in entries) and prefix else _prefixes(entries)
    views = [{_ours(name.removeprefix(p), rename): t for name, t in entries.items() if name.startswith(p)} for p in prefixes]
    scores = [sum(name in wanted and wanted[name].shape == t.shape for name, t in view.items()) for view in views]
    best = [p for p, score in zip(prefixes, scores, strict=True) if score == max(scores)]
    if max(scores) == 0:
        raise UserError(f"weights: {label}: none of its {len(entries)} entries ({shown(list(entries))}) fits; wanted {shown(list(wanted))}")
    if len(best) > 1 and best[0]:
        raise UserError(f"weights: {label}: {' and '.join(best)} fit equally; use `init` to say which")
    return best[0], views[prefixes.index(best[0])]


def _prefixes(entries: Named) -> list[str]:
    """All dotted beginnings of the names, up to three words, the empty one first."""
    heads = {".".join(name.split(".")[:words]) + "." for name in entries for words in (1, 2, 3) if name.count(".") >= words}
    return ["", *sorted(heads)]


def _ours(name: str, rename: Rename) -> str:
    """By the longest foreign prefix that it has, found by its length: names and prefixes may be hundreds each."""
    foreign = next((name[:size] for size in range(len(name), 0, -1) if name[:size] in rename), None)
    return name if foreign is None else rename[foreign] + name.removeprefix(foreign)


def _fit(found: Named, wanted: Named, *, adapt: Adapt, label: str) -> tuple[Named, LoadReport]:
    """The entries that fit, the first convolution adapted where only its channels differ, and those beside it; and the report."""
    first = next((name for name, tensor in wanted.items() if tensor.ndim > 2 and name.endswith("weight")), "")
    common = [name for name in wanted if name in found]
    same = [name for name in common if found[name].shape == wanted[name].shape]
    differ = [name for name in common if name not in set(same)]
    change = _channels(found[first], wanted[first]) if first in differ else None
    turned = [name for name in differ if change and _channels(found[name], wanted[name]) == change]
    fitting = {name: found[name] for name in same}
    fitting |= {name: adapt_input(found[name], wanted[name].shape[1], adapt) for name in turned}
    report = LoadReport(
        source=label,
        loaded=tuple(fitting),
        adapted=tuple(f"{name} {found[name].shape[1]} to {wanted[name].shape[1]} channels by {adapt}" for name in turned),
        missing=tuple(name for name in wanted if name not in found),
        unexpected=tuple(name for name in found if name not in wanted),
        mismatched=tuple(f"{name} {_shape(found[name])} for {_shape(wanted[name])}" for name in differ if name not in turned),
    )
    return fitting, report


def _refuse_surplus(report: LoadReport, rename: Rename, spare: Sequence[str] | None) -> None:
    """Entries of the encoder's own parts that found no place in it; None of `spare`: whatever they are."""
    parts = {name.split(".")[0] for name in rename} | {"stages"}
    own = [name for name in report.unexpected if name.split(".")[0] in parts]
    over = [] if spare is None else [name for name in own if not name.startswith(tuple(spare))]
    if over:
        raise UserError(f"weights: {report.source}: {len(over)} of its entries ({shown(over)}) have no place in this encoder")


def _refuse_gaps(report: LoadReport, wanted: int, allow: Sequence[str]) -> None:
    patterns = (*ALWAYS_ALLOWED, *allow)
    missing = [name for name in report.missing if not _matches(name, patterns)]
    mismatched = [text for text in report.mismatched if not _matches(text.split(" ")[0], patterns)]
    if not missing and not mismatched:
        return
    gaps = [f"{len(missing)} of {wanted} weights are missing ({shown(missing)})"] if missing else []
    gaps += [f"{len(mismatched)} of another shape ({shown(mismatched)})"] if mismatched else []
    raise UserError(f"weights: {report.source}: {' and '.join(gaps)}; where that is meant, list patterns under `allow_missing`")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _channels(found: Tensor, wanted: Tensor) -> tuple[int, int] | None:
    """Input channels before and after, where nothing else differs."""
    alike = found.ndim == wanted.ndim and found.shape[0] == wanted.shape[0] and found.shape[2:] == wanted.shape[2:]
    return (found.shape[1], wanted.shape[1]) if alike else None


def _sum(weight: Tensor, channels: int) -> Tensor:
    if channels == 1:
        return weight.sum(1, keepdim=True)
    before = weight.shape[1]
    turns = -(-channels // before)  # rounded up
    return torch.cat([weight] * turns, 1)[:, :channels] * (before / channels)


def _mean(weight: Tensor, channels: int) -> Tensor:
    return weight.mean(1, keepdim=True).expand(-1, channels, *weight.shape[2:]).clone()


ADAPTERS: dict[str, Callable[[Tensor, int], Tensor]] = {"sum": _sum, "mean": _mean}


def one_line(error: BaseException) -> str:
    """The beginning of what an error says, in one line; its kind where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LINE else text[:LINE] + " …"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def shown(names: Sequence[str]) -> str:
    """The first few of these names."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
