"""`crossfade face prepare`: videos of one talking head in, a folder to train from out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from crossfade import use
from crossfade.clip import UserError
from crossfade.data.face import FEATURES, prepared
from crossfade.data.face.crop import CROPS
from crossfade.data.face.footage import Footage
from crossfade.data.face.prepare import Preparing
from crossfade.data.face.prepare import prepare as prepare_all
from crossfade.data.face.prepared import Record
from crossfade.data.face.sheet import contact_sheet
from crossfade.data.face.track import Rules, load
from crossfade.data.face.videos import Video, videos
from crossfade.screen import NAMED, Terminal

SHEET = "contact.jpg"
SILENT = 0.3  # of a clip's pictures: from here on it is said
WHERE = "a YuNet face detector (.onnx), such as the OpenCV Zoo's face_detection_yunet_2023mar.onnx"


@dataclass(frozen=True)
class Preparation:
    """What came of the videos. `frames` of all of them and those `kept`, pictures `dropped` by reason, videos `refused` with theirs."""

    folder: Path
    contact_sheet: Path
    clips: int
    frames: int
    kept: int
    dropped: dict[str, int]
    refused: dict[str, str]
    notes: dict[str, list[str]]

    def to_json(self) -> dict[str, Any]:
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}

    def lines(self) -> list[str]:
        """For a person."""
        share = f"{self.kept:,} of {self.frames:,} pictures ({self.kept / 25 / 60:.1f} min)"
        dropped = [f"dropped {count:,} pictures {why}" for why, count in self.dropped.items()]
        notes = [f"{clip}: {note}" for clip, notes in self.notes.items() for note in notes]
        more = [f"and {len(notes) - NAMED} more such notes in {self.folder / 'clips.csv'}"] if len(notes) > NAMED else []
        where = f"{self.folder}; look at {self.contact_sheet.name}: every mouth belongs inside its green rectangle"
        return [f"{self.clips:,} {'clip' if self.clips == 1 else 'clips'}, {share}", *dropped, *notes[:NAMED], *more, where]


def prepare(
    video: Path,
    out: Path,
    *,
    detector: Path | None = None,
    size: int = 160,
    features: str | Mapping[str, Any] = "logmel256",
    rules: Rules | None = None,
    screen: Terminal | None = None,
) -> Preparation:
    """A video, a folder of videos or a CSV with a column `video` into the folder `out`; what it holds already is not done again.

    UserError: a video that cannot be used, where it is the only one, or none that can; other settings than those `out` was begun with.
    """
    screen, rules = screen or Terminal(), rules or Rules()
    if size not in CROPS:
        raise UserError(f"--size: found {size}; a face is {', '.join(map(str, CROPS))} pixels wide and high")
    if detector is None:
        raise UserError(f"--detector: missing; give {WHERE}")
    load(detector)
    found, spec = videos(video), use.check(FEATURES, dict(features) if isinstance(features, Mapping) else features, "--features")
    rows = use.make(FEATURES, spec)
    settings = {"detector": _digest(detector), "rows": rows.key, **asdict(rules)}
    with _given_back(out):
        prepared.begin(out, {"size": size, "features": spec, "dim": rows.dim, "settings": settings})
        records = _prepared(found, out, Preparing(CROPS[size], rows, detector, rules), screen)
        _some(video, records)
    prepared.finish(out, records)
    contact_sheet(prepared.read(out).talks, CROPS[size], out / SHEET)
    return _told(out, records, screen)


@contextmanager
def _given_back(out: Path):
    """Where nothing comes of a new folder it is taken away again, so that other settings may be tried."""
    new = not (out / "prepared.json").exists()
    try:
        yield
    except UserError:
        if new and (out / "prepared.json").exists():
            shutil.rmtree(out)
        raise


def _prepared(found: Sequence[Video], out: Path, how: Preparing, screen: Terminal) -> list[Record]:
    """One video counts by its pictures, which are gone through twice; several by the clip."""
    total = 2 * _pictures(found[0]) if len(found) == 1 else len(found)
    with screen.counting("preparing", total) as step:
        advance = {"on_picture": step} if len(found) == 1 else {"on_clip": step}
        return prepare_all(found, out, Preparing(how.crop, how.features, how.detector, how.rules, **advance))


def _pictures(video: Video) -> int:
    return Footage(video.path).count


def _some(video: Path, records: Sequence[Record]) -> None:
    if any(record.kept for record in records):
        return
    first = records[0]
    if len(records) == 1:
        raise UserError(f"{first.video}: {first.refused}{_because(first)}")
    raise UserError(f"{video}: none of its {len(records)} videos can be used; the first, {first.video}: {first.refused}{_because(first)}")


def _because(record: Record) -> str:
    """What the pictures were dropped for."""
    reasons = ", ".join(f"{count} {why}" for why, count in record.reasons().items())
    return f" ({reasons})" if reasons else ""


def _told(out: Path, records: Sequence[Record], screen: Terminal) -> Preparation:
    used = [record for record in records if record.kept]
    refused = {record.video: f"{record.refused}{_because(record)}" for record in records if not record.kept}
    screen.left_out(list(refused.items()))
    dropped: dict[str, int] = {}
    for record in used:
        for why, count in record.reasons().items():
            dropped[why] = dropped.get(why, 0) + count
    notes = {record.clip: noted for record in used if (noted := _notes(record))}
    return Preparation(
        out, out / SHEET, len(used), sum(each.frames for each in used), sum(each.kept for each in used), dropped, refused, notes
    )


def _notes(record: Record) -> list[str]:
    return [*record.notes, *([f"no sound in {record.silent:.0%} of it"] if record.silent >= SILENT else [])]


def _digest(path: Path) -> str:
    """A file by its content."""
    return f"{path.name} {blake2b(path.read_bytes(), digest_size=8).hexdigest()}"
