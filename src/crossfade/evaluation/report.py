"""One self-contained HTML file that says how good a run is, from its predictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from crossfade.evaluation import adaptation, choice, contributions, exhibits, explained, figures, heads, heat, tag_views, views
from crossfade.evaluation.contributions import Contributions
from crossfade.evaluation.costs import KINDS
from crossfade.evaluation.exhibits import Example, Examples, Gallery
from crossfade.evaluation.explained import Explained
from crossfade.evaluation.figures import Whisker
from crossfade.evaluation.heads import TrainingClips
from crossfade.evaluation.metrics import summary
from crossfade.evaluation.page import render
from crossfade.evaluation.predictions import Answers, Predictions
from crossfade.evaluation.scores import MANY_CLIPS
from crossfade.evaluation.tags import Tags
from crossfade.evaluation.writing import whole

__all__ = ["Example", "ReportContent", "TrainingClips", "render_report", "write_report"]

LONG = 40  # rows of a table before the rest is only counted
HEADLINES = ("macro_f1", "accuracy", "balanced_accuracy")
ROWS = {Predictions: views, Tags: tag_views}  # what says it of each kind of table


@dataclass(frozen=True)
class ReportContent:
    """All that a report shows. What is empty does not appear."""

    title: str
    predictions: Answers  # rows of val and test
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
    heard: list[str] = field(default_factory=list)  # which frequencies of two domains are listened to
    examples: Examples | None = None  # clip id -> what to hear and see of it
    command: str = ""
    group_name: str = "group"  # the singular word: "actor", "speaker", "patient"
    groups_unseen: bool | None = None  # True: no group of these was in training; None: not known, and not claimed
    seed: int = 0  # of the run, by which clips are drawn to be shown
    multiply_adds: int | None = None  # of one clip
    sparsity: float = 0.0  # share of the weights that are zero
    before: Answers | None = None  # the same test clips by the model before adaptation
    source: dict = field(default_factory=dict)  # summary of the test clips of the domain that was labelled
    source_name: str = "the source domain"
    training: dict[str, TrainingClips] = field(default_factory=dict)  # head -> what training had of it, for the rare classes
    contributions: list[Contributions] = field(default_factory=list)  # what each stream adds, a target each
    explained: list[Explained] = field(default_factory=list)  # a few clips of the test, and where the model looked


def write_report(path: Path | str, content: ReportContent) -> Path:
    """Write the report as one UTF-8 file, in one step; return its path."""
    with whole(path) as file:
        file.write(render_report(content))
    return Path(path)


def render_report(content: ReportContent) -> str:
    """The report's HTML."""
    split = next((split for split in ("test", "source") if _judged(content, split)), "val")
    table = content.predictions.where(split=split).known()
    view = {"content": content, "title": content.title, "warnings": content.warnings, "split": split, "judged": None}
    if len(table):
        found = content.metrics.get(split) or summary(table)
        view |= {"judged": found} | _judgement(content, table, found)
    view |= {"curves": figures.learning_curves(content.history), "streams": _streams(content.by_streams), "long": LONG}
    view |= {"costs": _costs(content), "domain": _domains(content, view["judged"], table)}
    view |= {"heads": heads.section(content.metrics, split, content.training, view["judged"])}
    view |= {"contributed": contributions.section(content.contributions), "looked": explained.section(content.explained)}
    return render("report", view)


def _judged(content: ReportContent, split: str) -> bool:
    """Whether any clip of it has a label. Without one in the target domain, test clips of the source are the nearest there is."""
    return bool((content.predictions.where(split=split).true >= 0).any())


def _judgement(content: ReportContent, table: Answers, found: dict) -> dict:
    """All sections that need clips of known class."""
    told = ROWS[type(table)]
    return {
        "headlines": [views.headline(found, name) for name in HEADLINES],
        "others": [views.headline(found, name) for name in table.metrics if name not in HEADLINES and found.get(name) is not None],
        "shots": found.get("shots", {}),
        "choice": _choice(content, table),
        "adapted": adaptation.section(content.before, table, seed=content.seed) if content.before else None,
        "basis": _basis(content, found),
        "reading": told.reading(found, "clips" if found["n_groups"] == found["n_clips"] else f"{content.group_name}s"),
        "digits": int(found["n_clips"] >= MANY_CLIPS),
        **CLASSES[type(table)](found),
        "groups": told.group_rows(table, table.group),
        "domains": told.group_rows(table, table.domain),
        "reliability": figures.reliability(views.bins(table)),
        "several": found.get("several", False),
        "calibration": told.calibration(table, found["ece"]),
        **_exhibits(content, table),
    }


def _choice(content: ReportContent, table: Answers) -> dict | None:
    """Only where the judged clips are test clips: validation clips cannot show what was chosen on them."""
    found = content.metrics.get("operating")
    return choice.section(found, table) if found and _judged(content, "test") and isinstance(table, Predictions) else None


def _domains(content: ReportContent, found: dict | None, table: Answers) -> list[dict]:
    """The domain that was labelled beside the one the page is about, each under its own name."""
    if not content.source or not found:
        return []
    name = next(iter(set(table.domain) - {""}), "") if len(set(table.domain)) == 1 else ""
    rows = {content.source_name: content.source, **({name or "the target domain": found} if _judged(content, "test") else {})}
    return [
        {"name": name, "clips": one["n_clips"], "values": [views.headline(one, key) for key in HEADLINES]} for name, one in rows.items()
    ]


def _classes(found: dict) -> dict:
    """Of few classes all; of many a map with the usual confusions, and the worst classes first."""
    rows = views.class_rows(found)
    kinds = len(rows)
    if kinds > heat.CROWDED:
        shown = {"confusion": [], "area": heat.area(found), "pairs": heat.pairs(found)}
    else:
        shown = {"confusion": heat.rows(found), "area": None, "pairs": []}
    return {**shown, "kinds": kinds, "dense": kinds > heat.DENSE, **_listed(rows)}


def _tag_classes(found: dict) -> dict:
    """The same without a matrix: no class is taken for another where each is a question of its own."""
    rows = tag_views.class_rows(found)
    return {"confusion": [], "area": None, "pairs": [], "kinds": len(rows), "dense": False, **_listed(rows)}


CLASSES = {Predictions: _classes, Tags: _tag_classes}


def _listed(rows: list[views.ClassRow]) -> dict:
    if len(rows) > LONG:
        rows = sorted(rows, key=lambda row: (row.f1, row.name))
    return {"classes": rows[:LONG], "more_classes": rows[LONG:]}


def _exhibits(content: ReportContent, table: Answers) -> dict:
    """The worst mistakes first, as they tell most; then clips at random, where a clip is a picture, as long as there is room."""
    gallery = Gallery(content.examples, exhibits.MEDIA_BYTES)
    told = ROWS[type(table)]
    worst = [gallery.show(row) for row in told.mistakes(table)]
    drawn = told.drawn(table, content.seed)
    return {"mistakes": worst, "drawn": gallery.stills(drawn), "asked": len(drawn)}


def _costs(content: ReportContent) -> dict[str, str]:
    """What the table of parameters says besides."""
    rows = {"zero weights (sparsity)": (content.sparsity, "sparsity"), "multiply-adds a clip": (content.multiply_adds, "multiply_adds")}
    return {name: KINDS[kind].form(value) for name, (value, kind) in rows.items() if value}


def _basis(content: ReportContent, found: dict) -> str:
    """How many clips of how many groups, and whether training knew those groups: 240 clips of 4 actors, none of them in training."""
    clips, groups, name = found["n_clips"], found["n_groups"], content.group_name
    seen = {True: ", none of them in training", False: ", also in training", None: ""}[content.groups_unseen]
    if groups == clips > 1:  # every clip is a group of its own
        return f"{clips:,} clips{seen}"
    return f"{clips:,} {_plural(clips, 'clip')} of {groups:,} {_plural(groups, name)}{seen}"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _streams(by_streams: dict[str, dict]) -> dict | None:
    if not by_streams:
        return None
    rows = [{"name": name, "values": [views.headline(found, key) for key in HEADLINES]} for name, found in by_streams.items()]
    pairs = [(name, found["macro_f1"], found["intervals"].get("macro_f1") or (None, None)) for name, found in by_streams.items()]
    chart = figures.whiskers([Whisker(name, value, *ends) for name, value, ends in pairs], unit="Macro-F1")
    return {"rows": rows, "chart": chart, "labels": [row.label for row in rows[0]["values"]]}
