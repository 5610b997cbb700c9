"""One self-contained HTML file that says how good a run is, from its predictions; and one that compares several."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from crossfade.clip import UserError
from crossfade.evaluation import METRICS, figures, views
from crossfade.evaluation.figures import Whisker, tag
from crossfade.evaluation.intervals import Table
from crossfade.evaluation.metrics import summary
from crossfade.evaluation.predictions import Predictions
from crossfade.evaluation.scores import Metric
from crossfade.evaluation.writing import whole

MEDIA_BYTES = 2_600_000  # of base64 text in a report: the file stays under 3 MB, small enough for an e-mail
LONG = 40  # rows of a table before the rest is only counted
HEADLINES = ("macro_f1", "accuracy", "balanced_accuracy")


@dataclass(frozen=True)
class Example:
    """What a person may hear or see of a clip: kind "audio" with the bytes of a WAV file, or "frames" with those of JPEGs."""

    kind: str
    data: bytes | list[bytes]


@dataclass(frozen=True)
class ReportContent:
    """All that a report shows. What is empty does not appear."""

    title: str
    predictions: Predictions  # rows of val and test
    warnings: list[str] = field(default_factory=list)  # shown on the first line
    metrics: dict = field(default_factory=dict)  # metrics.json: split -> summary; made here where absent
    history: list[dict] = field(default_factory=list)  # rows of metrics.jsonl
    by_streams: dict[str, dict] = field(default_factory=dict)  # "audio", "video", "audio+video" -> summary
    parameters: dict[str, int] = field(default_factory=dict)
    recipe: str = ""
    environment: dict = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> class -> clips
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    loads: list[str] = field(default_factory=list)  # what became of the weights
    examples: Callable[[str], list[Example]] | None = None  # clip id -> what to hear and see of it
    command: str = ""
    group_name: str = "group"  # the singular word: "actor", "speaker", "patient"
    groups_unseen: bool | None = None  # True: no group of these was in training; None: not known, and not claimed


def write_report(path: Path | str, content: ReportContent) -> Path:
    """Write the report as one UTF-8 file, in one step; return its path."""
    with whole(path) as file:
        file.write(render_report(content))
    return Path(path)


def write_comparison(
    path: Path | str,
    table: Table,
    *,
    title: str = "Comparison",
    parameters: Mapping[str, int] | None = None,
    warnings: Sequence[str] = (),
    command: str = "",
) -> Path:
    """Write a table from `intervals.compare` as one HTML file; `parameters`: run -> number of weights."""
    metric = METRICS[table.metric]
    view = {
        "title": title,
        "warnings": list(warnings),
        "table": table,
        "metric": metric,
        "parameters": parameters or {},
        "scores": figures.whiskers([Whisker(s.name, s.value, s.low, s.high) for s in table.scores], _axis(metric), unit=metric.label),
        "differences": _differences(table),
        "points": _points(metric),
        "command": command,
    }
    with whole(path) as file:
        file.write(_environment().get_template("compare.html.jinja").render(view))
    return Path(path)


def render_report(content: ReportContent) -> str:
    """The report's HTML."""
    split = "test" if (content.predictions.where(split="test").true >= 0).any() else "val"
    table = content.predictions.where(split=split).known()
    view = {"content": content, "title": content.title, "warnings": content.warnings, "split": split, "judged": None}
    if len(table):
        found = content.metrics.get(split) or summary(table)
        view |= {"judged": found} | _judgement(content, table, found)
    view |= {"curves": figures.learning_curves(content.history), "streams": _streams(content.by_streams), "long": LONG}
    return _environment().get_template("report.html.jinja").render(view)


def _judgement(content: ReportContent, table: Predictions, found: dict) -> dict:
    """All sections that need clips of known class."""
    return {
        "headlines": [views.headline(found, name) for name in HEADLINES],
        "others": [views.headline(found, name) for name in METRICS if name not in HEADLINES],
        "basis": _basis(content, found),
        "reading": views.reading(found, f"{content.group_name}s"),
        "classes": views.class_rows(found),
        "confusion": _heat(found),
        "groups": views.group_rows(table, table.group),
        "domains": views.group_rows(table, table.domain),
        "reliability": figures.reliability(views.bins(table)),
        "calibration": views.calibration(table, found["ece"]),
        "mistakes": _mistakes(content, views.mistakes(table)),
    }


def _basis(content: ReportContent, found: dict) -> str:
    """How many clips of how many groups, and whether training knew those groups: 240 clips of 4 actors, none of them in training."""
    clips, groups, name = found["n_clips"], found["n_groups"], content.group_name
    seen = {True: ", none of them in training", False: ", also in training", None: ""}[content.groups_unseen]
    return f"{clips:,} {_plural(clips, 'clip')} of {groups:,} {_plural(groups, name)}{seen}"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _heat(found: dict) -> list[dict]:
    """The confusion matrix as rows of cells; classes that occur nowhere are left out."""
    counts, names = np.array(found["confusion"]), found["classes"]
    kept = np.flatnonzero(counts.sum(0) + counts.sum(1))
    rows = counts[np.ix_(kept, kept)]
    shares = rows / np.maximum(rows.sum(1, keepdims=True), 1)
    return [
        {"name": names[kept[i]], "total": int(rows[i].sum()), "cells": [_cell(rows[i, j], shares[i, j], i == j) for j in range(len(kept))]}
        for i in range(len(kept))
    ]


def _cell(count: int, share: float, right: bool) -> dict:
    return {"count": int(count), "share": float(share), "kind": "right" if right else "wrong", "strong": share > 0.55}


def _streams(by_streams: dict[str, dict]) -> dict | None:
    if not by_streams:
        return None
    rows = [{"name": name, "values": [views.headline(found, key) for key in HEADLINES]} for name, found in by_streams.items()]
    pairs = [(name, found["macro_f1"], found["intervals"].get("macro_f1") or (None, None)) for name, found in by_streams.items()]
    chart = figures.whiskers([Whisker(name, value, *ends) for name, value, ends in pairs], unit="Macro-F1")
    return {"rows": rows, "chart": chart, "labels": [METRICS[key].label for key in HEADLINES]}


def _differences(table: Table) -> Markup:
    rows = [Whisker(f"{pair.a} − {pair.b}", pair.difference, pair.low, pair.high) for pair in table.pairs]
    return figures.whiskers(rows, _points_axis(METRICS[table.metric]), zero=True, unit="difference") if rows else Markup("")


def _axis(metric: Metric) -> Callable[[float], str]:
    return figures.percent if metric.share else figures.plain


def _points(metric: Metric) -> Callable[[float], str]:
    """How a difference is written: +2.5 (percentage points) for a share, +0.031 otherwise."""
    return (lambda value: f"{100 * value:+.1f}") if metric.share else (lambda value: f"{value:+.3f}")


def _points_axis(metric: Metric) -> Callable[[float], str]:
    return (lambda value: f"{100 * value:+.4g}") if metric.share else (lambda value: f"{value:+.4g}")


def _mistakes(content: ReportContent, rows: list[views.Mistake]) -> list[dict]:
    """The worst mistakes with what can be heard and seen of them, as long as the file stays small."""
    shown, room = [], MEDIA_BYTES
    for row in rows:
        media, said = _media(content.examples, row.clip)
        if len(media) > room:
            media, said = Markup(""), "left out to keep this file small"
        room -= len(media)
        shown.append({"row": row, "media": media, "said": said})
    return shown


def _media(examples: Callable[[str], list[Example]] | None, clip: str) -> tuple[Markup, str]:
    if examples is None:
        return Markup(""), ""
    try:
        return Markup("").join(EMBED[example.kind](example.data) for example in examples(clip)), ""
    except UserError as error:
        return Markup(""), str(error)


def _audio(data: bytes) -> Markup:
    return tag("audio", controls="controls", preload="metadata", src=_uri("audio/wav", data))


def _frames(data: list[bytes]) -> Markup:
    return tag("div", *(Markup('<img alt="" src="{}">').format(_uri("image/jpeg", frame)) for frame in data), class_="strip")


EMBED: dict[str, Callable[..., Markup]] = {"audio": _audio, "frames": _frames}


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _environment() -> jinja2.Environment:
    """Everything is escaped, whatever a template's name; an unknown name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": "{:.0%}".format, "thousands": "{:,}".format}
    return made
