"""What is wrong with a corpus before anything is trained on it: read every file once, keep a few numbers of each, compare.

A problem would bias a result: a file that cannot be used, the same recording in two groups, a label that is contradicted.
A note is worth knowing. Near-duplicates are the same recording at another gain, sampling rate or (good) quality of codec; one
that was cut differently or compressed hard is not found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import file_digest
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from crossfade.clip import Clip, Corpus, Unreadable
from crossfade.data.alike import hear, near_pairs, see
from crossfade.data.media import probe, read_audio, read_frames
from crossfade.data.ravdess import EMOTIONS, parse

THREADS = 4  # decoders release the interpreter lock
RATE = 8000  # hertz, for listening
SILENCE = 1e-3  # peak amplitude: −60 dB below full scale
# Cosine of two fingerprints. Most alike of different recordings: sound 0.984 (RAVDESS, ESC-10), video 0.963 (GRID), images
# 0.991 (MNIST); of a recording and its copy: 64 kbit/s MP3 above 0.996, H.264 0.93 to 0.99, JPEG or another size above 0.99.
ALIKE = {"audio": 0.99, "video": 0.98, "image": 0.995}
IMBALANCE = 3.0  # largest class over smallest
SHOWN = 8  # findings of a kind that `lines` writes out


@dataclass(frozen=True)
class Extent:
    """How much there is of a class, group or domain; seconds, of the clips whose length is known."""

    clips: int
    total: float
    median: float
    shortest: float
    longest: float


@dataclass(frozen=True)
class Finding:
    """One thing found: its kind, the clips or files it is about, and a sentence."""

    kind: str
    where: list[str]
    text: str


@dataclass(frozen=True)
class Findings:
    """`extents`: "all", "group", "domain" and every target -> name -> Extent. `problems` would bias a result, `notes` not."""

    extents: dict[str, dict[str, Extent]]
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """The same as plain dicts and lists, for json.dump."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a terminal: what there is, then what is wrong, then what is worth knowing."""
        tables = [line for name, table in self.extents.items() for line in _table_lines(name, table)]
        return tables + _finding_lines("problem", self.problems) + _finding_lines("note", self.notes)


class Reading(NamedTuple):
    """What is kept of one medium of one clip. `content` hashes the bytes of the file and the span."""

    clip: Clip
    medium: str
    content: str = ""
    seconds: float | None = None
    peak: float | None = None  # of sound
    frames: int | None = None  # of video
    fingerprint: np.ndarray | None = None  # float32, length 1
    error: str = ""


def check(
    corpus: Corpus, *, targets: list[str] | None = None, workers: int = THREADS, advance: Callable[[], None] = lambda: None
) -> Findings:
    """Read every file of the corpus and judge it. `advance` is called once a file.

    `targets` are the labels looked at: by default all that have at most one class for two clips (the others are texts rather than
    labels). Nothing decoded is held: 20,000 clips need about 60 MB.
    """
    chosen = [name for name, classes in corpus.classes.items() if 2 * len(classes) <= len(corpus.clips)] if targets is None else targets
    readings = []
    tasks = [(clip, medium) for clip in corpus.clips for medium in clip.media]
    with ThreadPoolExecutor(workers) as pool:
        for reading in pool.map(lambda task: _read(*task), tasks):
            readings.append(reading)
            advance()
    good = [reading for reading in readings if not reading.error]
    problems = [*_unusable(readings), *_duplicates(good, chosen), *_contradicted(corpus, chosen), *_lonely(corpus, chosen)]
    notes = [*_left_out(corpus), *_one_frame(good), *_copies(good), *_unbalanced(corpus, chosen), *_groups(corpus, chosen)]
    return Findings(_extents(corpus.clips, good, chosen), problems, notes)


# ---- one file


def _read(clip: Clip, medium: str) -> Reading:
    path, (start, end) = clip.media[medium], clip.span
    try:
        with path.open("rb") as file:
            content = f"{file_digest(file, 'sha256').hexdigest()} {start:g} {end}"
        return READ[medium](Reading(clip, medium, content), path, start, end)
    except Unreadable as error:
        return Reading(clip, medium, error=error.reason)
    except OSError as error:
        return Reading(clip, medium, error=error.strerror or "cannot be opened")


def _read_audio(blank: Reading, path: Path, start: float, end: float | None) -> Reading:
    sound = read_audio(path, rate=RATE, start=start, end=end)
    peak = float(np.abs(sound).max())
    fingerprint = hear(sound) if peak >= SILENCE else None
    return blank._replace(seconds=len(sound) / RATE, peak=peak, fingerprint=fingerprint)


def _read_video(blank: Reading, path: Path, start: float, end: float | None) -> Reading:
    found = probe(path)
    frames = read_frames(path, count=6, size=16, start=start, end=end)
    return blank._replace(seconds=(end or found.seconds) - start, frames=found.frames, fingerprint=see(frames))


def _read_image(blank: Reading, path: Path, start: float, end: float | None) -> Reading:
    return blank._replace(fingerprint=see(read_frames(path, count=1, size=24)))


READ = {"audio": _read_audio, "video": _read_video, "image": _read_image}


# ---- problems


def _unusable(readings: list[Reading]) -> Iterator[Finding]:
    for reading in readings:
        if reading.error:
            yield Finding("unreadable", [_file(reading)], reading.error)
        elif reading.peak is not None and reading.peak < SILENCE:
            yield Finding("silent", [_file(reading)], f"peak {_decibels(reading.peak)}, below -60 dBFS")


def _decibels(peak: float) -> str:
    return f"{20 * np.log10(peak):.0f} dBFS" if peak else "is digital zero"


def _file(reading: Reading) -> str:
    return str(reading.clip.media[reading.medium])


def _duplicates(good: list[Reading], targets: list[str]) -> Iterator[Finding]:
    """The same bytes, or nearly the same recording, in two groups or under two labels."""
    for copies in _same_content(good):
        groups = sorted({copy.clip.group for copy in copies})
        if len(groups) > 1:
            yield Finding("duplicate", _names(copies), f"the same content in {len(groups)} groups: {', '.join(groups[:4])}")
        yield from _label_conflict(copies, targets, "the same content")
    for medium, alike in ALIKE.items():
        for one, other, cosine in _near([reading for reading in good if reading.medium == medium], alike):
            what = f"{medium} alike to {cosine:.4f}"
            yield Finding("near duplicate", _names([one, other]), f"{what} in the groups {one.clip.group} and {other.clip.group}")
            yield from _label_conflict([one, other], targets, what)


def _same_content(good: list[Reading]) -> list[list[Reading]]:
    copies: dict[str, list[Reading]] = defaultdict(list)
    for reading in good:
        copies[reading.content].append(reading)
    return [same for same in copies.values() if len({copy.clip.id for copy in same}) > 1]


def _names(readings: Iterable[Reading]) -> list[str]:
    return [reading.clip.id for reading in readings]


def _label_conflict(copies: list[Reading], targets: list[str], what: str) -> Iterator[Finding]:
    for target in targets:
        labels = sorted({copy.clip.labels[target] for copy in copies if target in copy.clip.labels})
        if len(labels) > 1:
            yield Finding("label conflict", _names(copies), f"{what}, but {target} is {' and '.join(labels)}")


def _near(readings: list[Reading], alike: float) -> list[tuple[Reading, Reading, float]]:
    """Near-duplicates of one medium in different groups; copies of the same content are not named again."""
    heard = [(reading, reading.fingerprint) for reading in readings if reading.fingerprint is not None]
    if not heard:
        return []
    known = [reading for reading, _ in heard]
    kin = [np.unique(names, return_inverse=True)[1] for names in ([r.clip.group for r in known], [r.content for r in known])]
    seconds = np.array([reading.seconds or 1.0 for reading in known])
    pairs = near_pairs(np.stack([vector for _, vector in heard]), np.stack(kin), seconds, alike=alike)
    return [(known[i], known[j], cosine) for i, j, cosine in pairs]


def _contradicted(corpus: Corpus, targets: list[str]) -> Iterator[Finding]:
    """Labels that another source denies: the folder the file lies in, a RAVDESS file name, a label column of the same classes."""
    for clip in corpus.clips:
        for target in (target for target in targets if target in clip.labels):
            for source, said in _said_elsewhere(clip, target, corpus.classes, targets):
                if said in corpus.classes[target] and said != clip.labels[target] and not said.isdecimal():
                    yield Finding("label disagreement", [clip.id], f"{target} is {clip.labels[target]}, but {source} says {said}")


def _said_elsewhere(clip: Clip, target: str, classes: dict[str, list[str]], targets: list[str]) -> set[tuple[str, str]]:
    names = [parse(path) for path in clip.media.values()]
    said = {("the file name", EMOTIONS[name.emotion - 1]) for name in names if name}
    said |= {("the folder", path.parent.name) for path in clip.media.values()}
    later = targets[targets.index(target) + 1 :]
    return said | {(other, clip.labels[other]) for other in later if other in clip.labels and set(classes[other]) == set(classes[target])}


def _lonely(corpus: Corpus, targets: list[str]) -> Iterator[Finding]:
    """Classes that only one group has: they cannot be in train and in test."""
    for target in targets:
        for label, groups in _groups_of(corpus.clips, target).items():
            if len(groups) == 1:
                yield Finding(
                    "class of one group", sorted(groups), f"{target} {label} is in one group only: it cannot be in train and in test"
                )


def _groups_of(clips: list[Clip], target: str) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if target in clip.labels:
            groups[clip.labels[target]].add(clip.group)
    return groups


# ---- notes


def _left_out(corpus: Corpus) -> Iterator[Finding]:
    return (
        Finding("remark" if why.startswith("note: ") else "not placed", [file], why.removeprefix("note: ")) for file, why in corpus.skipped
    )


def _one_frame(good: list[Reading]) -> Iterator[Finding]:
    return (Finding("one frame", [_file(reading)], "a video of one frame") for reading in good if reading.frames == 1)


def _copies(good: list[Reading]) -> Iterator[Finding]:
    for copies in _same_content(good):
        if len({copy.clip.group for copy in copies}) == 1:
            yield Finding("duplicate", _names(copies), f"the same content {len(copies)} times in group {copies[0].clip.group}")


def _unbalanced(corpus: Corpus, targets: list[str]) -> Iterator[Finding]:
    for target in targets:
        tally = Counter(clip.labels[target] for clip in corpus.clips if target in clip.labels)
        ranked = tally.most_common()
        if ranked and ranked[0][1] > IMBALANCE * ranked[-1][1]:
            (most, n), (least, m) = ranked[0], ranked[-1]
            yield Finding("imbalance", [], f"{target}: {most} has {n} clips, {least} has {m}; judge by macro-F1, not by accuracy")
        unknown = len(corpus.clips) - sum(tally.values())
        if unknown:
            yield Finding("unlabelled", [], f"{target} is unknown for {unknown} of {len(corpus.clips)} clips")


def _groups(corpus: Corpus, targets: list[str]) -> Iterator[Finding]:
    """What the groups cannot show."""
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        members[clip.group].append(clip)
    if len(members) == len(corpus.clips):
        yield Finding(
            "no groups", [], "every clip is a group of its own; name speakers or sources, so that none is on both sides of a split"
        )
    for target in targets:
        single = [name for name, clips in members.items() if len(clips) > 1 and len({clip.labels.get(target) for clip in clips}) == 1]
        if single:
            yield Finding("group of one class", sorted(single), f"{len(single)} of {len(members)} groups have one class of {target} only")


# ---- how much there is


def _extents(clips: list[Clip], good: list[Reading], targets: list[str]) -> dict[str, dict[str, Extent]]:
    seconds: dict[str, float] = {}
    for reading in sorted(good, key=lambda reading: reading.medium, reverse=True):
        if reading.seconds is not None:
            seconds[reading.clip.id] = reading.seconds  # sound comes last and wins
    by = {"all": lambda clip: "clips"} | {target: lambda clip, target=target: clip.labels.get(target) for target in targets}
    by |= {"group": lambda clip: clip.group, "domain": lambda clip: clip.domain or None}
    return {name: table for name, key in by.items() if (table := _extent_table(clips, seconds, key))}


def _extent_table(clips: list[Clip], seconds: dict[str, float], key: Callable[[Clip], str | None]) -> dict[str, Extent]:
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if (name := key(clip)) is not None:
            members[name].append(clip)
    return {name: _extent(len(part), [seconds[clip.id] for clip in part if clip.id in seconds]) for name, part in sorted(members.items())}


def _extent(clips: int, seconds: list[float]) -> Extent:
    if not seconds:
        return Extent(clips, 0.0, 0.0, 0.0, 0.0)
    return Extent(clips, sum(seconds), median(seconds), min(seconds), max(seconds))


# ---- for a terminal


def _table_lines(name: str, table: dict[str, Extent]) -> list[str]:
    rows = [f"  {key}: {_amount(extent)}" for key, extent in table.items()]
    more = [f"  … and {len(rows) - 30} more"] if len(rows) > 30 else []
    return [f"{name} ({len(rows)})" if name != "all" else name, *rows[:30], *more]


def _amount(extent: Extent) -> str:
    lengths = f", {extent.total:.0f} s in all, median {extent.median:.2f} s, {extent.shortest:.2f} to {extent.longest:.2f} s"
    return f"{extent.clips} clips" + (lengths if extent.total else "")


def _finding_lines(rank: str, findings: list[Finding]) -> list[str]:
    lines = []
    for kind, times in Counter(finding.kind for finding in findings).items():
        some = [finding for finding in findings if finding.kind == kind][:SHOWN]
        lines += [f"{rank}: {kind} ({times})", *(f"  {_where(finding)}{finding.text}" for finding in some)]
        lines += [f"  … and {times - SHOWN} more"] if times > SHOWN else []
    return lines


def _where(finding: Finding) -> str:
    shown = ", ".join(finding.where[:4]) + (f" and {len(finding.where) - 4} more" if len(finding.where) > 4 else "")
    return shown and shown + ": "
