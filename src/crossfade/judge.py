"""A model and clips in, predictions and numbers out: what `train`, `evaluate` and `predict` share."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from crossfade import build
from crossfade.clip import UNKNOWN, Clip, Corpus, UserError
from crossfade.data.intake import Intake, Reader, take_in
from crossfade.data.loader import LABELS, Loader, Samples, auto_workers, known_labels
from crossfade.evaluation import METRICS
from crossfade.evaluation.contributions import Contributions
from crossfade.evaluation.contributions import table as contributed
from crossfade.evaluation.operating import operating
from crossfade.evaluation.predictions import Predictions
from crossfade.evaluation.report import Example
from crossfade.evaluation.tables import KINDS, Answers, concatenate, scores, summary
from crossfade.store import Store
from crossfade.training import CRITERIA
from crossfade.training.step import clear_memory, out_of_memory

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.data.domains import Domains
    from crossfade.data.loader import View
    from crossfade.recipe import Recipe

NOTE = "note: "  # how a remark of a corpus about itself begins
WORST_FRAMES = 4  # of a clip, shown under a mistake
SHOWN = 224  # pixels a side at most of what the report shows
SMALL = 64  # pixels a side up to which a picture is shown without loss


@dataclass(frozen=True)
class Desk:
    """Everything needed to serve clips to one recipe's model."""

    recipe: Recipe
    classes: Mapping[str, list[str]]
    reader: Reader
    device: torch.device

    def intake(self, clips: list[Clip], advance: Callable[[], None]) -> Intake:
        return take_in(clips, self.reader, advance=advance)

    def loader(self, clips: list[Clip], intake: Intake, view: View | None = None) -> Loader:
        """In this process and whole; `dataclasses.replace` gives it workers and a share."""
        samples = Samples(clips, intake.streams, self.reader, view or {}, build.degrade(self.recipe))
        labels = {target: self.labels(clips, target) for target in self.recipe.targets}
        if self.domains:
            labels["domain"] = torch.tensor([self.domains.number(clip) for clip in clips], dtype=torch.int64)
        return Loader(samples, labels, self.recipe.data.batch)

    def labels(self, clips: list[Clip], target: str) -> Tensor:
        """(clips,) class indices, or of a target with several classes a clip (clips, C) which it has."""
        return LABELS[self.several(target)](clips, target, self.classes[target])

    def several(self, target: str) -> bool:
        """Whether a clip may have several classes of this target."""
        return target in self.recipe.data.several

    @cached_property
    def domains(self) -> Domains | None:
        return build.domains_of(self.recipe)

    def one_clip(self) -> Named:
        """A silent, black clip with every stream: {"audio": (1, …), …}, for measuring what one costs."""
        return {name: torch.zeros(1, *map(_declared, stream.spec.shape)) for name, stream in self.reader.streams.items()}

    def workers(self, clips: list[Clip]) -> int:
        first = next(iter(clips[0].media.values()), None) if clips else None
        return auto_workers(self.recipe.data.workers, first)


def _declared(size: int | None) -> int:
    if size is None:
        raise ValueError("a stream declares every size of what it makes")
    return size


def open_desk(recipe: Recipe, classes: Mapping[str, list[str]], device: torch.device) -> Desk:
    """What serves clips to this recipe's model."""
    store = Store(limit=recipe.store.limit, keep=recipe.store.keep)
    return Desk(recipe, classes, Reader(build.streams(recipe), store, recipe.name), device)


@dataclass(frozen=True)
class Bad:
    """What is not used of a corpus and why: files from which nothing was read, files read in part, and what to know besides."""

    files: list[tuple[str, str]]
    partly: list[tuple[str, str]]
    remarks: list[str]

    def warnings(self) -> list[str]:
        """The remarks, and one sentence for each thing that files lack."""
        lacking: dict[str, list[str]] = {}
        for path, reason in self.partly:
            lacking.setdefault(reason, []).append(path)
        return [*self.remarks, *(f"{_used(paths)} used in part: {reason}" for reason, paths in lacking.items())]


def _used(paths: list[str]) -> str:
    return f"{paths[0]} is" if len(paths) == 1 else f"{len(paths)} files, such as {paths[0]}, are"


def bad(corpus: Corpus, intake: Intake, reader: Reader) -> Bad:
    """Sort what the corpus could not place and what could not be decoded; each file once.

    A video without sound whose pictures are used is no bad file. An entry of the corpus that begins with "note: " is a remark.
    """
    used = {str(reader.source(clip, name)) for clip in intake.clips for name in intake.streams[clip.id]}
    failed = list(dict(reversed(intake.failed)).items())[::-1]  # the first reason of each
    notes = [why.removeprefix(NOTE) for _, why in corpus.skipped if why.startswith(NOTE)]
    unplaced = [(path, why) for path, why in corpus.skipped if not why.startswith(NOTE)]
    files, partly = ([entry for entry in failed if (entry[0] in used) is part] for part in (False, True))
    return Bad([*files, *unplaced], partly, notes)


def refuse_if_too_many(found: Bad, clips: list[Clip], fraction: float) -> None:
    """Stop before training when so many files are unreadable, or named and not there, that the result would be about other data."""
    files = {str(path) for clip in clips for path in clip.media.values()}
    missing = {path for path, _ in found.files if path not in files and not Path(path).exists()}
    lost = [(path, why) for path, why in found.files if path in files or path in missing]
    share = len(lost) / max(len(files | missing), 1)
    if share > fraction:
        path, reason = lost[0]
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UserError(
            f"{share:.1%} of the files cannot be read ({path}: {reason}{more}), more than data.bad_fraction={fraction:g} allows; "
            "`crossfade check` lists them all"
        )


@torch.no_grad()
def answers(model: nn.Module, batches: Iterable[Named], device: torch.device, only: Iterable[str] | None = None) -> tuple[Tensor, Named]:
    """Run a model over batches: rows (N,) and, for each output, float32 (N, …), on the CPU. `only` keeps just these streams."""
    was_training = model.training
    model.eval()
    rows, outputs = [], []
    hidden = _hidden(only)
    for batch in batches:
        seen = {name: tensor.to(device) for name, tensor in batch.items() if not hidden(name)}
        outputs.append({name: tensor.float().cpu() for name, tensor in in_halves(model, seen).items()})
        rows.append(batch["index"])
    model.train(was_training)
    names = set.intersection(*(set(output) for output in outputs)) if outputs else set()
    return torch.cat(rows), {name: torch.cat([output[name] for output in outputs]) for name in sorted(names)}


def in_halves(call: Callable[[Named], Named], batch: Named) -> Named:
    """What a call makes of a batch; where the memory does not hold it, of its halves, one after the other."""
    clips = len(next(iter(batch.values())))
    try:
        return call(batch)
    except RuntimeError as error:
        if not out_of_memory(error) or clips < 2:
            raise
    clear_memory()
    parts = [in_halves(call, {name: tensor[rows] for name, tensor in batch.items()}) for rows in torch.arange(clips).chunk(2)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _hidden(only: Iterable[str] | None) -> Callable[[str], bool]:
    """Which keys of a batch belong to other streams; a stream's own are "audio", "audio.mask" and "audio[11:].x"."""
    if only is None:
        return lambda name: False
    kept = tuple(f"{stream}{mark}" for stream in only for mark in (".mask", "["))
    return lambda name: name not in only and not name.startswith(kept) and name != "index"


Serve = Callable[[list[Clip]], Loader]  # clean batches of these clips


def predictions(
    desk: Desk,
    model: nn.Module,
    clips: list[Clip],
    intake: Intake,
    split: str,
    *,
    only: tuple[str, ...] | None = None,
    serve: Serve | None = None,
) -> dict[str, Answers]:
    """One table a target. With `only`, the clips that have all those streams, judged by those alone. `serve`: where batches come from."""
    having = [clip for clip in clips if only is None or set(only) <= set(intake.streams[clip.id])]
    if not having:
        return {}
    return _tables(desk, model, serve(having) if serve else desk.loader(having, intake), split, only)


def _tables(desk: Desk, model: nn.Module, loader: Loader, split: str, only: Iterable[str] | None = None) -> dict[str, Answers]:
    rows, outputs = answers(model, loader.in_order(), desk.device, only)
    order = torch.argsort(rows)
    return {target: _table(desk, loader.samples.clips, split, target, outputs[target][order]) for target in desk.recipe.targets}


def _table(desk: Desk, clips: list[Clip], split: str, target: str, logits: Tensor) -> Answers:
    true = desk.labels(clips, target).numpy()
    named = {
        "clip": [clip.id for clip in clips],
        "group": [clip.group for clip in clips],
        "domain": [clip.domain for clip in clips],
        "split": [split] * len(clips),
        "true": np.where(true == UNKNOWN, -1, true).astype(np.int64),
        "classes": list(desk.classes[target]),
    }
    return KINDS[desk.several(target)](probability=probability(desk, target, logits), **named)


def probability(desk: Desk, target: str, logits: Tensor) -> np.ndarray:
    """(N, C): each class's own, or shares of one, as the target says."""
    return (logits.double().sigmoid() if desk.several(target) else logits.double().softmax(-1)).numpy()


def validate(desk: Desk, model: nn.Module, loader: Loader, before: Answers | None = None) -> dict[str, float]:
    """What training selects by: every metric of a loader's labelled clips, and the criteria of the target domain's, which need no labels.

    `before`: the first target's answers for the same clips as the phase began.
    """
    tables = answer(desk, model, loader)
    return quick_scores(tables) | _unlabelled_scores(desk, tables[desk.recipe.targets[0]], before)


def answer(desk: Desk, model: nn.Module, loader: Loader) -> dict[str, Answers]:
    """One table a target for the clips of val."""
    return _tables(desk, model, loader, "val")


def target_shares(desk: Desk, table: Answers) -> np.ndarray:
    """(C,) the mean answer to the target domain's clips, of all clips where there are no two domains."""
    return (_of_target(desk.domains, table) if desk.domains else table.probability).mean(0)


def _of_target(domains: Domains, table: Answers) -> np.ndarray:
    """(N, C) probabilities of the target domain's clips."""
    return table.probability[np.array([domain in domains.target for domain in table.domain], dtype=bool)]


def _unlabelled_scores(desk: Desk, table: Answers, before: Answers | None) -> dict[str, float]:
    """`target.entropy` and its kin, on the target domain's clips."""
    if desk.domains is None:
        return {}
    own, other = (_of_target(desk.domains, each) for each in (table, before or table))
    return {f"target.{name}": criterion(own, *([other] if criterion.pair else [])) for name, criterion in CRITERIA.items()}


def quick_scores(tables: Mapping[str, Answers]) -> dict[str, float]:
    """Every metric without intervals, the mean over the targets where there are several."""
    known = [table.known() for table in tables.values()]
    judged = [table for table in known if len(table)]
    if not judged:
        raise UserError("data.split: no validation clip is labelled, so no best state can be chosen")
    found = [scores(table) for table in judged]
    return {name: float(np.mean([each[name] for each in found])) for name in METRICS}


def hits(recipe: Recipe) -> Callable[[Named, Named], tuple[Tensor, Tensor]]:
    """For the running accuracy: which answers of a batch are right, and which clips are labelled."""
    rights = [(target, _all_right if target in recipe.data.several else _right) for target in recipe.targets]

    def count(out: Named, batch: Named) -> tuple[Tensor, Tensor]:
        known = torch.cat([known_labels(batch[target]) for target in recipe.targets])
        right = torch.cat([right(out[target], batch[target]) for target, right in rights])
        return right & known, known

    return count


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, C), (B,) -> (B,)"""
    return logits.argmax(-1) == labels


def _all_right(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, C), (B, C) -> (B,): every class of the clip, and no other."""
    return ((logits > 0) == (labels > 0)).all(-1)


BySubset = dict[tuple[str, ...], dict[str, Answers]]  # streams -> target -> table


def by_streams(desk: Desk, model: nn.Module, clips: list[Clip], intake: Intake, *, serve: Serve | None = None) -> BySubset:
    """Every target's table for every non-empty subset of the streams: ("audio",), ("video",), ("audio", "video")."""
    streams, found = list(desk.reader.streams), {}
    for count in range(1, len(streams) + 1):
        for subset in itertools.combinations(streams, count):
            tables = predictions(desk, model, clips, intake, "test", only=subset, serve=serve)
            if tables:
                found[subset] = tables
    return found


def of_target(streams: BySubset, target: str) -> dict[str, Answers]:
    """One target's tables by name: "audio", "video", "audio+video"."""
    return {"+".join(subset): tables[target] for subset, tables in streams.items()}


def contributions(streams: BySubset, val: Mapping[str, Answers]) -> list[Contributions]:
    """What each stream adds to the answers about the clips of the test, a target each; without any, the mean answer over val stands."""
    targets = {target: {frozenset(subset): tables[target] for subset, tables in streams.items()} for target in val}
    told = {target: outcomes for target, outcomes in targets.items() if outcomes and len(val[target])}
    return [contributed(target, outcomes, val[target].probability.mean(0)) for target, outcomes in told.items()]


Tables = Mapping[str, Mapping[str, Answers]]  # target -> split -> table


def measure(
    tables: Tables, streams: Mapping[str, Answers], recipe: Recipe, *, train_counts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """metrics.json: the first target's summary per split at the top, the others' under "heads", the test by streams under "streams".

    For two classes "operating" says where validation would put the threshold, and what that gives on the test.
    """

    def splits(target: str) -> dict[str, Any]:
        counts = train_counts if target == recipe.targets[0] else None
        known = {split: table.known() for split, table in tables[target].items()}
        return {split: summary(table, seed=recipe.seed, train_counts=counts) for split, table in known.items() if len(table)}

    first, *others = recipe.targets
    found = {"target": first, **splits(first)}
    if others:
        found["heads"] = {target: splits(target) for target in others}
    val, test = (tables[first].get(split) for split in ("val", "test"))
    if isinstance(val, Predictions) and isinstance(test, Predictions):
        chosen = operating(val, test, train_counts=train_counts)
        found |= {"operating": chosen} if chosen else {}
    if streams:
        found["streams"] = {name: summary(table.known(), seed=recipe.seed) for name, table in streams.items() if len(table.known())}
    return found


def pooled(tables: Tables) -> dict[str, Answers]:
    """One table a target, of all its splits."""
    return {target: concatenate(list(splits.values())) for target, splits in tables.items()}


def examples(intake: Intake, reader: Reader) -> Callable[[str], list[Example]]:
    """Sound and pictures of a clip, small, for the report."""
    by_id = {clip.id: clip for clip in intake.clips}

    def of(clip_id: str) -> list[Example]:
        clip = by_id[clip_id]
        return [_example(for_a_person(reader, clip, name), reader.streams[name].spec.rate) for name in intake.streams[clip_id]]

    return of


def for_a_person(reader: Reader, clip: Clip, name: str) -> np.ndarray:
    """What a stream decodes of a clip, as sound (N,) or uint8 pictures (T, C, H, W), whatever the file holds."""
    decoded, shown = reader.read(clip, name), getattr(reader.streams[name], "shown", None)
    return shown(decoded) if shown else decoded


def _example(decoded: np.ndarray, rate: int | None) -> Example:
    if decoded.ndim == 1:
        return Example("audio", wav(decoded, rate or 16_000))
    if len(decoded) == 1:
        return Example("image", _encoded(decoded[0], "PNG" if decoded.shape[-1] <= SMALL else "JPEG"))
    few = np.linspace(0, len(decoded) - 1, min(WORST_FRAMES, len(decoded))).round().astype(int)
    return Example("frames", [_encoded(decoded[index], "JPEG") for index in few])


def wav(samples: np.ndarray, rate: int) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _encoded(frame: np.ndarray, kind: str) -> bytes:
    """uint8 (1 or 3, H, W) as a file."""
    from PIL import Image

    file = io.BytesIO()
    picture = Image.fromarray(frame[0] if len(frame) == 1 else np.ascontiguousarray(frame.transpose(1, 2, 0)))
    picture.thumbnail((SHOWN, SHOWN))
    picture.save(file, kind, quality=80)
    return file.getvalue()
