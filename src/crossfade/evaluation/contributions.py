"""What each stream contributes to the probability of what is true, by clip and by class: a CSV, bars and a sentence."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from crossfade.clip import UserError
from crossfade.evaluation import shapley
from crossfade.evaluation.figures import BOTTOM, LEFT, RIGHT, TOP, WIDTH, percent, svg, tag, ticks
from crossfade.evaluation.predictions import Answers, Predictions
from crossfade.evaluation.tags import Tags
from crossfade.evaluation.writing import whole

STYLES = ("ear", "eye", "thin")  # of the bars of the first, second and every further stream
BAR, LINE = 9, 20  # heights in SVG units: of a bar, and of a class's name
CLASSES = 30  # that a picture shows, those with most clips first; the CSV has all


@dataclass(frozen=True, eq=False)
class Contributions:
    """For one target, M pairs of a clip and a class that it truly has: how the streams raise the probability of that class."""

    target: str
    streams: list[str]
    classes: list[str]  # in the order of the target
    clip: list[str]
    name: list[str]  # of the class
    values: np.ndarray  # (M, S) Shapley values, in 0..1 of probability
    base: np.ndarray  # (M,) the probability without any stream; base + the sum of values = the answer with all

    @property
    def by_class(self) -> dict[str, np.ndarray]:
        """Class -> the mean value of each stream (S,), over its clips."""
        names = np.array(self.name, dtype=object)
        return {name: self.values[names == name].mean(0) for name in self.classes if name in self.name}

    @property
    def answer(self) -> np.ndarray:
        """(M,) the probability of the true class with all streams that the clip has."""
        return self.base + self.values.sum(1)


def table(target: str, outcomes: Mapping[frozenset[str], Answers], base: np.ndarray) -> Contributions:
    """Tables of the same clips by the streams the model was given -> what each stream contributes to the true classes.

    `outcomes`: one table for every non-empty subset of the streams, each of the clips that have all of these; `base`: (C,) the mean
    answer over val, which is what is said without any stream. A stream that a clip lacks contributes 0 to it.
    """
    told = _Told(_by_clip(outcomes), np.asarray(base, dtype=np.float64))
    streams = sorted(frozenset().union(*outcomes))
    pairs = [(clip, code) for clip in told.answers for code in told.true(clip)]
    found = shapley.values({given: np.array([told.probability(given, *pair) for pair in pairs]) for given in shapley.subsets(streams)})
    classes = next(iter(outcomes.values())).classes
    return Contributions(
        target,
        streams,
        list(classes),
        clip=[clip for clip, _ in pairs],
        name=[classes[code] for _, code in pairs],
        values=np.stack([found[stream] for stream in streams], axis=1).reshape(len(pairs), len(streams)),
        base=told.base[[code for _, code in pairs]],
    )


@dataclass(frozen=True)
class _Told:
    """What was said of every clip of known class: by subset of its streams a table and the row in it."""

    answers: Mapping[str, Mapping[frozenset[str], tuple[Answers, int]]]
    base: np.ndarray  # (C,)

    def probability(self, given: frozenset[str], clip: str, code: int) -> float:
        """Of one class, given these of the streams that the clip has."""
        said = self.answers[clip]
        seen = given & self._own(clip)
        return float(said[seen][0].probability[said[seen][1], code] if seen else self.base[code])

    def true(self, clip: str) -> list[int]:
        table, row = self.answers[clip][self._own(clip)]
        return TRUE[type(table)](table.true[row])

    def _own(self, clip: str) -> frozenset[str]:
        return frozenset().union(*self.answers[clip])


TRUE = {Predictions: lambda code: [int(code)], Tags: lambda row: np.flatnonzero(row > 0).tolist()}  # the classes that a clip has


def _by_clip(outcomes: Mapping[frozenset[str], Answers]) -> dict[str, dict[frozenset[str], tuple[Answers, int]]]:
    made: dict[str, dict[frozenset[str], tuple[Answers, int]]] = {}
    for given, one in ((given, one.known()) for given, one in outcomes.items()):
        for row, clip in enumerate(one.clip):
            made.setdefault(clip, {})[given] = (one, row)
    for clip, said in made.items():
        for given in shapley.subsets(frozenset().union(*said))[1:]:
            if given not in said:
                raise UserError(f"contributions: clip {clip!r} was not judged by {' + '.join(sorted(given))} alone; every subset is needed")
    return made


def write(path: Path | str, parts: Sequence[Contributions]) -> None:
    """`contributions.csv`: clip, target, class, one column a stream, base. UserError when targets differ in streams."""
    streams = parts[0].streams if parts else []
    if any(part.streams != streams for part in parts):
        raise UserError(f"contributions: all targets must have the same streams, found {[part.streams for part in parts]}")
    with whole(path) as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(["clip", "target", "class", *streams, "base"])
        for part in parts:
            columns = (part.clip, part.name, part.values.tolist(), part.base.tolist())
            writer.writerows([clip, part.target, name, *row, base] for clip, name, row, base in zip(*columns, strict=True))


def section(parts: Sequence[Contributions]) -> list[dict]:
    """What the report shows of each target that has any clip: a name, a sentence, bars, and how many classes they leave out."""
    shown = [part for part in parts if part.clip]
    return [
        {
            "target": part.target,
            "sentence": sentence(part),
            "chart": bars(part),
            "streams": key(part.streams),
            "more": max(len(part.by_class) - CLASSES, 0),
        }
        for part in shown
    ]


def sentence(part: Contributions) -> str:
    """Who carries the answer, on the average of the classes, in points of probability."""
    means = np.mean(list(part.by_class.values()), axis=0)
    order = np.argsort(-means, kind="stable")
    said = [f"{part.streams[i]} {100 * means[i]:+.1f}" for i in order]
    first, *others = said
    return f"To the probability of the true {part.target}, on the mean of the classes, {' and '.join([f'{first} points', *others])}."


def bars(part: Contributions) -> Markup:
    """Horizontal bars from 0, one a stream under the name of each class."""
    often = sorted(part.by_class.items(), key=lambda pair: -part.name.count(pair[0]))[:CLASSES]
    kept = {name: means for name, means in part.by_class.items() if name in dict(often)}
    return signed_bars(kept, part.streams)


def signed_bars(rows: Mapping[str, np.ndarray], streams: Sequence[str]) -> Markup:
    """Name -> (S,) shares -> bars to the right and left of 0."""
    ends = [0.0, *(float(value) for means in rows.values() for value in means)]
    room = max(max(ends) - min(ends), 0.02) * 0.04
    low, high = min(ends) - room * (min(ends) < 0), max(ends) + room
    step = LINE + (BAR + 2) * len(streams) + 6
    tall = TOP + step * len(rows) + BOTTOM

    def across(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    floor, marks = tall - BOTTOM, ticks(low, high)
    grid = [tag("line", class_="grid", x1=across(x), x2=across(x), y1=8, y2=floor) for x in marks]
    under = [tag("text", f"{100 * x:g}", x=across(x), y=floor + 16, text_anchor="middle") for x in marks]
    zero = tag("line", class_="border", x1=across(0), x2=across(0), y1=8, y2=floor)
    axis = tag("text", "points of probability", class_="name", x=(LEFT + WIDTH - RIGHT) / 2, y=floor + 30, text_anchor="middle")
    drawn = [
        tag("g", tag("text", name, class_="label", x=LEFT - 40, y=TOP + step * i), *_group(means, streams, TOP + step * i + 6, across))
        for i, (name, means) in enumerate(rows.items())
    ]
    return svg(tall, *grid, zero, *under, axis, *drawn, label="contribution of each stream")


def _group(means: np.ndarray, streams: Sequence[str], top: float, across) -> list[Markup]:
    zero = across(0)
    made = []
    for i, (stream, mean) in enumerate(zip(streams, means, strict=True)):
        end, title = across(float(mean)), tag("title", f"{stream}: {percent(round(float(mean), 4))}")
        place = {"x": min(zero, end), "y": top + (BAR + 2) * i, "width": max(abs(end - zero), 0.8), "height": BAR}
        made.append(tag("rect", title, class_=f"part {_style(i)}", **place))
    return made


def key(streams: Sequence[str]) -> list[tuple[str, str]]:
    """Every stream and the style of its bars."""
    return [(stream, _style(i)) for i, stream in enumerate(streams)]


def _style(index: int) -> str:
    return STYLES[min(index, len(STYLES) - 1)]
