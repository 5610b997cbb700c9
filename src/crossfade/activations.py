"""What the frozen part of a model makes of each clip: run once, kept in the store, served from there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crossfade import build, data
from crossfade.clip import Clip
from crossfade.data.intake import Intake
from crossfade.data.loader import Loader, Samples
from crossfade.data.stored import Draws, Stored, array_of, tensor_of
from crossfade.judge import in_halves
from crossfade.recipe import ONLY
from crossfade.rows import Rows
from crossfade.screen import clock
from crossfade.store import Shelf, fingerprint, key, size_text, versions
from crossfade.training.frozen import Frozen, digest
from crossfade.training.loop import Interrupted

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.judge import Desk
    from crossfade.models.model import Fused
    from crossfade.screen import Terminal
    from crossfade.signals import Stop

CHECKED = 4  # clips computed once more to say what bfloat16 costs


@dataclass(frozen=True)
class Cut:
    """Where a model is cut: what of a batch goes in, what is run of it, and everything besides the clip that shapes the outcome."""

    streams: tuple[str, ...]
    what: str  # for a person
    run: Callable[[Named], Named]
    made_by: dict[str, object]


def cuts(desk: Desk, model: Fused, frozen: Frozen, *, whole: bool) -> list[Cut]:
    """One cut for each encoder that begins frozen; where all up to the heads is, and `whole` allows it, a single one there."""
    if whole and frozen.fusion:
        parts = {"encoders": model.encoders, "mix": model.mix, "merge": model.merge}
        fusion = {"mix": desk.recipe.model.mix, "merge": desk.recipe.model.merge}
        return [Cut(tuple(model.encoders), "everything before the heads", model.embeddings, _made_by(desk, model.encoders, parts) | fusion)]
    return [_cut(desk, model, name, count) for name, count in frozen.stages.items()]


def _cut(desk: Desk, model: Fused, name: str, count: int) -> Cut:
    stages = model.encoders[name].stages
    whole = count == len(stages)
    made_by = _made_by(desk, [name], {"stages": stages[:count]}) | {"count": count, "means": whole and model.means_suffice}
    what = f"{name} encoder" if whole else f"{name} encoder, stages 1 to {count} of {len(stages)}"
    return Cut((name,), what, lambda batch: model.states(batch, {name: count}), made_by)


def _made_by(desk: Desk, names: Sequence[str], parts: Mapping[str, Any]) -> dict[str, object]:
    """Streams, options, weights, and the versions of the code that runs them."""
    recipe = desk.recipe.model_dump(mode="json")
    encoders = {
        name: {option: value for option, value in recipe["model"]["encoders"][name].items() if option != "weights"} for name in names
    }
    libraries = {type(module).__module__.split(".")[0] for part in parts.values() for module in part.modules()} - {"crossfade"}
    return {
        "streams": {name: [recipe["data"]["streams"][name], desk.reader.streams[name].key] for name in names},
        "degrade": {name: with_files(recipe["data"]["degrade"].get(name, [])) for name in names},
        "encoders": encoders,
        "weights": digest(parts),
        "code": versions("crossfade.models", "crossfade.ncnn", "crossfade.data.mel", *_making(), "numpy", *sorted(libraries | {"torch"})),
        "device": [desk.device.type, torch.get_float32_matmul_precision(), torch.backends.cpu.get_cpu_capability()],
    }


def _making() -> list[str]:
    """The modules that streams and augmentations come from."""
    return sorted({function.__module__ for table in (data.STREAMS, data.AUGMENTATIONS) for function in table.values()})


def with_files(specs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Specs in which the name of a file is followed by the fingerprint of what is in it."""
    return [{**spec, **{f"{name}, content": fingerprint(Path(value)) for name, value in spec.items() if _is_file(value)}} for spec in specs]


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_file()


@dataclass(frozen=True)
class Activations:
    """Computes what is missing, in this process's share of it, and hands all of it out from the store."""

    desk: Desk
    intake: Intake
    screen: Terminal
    stop: Stop
    precision: str = "no"
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    workers: int = 0
    rank: int = 0
    world: int = 1
    meet: Callable[[], None] = lambda: None  # wait here for the other processes
    regretted: set[str] = field(default_factory=set)  # what was said not to be stored

    def stored(
        self,
        cut: Cut,
        clips: list[Clip],
        sees: str | None = None,
        draws: Draws | None = None,
        *,
        of: str = "",
        below: Cut | None = None,
    ) -> Stored | None:
        """The states of those clips that have all of the cut's streams, by row of `clips`; None, said on the screen, without room.

        Where they see a view, once for each of its `draws`. `below` is an earlier cut of the same stream that a later phase asks for:
        what is missing is stored there first, and this cut is run from there.
        """
        rows = Rows(self._shelf(cut, sees))
        turns = [None] if draws is None else [replace(draws, only=number) for number in range(draws.count)]
        columns = [[self._key(clip, cut, turn) for clip in clips] for turn in turns]
        started = time.perf_counter()
        wanted = [name for column in columns for name in column if name]
        started_from = self._before(rows, wanted, below, clips, sees, draws, of)
        new = self._complete(rows, cut, clips, list(zip(turns, columns, strict=True)), sees, started_from)
        if rows.missing(wanted):
            self._regret(cut)
            return None
        has = [name is not None for name in columns[0]]
        stored = Stored(cut.streams, has, [rows.table(column) for column in columns], draws, self._narrow)
        if new or of:
            views = f" in {len(turns)} views" if draws else ""
            took = f"{new:,} computed now in {clock(time.perf_counter() - started)}" if new else "all there already"
            rounding = self._rounding(stored, cut, clips, turns[0], sees)
            self.screen.say(f"stored: {cut.what}, {sum(has):,} {of}clips{views}, {size_text(rows.nbytes(wanted))}, {took}{rounding}")
        return stored

    def _before(
        self, rows: Rows, wanted: list[str], below: Cut | None, clips: list[Clip], sees: str | None, draws: Draws | None, of: str
    ) -> Rows | None:
        """The rows of the cut below, complete; None where there is no such cut, or nothing to compute from it, or no room for it."""
        if below is None or not self._lacking(rows, wanted) or self.stored(below, clips, sees, draws, of=of) is None:
            return None
        return Rows(self._shelf(below, sees))

    def _lacking(self, rows: Rows, wanted: list[str]) -> bool:
        """Whether rows are missing; asked by all processes before any of them writes, so that all hear the same."""
        lacking = bool(rows.missing(wanted))
        self.meet()
        return lacking

    def _regret(self, cut: Cut) -> None:
        """Say once a cut that it is not stored."""
        trouble = self.desk.reader.store.trouble or "not all of it could be written"
        if cut.what not in self.regretted:
            self.regretted.add(cut.what)
            self.screen.warn(f"{trouble}: the frozen part ({cut.what}) runs anew in every epoch")

    @property
    def _narrow(self) -> bool:
        return self.desk.recipe.store.dtype == "bfloat16"

    def _shelf(self, cut: Cut, sees: str | None) -> Shelf:
        recipe = self.desk.recipe
        view = recipe.model_dump(mode="json")["data"]["views"][sees] if sees else {}
        seen = {name: with_files(view.get(name, [])) for name in cut.streams}
        made_by = {"activations": cut.made_by, "precision": self.precision, "dtype": recipe.store.dtype, "view": seen}
        return self.desk.reader.store.shelf(made_by, what=f"activations: {cut.what}", recipe=recipe.name)

    def _key(self, clip: Clip, cut: Cut, turn: Draws | None) -> str | None:
        """What names the clip's row: its files, its span and whatever is drawn for it; None where it lacks a stream of the cut."""
        if not set(cut.streams) <= set(self.intake.streams[clip.id]):
            return None
        files = [fingerprint(self.desk.reader.source(clip, name)) for name in cut.streams]  # type: ignore[arg-type]
        drawn = [turn.seed_for(name, clip.id, turn.only or 0) for name in cut.streams] if turn else []
        fixed = clip.id if any(cut.made_by["degrade"].values()) else ""  # type: ignore[attr-defined]
        item = {} if clip.item is None else {"item": clip.item}
        said = {"labels": clip.labels} if turn and self._by_class else {}
        return key(" ".join(files), {"span": clip.span, **item, **said, "drawn": drawn, "degraded": fixed})

    @cached_property
    def _by_class(self) -> bool:
        """Whether what a view does to a clip depends on its labels."""
        views = self.desk.recipe.data.views.values()
        return any(ONLY in spec for view in views for specs in view.values() for spec in specs)

    def _complete(
        self,
        rows: Rows,
        cut: Cut,
        clips: list[Clip],
        turns: list[tuple[Draws | None, list[str | None]]],
        sees: str | None,
        before: Rows | None,
    ) -> int:
        """Compute and keep what is missing; how many rows that were, here and in the other processes."""
        missing = [(turn, *self._absent(rows, clips, column)) for turn, column in turns]
        self.meet()  # before anybody writes: all must have seen the same rows missing to share them out
        new = sum(len(absent) for _, absent, _ in missing)
        share = slice(self.rank, None, self.world)
        with self.screen.counting(f"storing {' and '.join(cut.streams)}", len(range(new)[share])) as step:
            for turn, absent, names in missing if not self.desk.reader.store.full else ():
                samples = self._samples(cut, absent[share], sees, turn)
                begun = Stored(cut.streams, [True] * len(samples), [before.table(names[share])], widen=self._narrow) if before else None
                if not self._compute(rows, cut, samples, names[share], step, begun):
                    break
        self.meet()
        return new

    @staticmethod
    def _absent(rows: Rows, clips: list[Clip], column: list[str | None]) -> tuple[list[Clip], list[str]]:
        pairs = [(clip, name) for clip, name in zip(clips, column, strict=True) if name]
        absent = [pairs[place] for place in rows.missing([name for _, name in pairs])]
        return [clip for clip, _ in absent], [name for _, name in absent]

    def _samples(self, cut: Cut, clips: list[Clip], sees: str | None, turn: Draws | None) -> Samples:
        streams = {clip.id: cut.streams for clip in clips}
        view, draws = build.view(self.desk.recipe, sees), dict.fromkeys(cut.streams, turn) if turn else {}
        return Samples(clips, streams, self.desk.reader, view, build.degrade(self.desk.recipe), draws)

    def _compute(self, rows: Rows, cut: Cut, samples: Samples, names: list[str], step: Callable[[int], None], begun: Stored | None) -> bool:
        """Whether there was room for all. However it ends, what was computed is there when the run goes on."""
        done = 0
        try:
            for batch, states in self._run(cut, samples, begun):
                keys = [names[row] for row in batch["index"].tolist()]
                rows.add(keys, {name: array_of(state, narrow=self._narrow) for name, state in states.items()})
                done += len(keys)
                step(len(keys))
                if self.stop() is not None:
                    raise Interrupted(self.stop() or 0)
                if not rows.fits(len(names) - done):
                    return False
        finally:
            rows.flush()
        return True

    def _run(self, cut: Cut, samples: Samples, begun: Stored | None = None) -> Iterator[tuple[Named, Named]]:
        """Every batch with its states; from what is `begun` in place of the clips, where there is such."""
        samples.without = frozenset(cut.streams if begun else ())
        loader = Loader(samples, {}, self.desk.recipe.data.batch, workers=self.workers if len(samples) > self.desk.recipe.data.batch else 0)
        loader.stored = [begun] if begun else []
        for batch in loader.in_order():
            given = {name: tensor.to(self.desk.device) for name, tensor in batch.items()}
            with torch.inference_mode(), self.autocast():
                states = in_halves(cut.run, given)
            yield batch, states

    def _rounding(self, stored: Stored, cut: Cut, clips: list[Clip], turn: Draws | None, sees: str | None) -> str:
        """For `store.dtype: bfloat16`: how far the stored states are from those computed, on a few clips."""
        if not self._narrow:
            return ""
        few = [row for row, here in enumerate(stored.has) if here][:CHECKED]
        if not few:
            return ""
        _, exact = next(self._run(cut, self._samples(cut, [clips[row] for row in few], sees, turn)))
        kept = stored.tables[0].take(torch.tensor(few).numpy())
        wide = {name: (tensor_of(kept[name], widen=True), state.cpu()) for name, state in exact.items() if state.is_floating_point()}
        error = sum(float((a - b.float()).square().sum()) for a, b in wide.values())
        size = sum(float(b.float().square().sum()) for _, b in wide.values())
        return f"; bfloat16 moves them by {(error / max(size, 1e-30)) ** 0.5:.2%} (root mean square)"
