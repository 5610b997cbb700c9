"""Why a model says what it says of one clip: what each stream adds, where it looked, and whether hiding that place changes the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crossfade import judge
from crossfade.clip import Clip, classes_in, seed_of
from crossfade.data.intake import Intake
from crossfade.evaluation import shapley
from crossfade.evaluation.explained import Explained, HeadAnswer, HeardSound, Occlusion, SeenFrames
from crossfade.evaluation.tables import Answers
from crossfade.models.rollout import relevance

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.judge import Desk
    from crossfade.models.model import Fused

HIDDEN = 0.2  # of a stream's cells are hidden, the most relevant ones or random ones
REPEATS = 10  # random choices of them
FEW = 3  # clips that a report explains
FEWEST = 5  # cells below which a fifth of them is none
EVEN = "this fusion takes every stream and every token for the same by construction, so the maps show where tokens are, not what counted"
BASELESS = "no predictions of val lie beside this model, so what is said without any stream is taken to be every class alike"
METHOD = "attention rollout (arXiv 2005.00928); what each stream adds: exact Shapley values over the streams"


@dataclass(frozen=True)
class Explainer:
    """Explains clips that `intake` took in. `base`: target -> (C,), what is said without any stream: the mean answer over val."""

    desk: Desk
    model: Fused
    intake: Intake
    base: Mapping[str, np.ndarray]

    def explain(self, clip: Clip, title: str, command: str = "") -> Explained:
        """Everything that a page shows of one clip; the model stays as it is."""
        batch = {name: tensor.to(self.desk.device) for name, tensor in self._batch(clip).items()}
        outcomes = self._outcomes(clip)
        whole = outcomes[frozenset(self.intake.streams[clip.id])]
        heads = [self._head(target, outcomes) for target in self.desk.recipe.targets]
        places = self._places(batch)
        seen, heard = self._shown(clip, batch, places)
        return Explained(
            title=title,
            clip=clip.id,
            heads=heads,
            frames=seen,
            sounds=heard,
            occlusions=[each for name, place in places.items() for each in self._hiding(clip, batch, name, place, whole)],
            group=clip.group if clip.group != clip.id else "",
            warnings=[*([EVEN] if places and not weighs(self.model) else []), *([] if self.base else [BASELESS])],
            method=METHOD,
            command=command,
        )

    def _batch(self, clip: Clip) -> Named:
        return next(iter(self.desk.loader([clip], self.intake).in_order()))

    def _outcomes(self, clip: Clip) -> dict[frozenset[str], dict[str, Answers]]:
        """Every non-empty subset of the clip's streams -> the tables, of one row, of every target."""
        return {frozenset(each): tables for each, tables in judge.by_streams(self.desk, self.model, [clip], self.intake).items()}

    def _head(self, target: str, outcomes: Mapping[frozenset[str], Mapping[str, Answers]]) -> HeadAnswer:
        table = outcomes[max(outcomes, key=len)][target]
        probability = table.probability[0]
        base = self.base.get(target, np.full(len(probability), 0.5 if self.desk.several(target) else 1 / len(probability)))
        rows = {frozenset[str](): base} | {given: tables[target].probability[0] for given, tables in outcomes.items()}
        added = shapley.values(rows)
        said = said_of(table)
        return HeadAnswer(
            head=target,
            said=", ".join(table.classes[code] for code in said) or "none",
            true=true_of(table.truth[0], several=self.desk.several(target)),
            probability=dict(zip(table.classes, probability.tolist(), strict=True)),
            contributions={
                table.classes[code]: {stream: float(values[code]) for stream, values in added.items()} for code in shown(table, said)
            },
            base={table.classes[code]: float(base[code]) for code in shown(table, said)},
        )

    def _places(self, batch: Named) -> dict[str, np.ndarray]:
        """Stream -> (steps, rows, columns), how much of the answer comes from each place; of streams with more than one token."""
        found = relevance(self.model, batch)
        grids = {name: self._grid(name, batch[name], values.shape[1]) for name, values in found.items() if name in batch}
        return {name: found[name][0].reshape(grid).float().cpu().numpy() for name, grid in grids.items() if np.prod(grid) > 1}

    def _grid(self, name: str, x: Tensor, tokens: int) -> tuple[int, int, int]:
        """As the encoder says; else tokens follow one another in time."""
        grid = self.model.encoders[name].grid
        if grid is not None and np.prod(grid(x)) == tokens:
            return grid(x)
        return (tokens, 1, 1) if x.ndim == 5 else (1, 1, tokens)

    def _shown(self, clip: Clip, batch: Named, places: Mapping[str, np.ndarray]) -> tuple[list[SeenFrames], list[HeardSound]]:
        seen = [self._frames(clip, name, place) for name, place in places.items() if batch[name].ndim == 5]
        heard = [self._sound(clip, name, batch[name], place) for name, place in places.items() if batch[name].ndim < 5]
        return seen, heard

    def _frames(self, clip: Clip, name: str, place: np.ndarray) -> SeenFrames:
        return SeenFrames(name, judge.for_a_person(self.desk.reader, clip, name), place)

    def _sound(self, clip: Clip, name: str, x: Tensor, place: np.ndarray) -> HeardSound:
        decoded, rate = judge.for_a_person(self.desk.reader, clip, name), self.desk.reader.streams[name].spec.rate
        spectrogram = x[0, 0].float().cpu().numpy() if x.ndim == 4 else spectrum(x[0].float().cpu())
        sound = decoded.ndim == 1 and rate
        seconds = len(decoded) / rate if sound else 0.0  # type: ignore[operator]
        return HeardSound(name, spectrogram, place, seconds, judge.wav(decoded, rate) if sound else b"")  # type: ignore[arg-type]

    def _hiding(self, clip: Clip, batch: Named, stream: str, place: np.ndarray, whole: Mapping[str, Answers]) -> list[Occlusion]:
        """What hiding the most relevant cells of a stream, or as many random ones, does to the class that each head said."""
        if place.size < FEWEST:
            return []
        count = max(1, round(HIDDEN * place.size))
        generator = np.random.default_rng(seed_of(clip.id, stream, "hidden"))
        most = np.argsort(-place.ravel(), kind="stable")[:count]
        choices = [most, *(generator.permutation(place.size)[:count] for _ in range(REPEATS))]
        covered = torch.cat([hidden(batch[stream], place.shape, cells) for cells in choices])
        found = self._probabilities({name: tensor.repeat_interleave(len(choices), 0) for name, tensor in batch.items()} | {stream: covered})
        made = []
        for target, table in whole.items():
            for code in shown(table, said_of(table))[:1]:
                values = found[target][:, code]
                answer = float(table.probability[0, code])
                made.append(Occlusion(stream, target, table.classes[code], answer, float(values[0]), values[1:], HIDDEN))
        return made

    def _probabilities(self, batch: Named) -> dict[str, np.ndarray]:
        """Target -> (B, C)"""
        _, outputs = judge.answers(self.model, [batch], self.desk.device)
        return {target: judge.probability(self.desk, target, outputs[target]) for target in self.desk.recipe.targets}

    def few(self, clips: Sequence[Clip], seed: int) -> list[Explained]:
        """Some clips for a report, drawn by the run's seed among those with most streams; none where no stream has places to look at."""
        most = max((len(self.intake.streams[clip.id]) for clip in clips), default=0)
        whole = [clip for clip in clips if len(self.intake.streams[clip.id]) == most]
        drawn = np.random.default_rng(seed_of(seed, "explained")).permutation(len(whole))[:FEW]
        if not len(drawn) or not self._places({name: x.to(self.desk.device) for name, x in self._batch(whole[drawn[0]]).items()}):
            return []
        return [self.explain(whole[row], title=whole[row].id) for row in drawn]


def said_of(table: Answers) -> list[int]:
    """The classes that are said of a table's first clip."""
    return np.flatnonzero(table.predicted[0]).tolist() if table.predicted.ndim == 2 else [int(table.predicted[0])]


def true_of(label: str, *, several: bool) -> str:
    """In words: "grazing, walking", "none", or "" where it is not known."""
    return label if not several or not label else ", ".join(classes_in(label)) or "none"


def shown(table: Answers, said: Sequence[int]) -> list[int]:
    """The classes that are explained: those said, or the likeliest where none is."""
    return list(said) or [int(table.probability[0].argmax())]


def weighs(model: Any) -> bool:
    """Whether anything between the tokens and the heads can count one token or stream for more than another."""
    return bool(len(model.mix)) or any(hasattr(module, "watched") or hasattr(module, "gate") for module in model.modules())


def hidden(x: Tensor, grid: tuple[int, ...], cells: Iterable[int]) -> Tensor:
    """An input of one clip with these cells of the grid (steps, rows, columns) covered: pictures by their mean colour, sound by silence."""
    cover = torch.zeros(int(np.prod(grid)))
    cover[torch.as_tensor(np.asarray(list(cells)))] = 1.0
    cover = cover.reshape(1, 1, *grid).to(x.device)
    if x.ndim == 5:
        over = functional.interpolate(cover, (x.shape[1], *x.shape[3:]))[0, 0][None, :, None] > 0
        return x.masked_fill(over, 0.0)
    if x.ndim == 4:
        over = functional.interpolate(cover[:, :, 0], x.shape[2:]) > 0
        return torch.where(over, x.amin(), x)
    return x.masked_fill(functional.interpolate(cover.flatten(2), x.shape[1])[0] > 0, 0.0)


def spectrum(wave: Tensor) -> np.ndarray:
    """A waveform (N,) -> decibels (bands, columns), to look at."""
    size = min(512, len(wave))
    power = torch.stft(wave, size, window=torch.hann_window(size), return_complex=True).abs().square()
    return (10 * power.clamp_min(1e-10).log10()).numpy()


def numbers(found: Explained) -> dict[str, Any]:
    """What the page says, as plain numbers: of each head the answer and what each stream adds, and what hiding places cost."""
    heads = {
        head.head: {"said": head.said, "true": head.true, "probability": head.probability, "adds": head.contributions, "base": head.base}
        for head in found.heads
    }
    hiding = [
        {
            "stream": one.stream,
            "head": one.head,
            "class": one.name,
            "answer": one.answer,
            "relevant": one.relevant,
            "random": one.random.tolist(),
        }
        for one in found.occlusions
    ]
    return {"heads": heads, "hidden": hiding}


def page_name(clip: str) -> str:
    """A file name for a clip's page, whatever its id holds."""
    plain = "".join(mark if mark.isalnum() or mark in "-_." else "_" for mark in clip)
    return f"{plain[-100:]}-{seed_of(clip) % 10**6:06d}.html"


def bases(tables: Mapping[str, Answers]) -> dict[str, np.ndarray]:
    """Target -> (C,) the mean answer of a table; of val's, what the model says of a clip like any other."""
    return {target: table.probability.mean(0) for target, table in tables.items() if len(table)}


def folder_of(run: Path) -> Path:
    """Where a run's explained clips go."""
    return run / "explained"
