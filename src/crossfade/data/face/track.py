"""One face followed through a video: its boxes, smoothed, and which pictures are fit to learn from, with the reason where one is not.

YuNet looks at every second picture. The one between is interpolated where both neighbours show the same faces in nearly the same places,
and looked at where they do not: on four clips the faces then shook no more than with every picture looked at (mean difference of one
picture's crop from the next: 7.63, 4.60, 1.31 and 2.28 grey levels against 7.60, 4.62, 1.33 and 2.36), in half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crossfade.clip import UserError
from crossfade.data.face.footage import FPS
from crossfade.data.face.prepared import Stretch
from crossfade.data.faces import LONGEST, load_detector

EVERY = 2  # a picture of so many is looked at
TOP = 0.096  # of the way from the eyes to the chin: where the box begins
WIDE = 1.056  # of the face's width: the box's side
CHIN = 0.9  # of the box's side: the chin is never lower
SAME = 0.3  # intersection over union with where the face was last
CALM = 0.1  # of the width: faces that moved less between two pictures need no look at the one between
EDGE = 0.04  # of the face's height: so close to an edge of the picture it may be cut
BESIDE = 0.05  # of the box's area: so much of another face is in the way

GONE, JUMPS, SMALL, OUTSIDE, CROWDED = "without the face", "in a jump", "too small", "outside the picture", "with another face in the crop"


class Face(NamedTuple):
    """One detection in pixels. `eyes`: the height of both eyes' middle."""

    left: float
    top: float
    width: float
    height: float
    eyes: float

    @property
    def area(self) -> float:
        return self.width * self.height


@dataclass(frozen=True)
class Rules:
    """What a picture must be like. `smooth` and `smooth_side` in seconds, to each side: positions follow the head, sizes change slowly."""

    min_size: int = 64  # pixels of the face's width
    jump: float = 0.25  # of the box's side, from one picture to the next
    gap: int = 3  # pictures without a detection that are interpolated
    outside: float = 0.1  # of the box's side, that may lie to the left, to the right, above, or, down to the chin, below the picture
    smooth: float = 0.12
    smooth_side: float = 1.0


@dataclass(frozen=True)
class Track:
    """`boxes` float32 (T, 4): x0, y0, x1, y1; where the face is not known, between where it is. `kept` bool (T,)."""

    boxes: np.ndarray
    kept: np.ndarray
    dropped: list[Stretch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def track(
    frames: Iterable[np.ndarray], detector: Path, *, rules: Rules | None = None, advance: Callable[[], object] = lambda: None
) -> Track:
    """RGB pictures at 25 a second -> the track of one face: the largest of the first picture that shows one, then always the one that lies
    most where it was last; never another. `advance` is called once a picture. UserError: no face in any picture, no detector.
    """
    rules, find = rules or Rules(), load(detector)
    seen, size = _look(frames, find, advance)
    chosen = _chosen(seen)
    if not any(chosen):
        raise UserError(f"no face in any of {len(seen)} pictures")
    whole = _whole(chosen, size)
    places, why = _places(whole, rules)
    boxes = _boxes(places, why, rules)
    for frame, box in enumerate(boxes):
        beside = [other for other in seen[frame] if other != chosen[frame]]
        why[frame] = why[frame] or _unfit(whole[frame], beside, box, size, rules)
    kept = np.array([not each for each in why])
    return Track(boxes.astype(np.float32), kept, stretches(why), [*_crowds(seen), *_necks(boxes[kept], size[0], rules)])


def stretches(why: Sequence[str]) -> list[Stretch]:
    """Runs of pictures that are dropped for the same reason."""
    runs = [list(run) for _, run in groupby(enumerate(why), key=lambda each: each[1])]
    return [Stretch(run[0][0], run[-1][0], run[0][1]) for run in runs if run[0][1]]


def load(path: Path) -> Any:
    """This thread's detector. UserError, in words of the command line, where it cannot be used."""
    if not Path(path).is_file():
        raise UserError(f"--detector: {path}: no such file; give a YuNet face detector (.onnx, of the OpenCV Zoo)")
    try:
        return load_detector(path)
    except UserError as error:
        raise UserError(f"--detector: {str(error).removeprefix('frames.face: ')}") from None


def _look(frames: Iterable[np.ndarray], find: Any, advance: Callable[[], object]) -> tuple[list[list[Face]], tuple[int, int]]:
    """The faces of every picture, and the pictures' height and width."""
    seen: list[list[Face]] = []
    waiting: list[np.ndarray] = []
    size = (0, 0)
    for number, picture in enumerate(frames):
        size = picture.shape[:2]
        if number % EVERY:
            waiting.append(picture)
        else:
            now = faces_in(find, picture)
            seen += [*_between(find, seen[-1] if seen else [], now, waiting), now]
            waiting = []
        advance()
    return seen + [faces_in(find, picture) for picture in waiting], size


def _between(find: Any, before: list[Face], now: list[Face], waiting: Sequence[np.ndarray]) -> list[list[Face]]:
    """The faces of pictures between two that were looked at."""
    if not _calm(before, now):
        return [faces_in(find, picture) for picture in waiting]
    shares = [(place + 1) / (len(waiting) + 1) for place in range(len(waiting))]
    return [[_mixed(old, new, share) for old, new in zip(before, now, strict=True)] for share in shares]


def _calm(before: list[Face], now: list[Face]) -> bool:
    pairs = zip(before, now, strict=False)
    return len(before) == len(now) > 0 and all(_moved(old, new) <= CALM * old.width for old, new in pairs)


def _moved(old: Face, new: Face) -> float:
    """By how many pixels the corner that moved most did."""
    right, bottom = new.left + new.width - old.left - old.width, new.top + new.height - old.top - old.height
    return max(abs(new.left - old.left), abs(new.top - old.top), abs(right), abs(bottom))


def _mixed(old: Face, new: Face, share: float) -> Face:
    return Face._make(before + (now - before) * share for before, now in zip(old, new, strict=True))


def faces_in(find: Any, picture: np.ndarray) -> list[Face]:
    """Every face of a picture RGB (H, W, 3), from left to right; looked for in at most 640 pixels."""
    import cv2

    scale = min(1.0, LONGEST / max(picture.shape[:2]))
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    small = bgr if scale == 1.0 else cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    find.setInputSize((small.shape[1], small.shape[0]))
    found = find.detect(small)[1]
    rows = [] if found is None else (found / scale).tolist()
    return sorted(Face._make([*row[:4], (row[5] + row[7]) / 2]) for row in rows)


def _chosen(seen: Sequence[list[Face]]) -> list[Face | None]:
    last: Face | None = None
    chosen = []
    for faces in seen:
        face = _same(last, faces) if last else max(faces, key=lambda each: each.area, default=None)
        chosen.append(face)
        last = face or last
    return chosen


def _same(last: Face, faces: Sequence[Face]) -> Face | None:
    """The one that lies most where the face was last, or None where none lies there."""
    near = [face for face in faces if _overlap(last, face) >= SAME]
    return max(near, key=lambda face: _overlap(last, face), default=None)


def _whole(chosen: Sequence[Face | None], size: tuple[int, int]) -> list[Face | None]:
    """The detector ends a face where the picture ends. Such a one is given the size it had when it was last seen whole."""
    last: Face | None = None
    whole = []
    for face in chosen:
        at = _at_edges(face, size) if face else (False, False, False)
        last = last if any(at) else face or last
        whole.append(_extended(face, last, *at) if face and last else face)
    return whole


def _at_edges(face: Face, size: tuple[int, int]) -> tuple[bool, bool, bool]:
    """Whether it touches the left, the right and the lower edge of a picture of this height and width."""
    near = EDGE * face.height
    return face.left < near, face.left + face.width > size[1] - near, face.top + face.height > size[0] - near


def _extended(face: Face, last: Face, left: bool, right: bool, below: bool) -> Face:
    width, height = max(face.width, last.width), max(face.height, last.height)
    start = face.left - (width - face.width if left else 0)
    return face._replace(left=start, width=width if left or right else face.width, height=height if below else face.height)


def _overlap(one: Face, other: Face) -> float:
    """Intersection over union."""
    shared = _shared(_corners(one), _corners(other))
    return shared / (one.area + other.area - shared)


def _corners(face: Face) -> tuple[float, float, float, float]:
    return face.left, face.top, face.left + face.width, face.top + face.height


def _shared(one: Sequence[float], other: Sequence[float]) -> float:
    """The area of two boxes' intersection."""
    across, down = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(down, 0.0)


def _place(face: Face) -> tuple[float, float, float]:
    """Of the box around a face: the middle of its upper edge, and its side."""
    chin = face.top + face.height
    top = face.eyes + TOP * (chin - face.eyes)
    return face.left + face.width / 2, top, max(WIDE * face.width, (chin - top) / CHIN)


def _places(chosen: Sequence[Face | None], rules: Rules) -> tuple[np.ndarray, list[str]]:
    """x, y and side (T, 3) for every picture, interpolated; and why a picture has none of its own, or "" where it has."""
    known = [frame for frame, face in enumerate(chosen) if face]
    found = np.array([_place(face) for face in chosen if face])
    frames = range(len(chosen))
    places = np.stack([np.interp(frames, known, column) for column in found.T], axis=1)
    why = [GONE] * len(chosen)
    why[known[0]] = ""
    for (before, old), (now, new) in pairwise(zip(known, found, strict=True)):
        gap = now - before - 1
        jumped = np.abs(new - old).max() > rules.jump * min(old[2], new[2]) * (gap + 1)
        reason = JUMPS if jumped else "" if gap <= rules.gap else GONE
        why[before + 1 : now] = [reason] * gap
        why[now] = JUMPS if jumped else ""
    return places, why


def _boxes(places: np.ndarray, why: Sequence[str], rules: Rules) -> np.ndarray:
    """Smoothed within each run of pictures in which the face goes on without a jump or a gap."""
    smooth = places.copy()
    for run in _runs(why):
        smooth[run, :2] = _averaged(places[run, :2], round(rules.smooth * FPS))
        smooth[run, 2:] = _averaged(places[run, 2:], round(rules.smooth_side * FPS))
    x, y, side = smooth.T
    return np.stack([x - side / 2, y, x + side / 2, y + side], axis=1)


def _runs(why: Sequence[str]) -> list[slice]:
    """A picture after a jump is where a run begins."""
    starts = [frame for frame, reason in enumerate(why) if reason != GONE and (not frame or reason == JUMPS or why[frame - 1] == GONE)]
    stops = [next((frame for frame in range(start + 1, len(why)) if why[frame]), len(why)) for start in starts]
    return [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]


def _averaged(line: np.ndarray, radius: int) -> np.ndarray:
    """The centred moving average of (T, C) over `radius` rows to each side, fewer at the ends."""
    sums = np.concatenate([np.zeros_like(line[:1]), np.cumsum(line, axis=0)])
    place = np.arange(len(line))
    first, stop = np.maximum(place - radius, 0), np.minimum(place + radius + 1, len(line))
    return (sums[stop] - sums[first]) / (stop - first)[:, None]


def _unfit(face: Face | None, beside: Sequence[Face], box: np.ndarray, size: tuple[int, int], rules: Rules) -> str:
    """What is wrong with a picture in which the face is known, or ""."""
    side, (height, width) = box[2] - box[0], size
    if face and face.width < rules.min_size:
        return SMALL
    chin = face.top + face.height if face else box[1]  # what the box holds below it is neck, and may be missing
    if max(-box[0], -box[1], box[2] - width, min(box[3], chin) - height) > rules.outside * side:
        return OUTSIDE
    return CROWDED if any(_shared(box.tolist(), _corners(other)) > BESIDE * side**2 for other in beside) else ""


def _crowds(seen: Sequence[list[Face]]) -> list[str]:
    several, most = sum(len(faces) > 1 for faces in seen), max(map(len, seen))
    return [f"{most} faces in {several} of {len(seen)} pictures; followed the largest"] if several else []


def _necks(boxes: np.ndarray, height: int, rules: Rules) -> list[str]:
    """What kept boxes lack below the chin."""
    missing = (boxes[:, 3] - height) / (boxes[:, 3] - boxes[:, 1])
    cut = int((missing > rules.outside).sum())
    return [f"the picture ends below the chin in {cut} pictures; up to {missing.max():.0%} of a crop repeats its edge"] if cut else []
