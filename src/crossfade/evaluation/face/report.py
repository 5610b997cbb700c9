"""One self-contained HTML file that says how good a talking face is; while it is trained, how that goes."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from crossfade.evaluation import figures
from crossfade.evaluation.exhibits import PNG
from crossfade.evaluation.face import MEASURES, curves, words
from crossfade.evaluation.face.scores import ShiftCurve
from crossfade.evaluation.figures import Whisker
from crossfade.evaluation.intervals import Comparison
from crossfade.evaluation.page import render
from crossfade.evaluation.writing import whole

HEADLINES = ("mouth_psnr", "mouth_ssim", "sensitivity")
COLUMNS = ("mouth_psnr", "mouth_ssim", "mouth_mae", "mouth_temporal", "psnr", "ssim")  # of the table of baselines


@dataclass(frozen=True)
class Strip:
    """A picture of frames: what it shows, and the bytes of a JPEG or PNG."""

    title: str
    data: bytes
    said: str = ""


@dataclass(frozen=True)
class Baseline:
    """Something simpler on the same frames: its summary, and what the run is compared with it by."""

    name: str
    summary: dict
    comparisons: list[Comparison] = field(default_factory=list)  # run − baseline
    said: str = ""  # what it does


@dataclass(frozen=True)
class FaceReport:
    """All that a page shows. What is empty does not appear; without `metrics` it is the page of an unfinished run."""

    title: str
    warnings: list[str] = field(default_factory=list)  # shown on the first line
    metrics: dict = field(default_factory=dict)  # metrics.json: split -> summary
    history: list[dict] = field(default_factory=list)  # rows of metrics.jsonl
    strips: list[Strip] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)
    curve: ShiftCurve | None = None  # the mouth's error by shift of the sound
    parameters: dict[str, int] = field(default_factory=dict)
    recipe: str = ""
    environment: dict = field(default_factory=dict)
    command: str = ""
    notes: list[str] = field(default_factory=list)
    group_name: str = "group"  # the singular word: "sentence", "video"
    name: str = "this run"  # what it is called beside the baselines


@dataclass(frozen=True)
class Number:
    """A number as a reader wants it."""

    label: str
    value: str
    ends: str  # "23.9 – 24.6", or that there is no interval
    meaning: str = ""


def write_report(path: Path | str, content: FaceReport) -> Path:
    """Write the page as one UTF-8 file, in one step; return its path."""
    with whole(path) as file:
        file.write(render_report(content))
    return Path(path)


def render_report(content: FaceReport) -> str:
    """The page's HTML."""
    split = "test" if content.metrics.get("test") else "val"
    found = content.metrics.get(split) or {}
    view = {
        "title": content.title,
        "warnings": content.warnings,
        "content": content,
        "split": split,
        "groups": words.counted(2, content.group_name).removeprefix("2 "),
        "consent": words.CONSENT,
        "unfinished": words.UNFINISHED,
        "judged": _judged(content, found) if found else None,
        "curves": curves.learning(content.history),
        "strips": [(strip, _picture(strip.data)) for strip in content.strips],
        "shift": _shift(content.curve),
    }
    return render("face", view)


def _judged(content: FaceReport, found: dict) -> dict:
    comparisons = [each for baseline in content.baselines for each in baseline.comparisons]
    return {
        "basis": _basis(content, found),
        "headlines": [number(found, name) for name in HEADLINES if found.get(name) is not None],
        "reading": [*[words.claim(each, content.group_name) for each in comparisons if each.metric == "mouth_psnr"], *words.reading(found)],
        "numbers": [number(found, name) for name in MEASURES if found.get(name) is not None],
        "rows": _rows(content, found),
        "labels": [MEASURES[name].label for name in COLUMNS],
        "claims": [words.claim(each, content.group_name) for each in comparisons],
        "chart": _differences(comparisons),
        "notes": found.get("notes", []),
        "left_out": words.left_out(found),
    }


def number(found: dict, name: str) -> Number:
    """One number of a summary, ready to show; "–" where it is not there."""
    measure, value, ends = MEASURES[name], found.get(name), found.get("intervals", {}).get(name)
    reach = " – ".join(measure.show(end).removesuffix(" dB") for end in ends) if ends else "no interval"
    return Number(measure.label, "–" if value is None else measure.show(value), reach, words.meaning(name))


def _basis(content: FaceReport, found: dict) -> str:
    """3,600 frames of 48 clips, or of 48 clips of 4 videos."""
    clips, groups = found["n_clips"], found["n_groups"]
    of = f" of {words.counted(groups, content.group_name)}" if groups != clips else ""
    return f"{words.counted(found['n_frames'], 'frame')} of {words.counted(clips, content.group_name if not of else 'clip')}{of}"


def _rows(content: FaceReport, found: dict) -> list[dict]:
    """The run, then what it is compared with."""
    rows = [(content.name, "", found), *((each.name, each.said, each.summary) for each in content.baselines)]
    return [{"name": name, "said": said, "numbers": [number(summary, column) for column in COLUMNS]} for name, said, summary in rows]


def _differences(comparisons: list[Comparison]) -> Markup:
    """The differences of the mouth's PSNR with their intervals."""
    rows = [Whisker(f"{each.a} − {each.b}", each.difference, each.low, each.high) for each in comparisons if each.metric == "mouth_psnr"]
    return figures.whiskers(rows, lambda x: f"{x:+.4g}", zero=True, unit="difference of the mouth's PSNR in dB") if rows else Markup("")


def _shift(curve: ShiftCurve | None) -> dict | None:
    return {"chart": curves.shifts(curve), "said": words.in_step(curve)} if curve else None


def _picture(data: bytes) -> Markup:
    kind = "image/png" if data.startswith(PNG) else "image/jpeg"
    source = f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return Markup('<img alt="" style="display:block;max-width:100%;height:auto;border-radius:6px" src="{}">').format(source)
