"""What is wrong with a corpus before anything is trained on it: read every file once, keep a few numbers of each, compare.

A problem would bias a result: a file that cannot be used, the same recording in two groups, a label that is contradicted.
A note is worth knowing. Near-duplicates are the same recording at another gain, sampling rate or (good) quality of codec; one
that was cut differently or compressed hard is not found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest, sha256
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from crossfade.clip import Clip, Corpus, Unreadable
from crossfade.data.alike import hear, near_pairs, see
from crossfade.data.findings import Extent, Finding, Findings
from crossfade.data.labels import names_in
from crossfade.data.media import probe, read_audio, read_frames
from crossfade.data.packed import packed_picture
from crossfade.data.ravdess import EMOTIONS, parse
from crossfade.data.stills import fitted, remark, upright
from crossfade.data.tensors import read_npy, read_pt

THREADS = 4  # decoders release the interpreter lock
RATE = 8000  # hertz, for listening
SILENCE = 1e-3  # peak amplitude: −60 dB below full scale
# Cosine of two fingerprints. Most alike of different recordings: sound 0.984 (RAVDESS, ESC-10), video 0.963 (GRID), images
# 0.991 (MNIST); of a recording and its copy: 64 kbit/s MP3 above 0.996, H.264 0.93 to 0.99, JPEG or another size above 0.99.
ALIKE = {"audio": 0.99, "video": 0.98, "image": 0.995}
IMBALANCE = 3.0  # largest class over smallest
LONG = 3.0  # one side of a picture over the other
SMALL = 4.0  # the middle picture's shorter side over a small picture's


class Reading(NamedTuple):
    """What is kept of one medium of one clip. `content` hashes the bytes of the file and the span, or the picture of a file of many."""

    clip: Clip
    medium: str
    content: str = ""
    seconds: float | None = None
    peak: float | None = None  # of sound
    frames: int | None = None  # of video
    pixels: tuple[int, int] | None = None  # of a picture, width and height
    fingerprint: np.ndarray | None = None  # float32, length 1
    remark: str = ""  # on what is used none the less
    error: str = ""


def check(
    corpus: Corpus, *, targets: list[str] | None = None, workers: int = THREADS, advance: Callable[[], None] = lambda: None
) -> Findings:
    """Read every file of the corpus and judge it. `advance` is called once a file.

    `targets` are the labels looked at: by default all that have at most one class for two clips (the others are texts rather than
    labels). Nothing decoded is held: 20,000 clips need about 60 MB, 70,000 pictures 400 MB and half a minute.

    Where the corpus says of every clip which split it is in, copies are looked for across these, and otherwise across groups.
    """
    chosen = [name for name, classes in corpus.classes.items() if 2 * len(classes) <= len(corpus.clips)] if targets is None else targets
    readings = []
    with ThreadPoolExecutor(workers) as pool:
        for reading in _readings(corpus.clips, pool):
            readings.append(reading)
            advance()
    good = [reading for reading in readings if not reading.error]
    side = SPLIT if all(clip.split for clip in corpus.clips) else GROUP
    problems = [*_unusable(readings), *_duplicates(good, chosen, side), *_contradicted(corpus, chosen), *_lonely(corpus, chosen)]
    notes = [
        *_left_out(corpus),
        *_peculiar(good),
        *_odd_sizes(good),
        *_copies(good, side),
        *_unbalanced(corpus, chosen),
        *_groups(corpus, chosen),
    ]
    return Findings(_extents(corpus, good, chosen), problems, notes)


# ---- one file


def _readings(clips: list[Clip], pool: ThreadPoolExecutor) -> Iterator[Reading]:
    """Files by several threads; pictures of a file of many here, for they are too small to be worth a thread."""
    tasks = [(clip, medium) for clip in clips for medium in clip.media]
    decoded = pool.map(lambda task: _read(*task), [task for task in tasks if task[0].item is None])
    for clip, medium in tasks:
        yield next(decoded) if clip.item is None else _read(clip, medium)


def _read(clip: Clip, medium: str) -> Reading:
    path, (start, end) = clip.media[medium], clip.span
    try:
        return READ[medium](Reading(clip, medium, _content(clip, path)), path, start, end)
    except Unreadable as error:
        return Reading(clip, medium, error=error.reason)
    except OSError as error:
        return Reading(clip, medium, error=error.strerror or "cannot be opened")


def _content(clip: Clip, path: Path) -> str:
    if clip.item is not None:
        picture = packed_picture(path, clip.item)
        return f"{sha256(picture.tobytes()).hexdigest()} {picture.shape}"
    with path.open("rb") as file:
        return f"{file_digest(file, 'sha256').hexdigest()} {clip.span[0]:g} {clip.span[1]}"


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
    item = blank.clip.item
    picture = upright(path) if item is None else packed_picture(path, item)
    small = fitted(picture, size=24, channels=1 if picture.ndim == 2 else 3)
    said = remark(path) if item is None else ""
    return blank._replace(pixels=(picture.shape[1], picture.shape[0]), fingerprint=see(small), remark=said)


def _read_tensor(blank: Reading, path: Path, start: float, end: float | None) -> Reading:
    STORED[blank.medium](path)
    return blank


STORED = {"frames": read_pt, "mel": read_npy}
READ = {"audio": _read_audio, "video": _read_video, "image": _read_image, **dict.fromkeys(STORED, _read_tensor)}


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


class Side(NamedTuple):
    """What a copy must not cross: the split that a clip is in, or the group that a split keeps whole."""

    of: Callable[[Clip], str]
    singular: str
    plural: str


GROUP, SPLIT = Side(lambda clip: clip.group, "group", "groups"), Side(lambda clip: clip.split, "split", "splits")


def _duplicates(good: list[Reading], targets: list[str], side: Side) -> Iterator[Finding]:
    """The same bytes, or nearly the same recording, on two sides or under two labels."""
    for copies in _same_content(good):
        sides = _sides(copies, side)
        if len(sides) > 1:
            yield Finding("duplicate", _names(copies), f"the same content in {len(sides)} {side.plural}: {', '.join(sides[:4])}")
        yield from _label_conflict(copies, targets, "the same content")
    for medium, alike in ALIKE.items():
        for one, other, cosine in _near([reading for reading in good if reading.medium == medium], alike, side):
            what = f"{medium} alike to {cosine:.4f}"
            where = f"{side.plural} {side.of(one.clip)} and {side.of(other.clip)}"
            yield Finding("near duplicate", _names([one, other]), f"{what} in the {where}")
            yield from _label_conflict([one, other], targets, what)


def _sides(copies: list[Reading], side: Side) -> list[str]:
    return sorted({side.of(copy.clip) for copy in copies})


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


def _near(readings: list[Reading], alike: float, side: Side) -> list[tuple[Reading, Reading, float]]:
    """Near-duplicates of one medium on different sides; copies of the same content are not named again."""
    heard = [(reading, reading.fingerprint) for reading in readings if reading.fingerprint is not None]
    if not heard:
        return []
    known = [reading for reading, _ in heard]
    kin = [np.unique(names, return_inverse=True)[1] for names in ([side.of(r.clip) for r in known], [r.content for r in known])]
    seconds = np.array([reading.seconds or 1.0 for reading in known])
    pairs = near_pairs(np.stack([vector for _, vector in heard]), np.stack(kin), seconds, alike=alike)
    return [(known[i], known[j], cosine) for i, j, cosine in pairs]


def _contradicted(corpus: Corpus, targets: list[str]) -> Iterator[Finding]:
    """Labels that another source denies: the folder the file lies in, a RAVDESS file name, a label column of the same classes."""
    for clip in (clip for clip in corpus.clips if clip.item is None):  # a file of many pictures has one name for all of them
        for target in (target for target in targets if target in clip.labels):
            for source, said in _said_elsewhere(clip, target, corpus.classes, targets):
                if said in corpus.classes[target] and said not in _named(corpus, clip, target) and not said.isdecimal():
                    yield Finding("label disagreement", [clip.id], f"{target} is {clip.labels[target]}, but {source} says {said}")


def _named(corpus: Corpus, clip: Clip, target: str) -> list[str]:
    """The classes that a clip has of a target: one, or several where the corpus says that it may."""
    return names_in(clip.labels[target], target in corpus.several) if target in clip.labels else []


def _said_elsewhere(clip: Clip, target: str, classes: dict[str, list[str]], targets: list[str]) -> set[tuple[str, str]]:
    names = [parse(path) for path in clip.media.values()]
    said = {("the file name", EMOTIONS[name.emotion - 1]) for name in names if name}
    said |= {("the folder", path.parent.name) for path in clip.media.values()}
    later = targets[targets.index(target) + 1 :]
    return said | {(other, clip.labels[other]) for other in later if other in clip.labels and set(classes[other]) == set(classes[target])}


def _lonely(corpus: Corpus, targets: list[str]) -> Iterator[Finding]:
    """Classes that only one group has: they cannot be in train and in test."""
    for target in targets:
        for label, groups in _groups_of(corpus, target).items():
            if len(groups) == 1:
                yield Finding(
                    "class of one group", sorted(groups), f"{target} {label} is in one group only: it cannot be in train and in test"
                )


def _groups_of(corpus: Corpus, target: str) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = defaultdict(set)
    for clip in corpus.clips:
        for name in _named(corpus, clip, target):
            groups[name].add(clip.group)
    return groups


# ---- notes


def _left_out(corpus: Corpus) -> Iterator[Finding]:
    return (
        Finding("remark" if why.startswith("note: ") else "not placed", [file], why.removeprefix("note: ")) for file, why in corpus.skipped
    )


def _peculiar(good: list[Reading]) -> Iterator[Finding]:
    for reading in good:
        if reading.frames == 1:
            yield Finding("one frame", [_file(reading)], "a video of one frame")
        if reading.remark:
            yield Finding("remark", [_file(reading)], reading.remark)


def _odd_sizes(good: list[Reading]) -> Iterator[Finding]:
    """Pictures that a square squeezes, or that are much smaller than the rest."""
    shown = [(reading, min(reading.pixels), max(reading.pixels)) for reading in good if reading.pixels]
    middle = median([short for _, short, _ in shown]) if shown else 0
    for reading, short, long in shown:
        size = "{} × {}".format(*(reading.pixels or ()))
        if long > LONG * short:
            yield Finding("odd size", [_name(reading)], f"{size} pixels: a square squeezes it, unless the stream's fit is crop or pad")
        elif middle > SMALL * short:
            yield Finding("odd size", [_name(reading)], f"{size} pixels: the shorter side of the middle picture has {middle:g}")


def _name(reading: Reading) -> str:
    """The file, or the clip where its file holds many."""
    return _file(reading) if reading.clip.item is None else reading.clip.id


def _copies(good: list[Reading], side: Side) -> Iterator[Finding]:
    for copies in _same_content(good):
        sides = _sides(copies, side)
        if len(sides) == 1:
            yield Finding("duplicate", _names(copies), f"the same content {len(copies)} times in {side.singular} {sides[0]}")


def _unbalanced(corpus: Corpus, targets: list[str]) -> Iterator[Finding]:
    for target in targets:
        tally = Counter(name for clip in corpus.clips for name in _named(corpus, clip, target))
        ranked = tally.most_common()
        if ranked and ranked[0][1] > IMBALANCE * ranked[-1][1]:
            (most, n), (least, m) = ranked[0], ranked[-1]
            yield Finding("imbalance", [], f"{target}: {most} has {n} clips, {least} has {m}; judge by macro-F1, not by accuracy")
        unknown = sum(target not in clip.labels for clip in corpus.clips)
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


def _extents(corpus: Corpus, good: list[Reading], targets: list[str]) -> dict[str, dict[str, Extent]]:
    seconds: dict[str, float] = {}
    for reading in sorted(good, key=lambda reading: reading.medium, reverse=True):
        if reading.seconds is not None:
            seconds[reading.clip.id] = reading.seconds  # sound comes last and wins
    by: dict[str, Callable[[Clip], list[str]]] = {"all": lambda clip: ["clips"]}
    by |= {target: lambda clip, target=target: _named(corpus, clip, target) for target in targets}
    grouped = len({clip.group for clip in corpus.clips}) < len(corpus.clips)
    by |= {"group": lambda clip: [clip.group] if grouped else []}
    by |= {"domain": lambda clip: [clip.domain] if clip.domain else [], "split": lambda clip: [clip.split] if clip.split else []}
    return {name: table for name, key in by.items() if (table := _extent_table(corpus.clips, seconds, key))}


def _extent_table(clips: list[Clip], seconds: dict[str, float], key: Callable[[Clip], list[str]]) -> dict[str, Extent]:
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        for name in key(clip):
            members[name].append(clip)
    return {name: _extent(len(part), [seconds[clip.id] for clip in part if clip.id in seconds]) for name, part in sorted(members.items())}


def _extent(clips: int, seconds: list[float]) -> Extent:
    if not seconds:
        return Extent(clips, 0.0, 0.0, 0.0, 0.0)
    return Extent(clips, sum(seconds), median(seconds), min(seconds), max(seconds))
