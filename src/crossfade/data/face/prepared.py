"""A folder of prepared clips: every clip's faces, boxes and rows of sound, which pictures are kept, and what was dropped and why.

    prepared.json              version, size, fps, features, dim, settings: what all clips share
    clips.csv dropped.csv      a line a clip · a line a stretch of pictures that is not used
    clips/<clip>/              clip.json, faces.npy, rows.npy, boxes.npy, kept.npy; a clip that was refused has clip.json only
    contact.jpg                to look at

A clip's folder appears whole; clips.csv comes last.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from crossfade.clip import UserError
from crossfade.data.face.crop import CROPS, Crop
from crossfade.data.face.footage import FPS

VERSION = 1
MAPPED = ("faces", "rows")  # of a talk: read off the disk when they are asked for


@dataclass(frozen=True)
class Stretch:
    """Pictures `first` to `last`, both included, that are not used."""

    first: int
    last: int
    why: str


@dataclass(frozen=True)
class Record:
    """What came of one video. `frames` and `kept` count pictures; `silent`: the share of 40 ms without sound; `source` names the file's
    content. `refused`: why none of it is used.
    """

    clip: str
    group: str
    video: str
    source: str
    frames: int = 0
    kept: int = 0
    silent: float = 0.0
    dropped: list[Stretch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: str = ""

    def reasons(self) -> dict[str, int]:
        """How many pictures were dropped for what."""
        counts: dict[str, int] = {}
        for stretch in self.dropped:
            counts[stretch.why] = counts.get(stretch.why, 0) + stretch.last - stretch.first + 1
        return counts


@dataclass(frozen=True)
class Talk:
    """One clip. `kept` (T,) bool; `boxes` (T, 4) in pixels of the video; `faces` uint8 (T, outer, outer, 3) and `rows` float32
    (T + 19, dim) stay on disk until they are asked for.
    """

    clip: str
    group: str
    video: Path
    kept: np.ndarray
    boxes: np.ndarray
    folder: Path

    def __len__(self) -> int:
        return len(self.kept)

    @cached_property
    def faces(self) -> np.ndarray:
        return _array(self.folder / "faces.npy")

    @cached_property
    def rows(self) -> np.ndarray:
        return _array(self.folder / "rows.npy")

    def __getstate__(self) -> dict[str, Any]:
        """Sent to another process, mapped arrays are mapped anew there, not copied."""
        return {name: value for name, value in vars(self).items() if name not in MAPPED}


@dataclass(frozen=True)
class Prepared:
    """What a network learns from. `features` is the spec of the rows of sound, `dim` their width."""

    folder: Path
    crop: Crop
    features: dict[str, Any]
    dim: int
    talks: list[Talk]


def read(folder: Path | str) -> Prepared:
    """A finished folder. Raises UserError: not one, not finished, of another version, files of a clip gone."""
    folder = Path(folder)
    about = _about(folder)
    if about is None:
        way = "give the folder that `crossfade face prepare VIDEO FOLDER` wrote"
        raise UserError(f"{folder}: is a file; {way}" if folder.is_file() else f"{folder}: holds no prepared.json; {way}")
    listed = folder / "clips.csv"
    if not listed.is_file():
        raise UserError(f"{folder}: its preparation has not ended; the same `crossfade face prepare` again goes on with it")
    try:
        with listed.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["kept"]) and row["clip"] and row["group"] and row["video"]]
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{listed}: is not as `crossfade face prepare` wrote it; the same command again writes it anew") from None
    if not rows:
        raise UserError(f"{folder}: none of its clips can be used; {listed} says why")
    return Prepared(folder, CROPS[about["size"]], about["features"], about["dim"], [_talk(folder, row) for row in rows])


def begin(folder: Path, about: Mapping[str, Any]) -> None:
    """Write prepared.json, or find it there with the same content. UserError where the folder was prepared otherwise, or is something
    else's.
    """
    there, wanted = _about(folder), {"version": VERSION, "fps": FPS, **about}
    if there is None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: is not empty and holds no prepared.json; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "prepared.json", json.dumps(wanted, indent=1))
    elif there != wanted:
        name, before, now = _difference(there, wanted)
        raise UserError(f"{folder}: was prepared with {name} {before}, found {now}; give another folder, or remove this one")
    (folder / "clips").mkdir(exist_ok=True)
    for left in (folder / "clips").glob(".*"):  # by a preparation that was killed
        shutil.rmtree(left)


def done(folder: Path, clip: str, source: str) -> Record | None:
    """What came of this clip of this file before, or None."""
    try:
        found = json.loads((folder / "clips" / clip / "clip.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return _record(found) if found["source"] == source else None


@contextmanager
def writing(folder: Path, clip: str) -> Iterator[Path]:
    """A folder to write a clip's files into, which takes its place once the block ends well."""
    temporary = Path(tempfile.mkdtemp(dir=folder / "clips", prefix=f".{clip[:100]}."))
    try:
        yield temporary
        place = folder / "clips" / clip
        shutil.rmtree(place, ignore_errors=True)
        temporary.chmod(0o755)
        temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def note(temporary: Path, record: Record) -> Record:
    """Write clip.json."""
    (temporary / "clip.json").write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
    return record


def finish(folder: Path, records: Sequence[Record]) -> None:
    """Write dropped.csv and, last, clips.csv: of these clips, and of those that the folder holds from before."""
    records = [*_earlier(folder, {record.clip for record in records}), *records]
    gone = [{"clip": record.clip, **asdict(stretch)} for record in records for stretch in record.dropped]
    _table(folder / "dropped.csv", ("clip", "first", "last", "why"), gone)
    columns = ("clip", "group", "video", "frames", "kept", "silent", "dropped", "notes")
    _table(folder / "clips.csv", columns, [_line(record) for record in records])


def _earlier(folder: Path, now: set[str]) -> list[Record]:
    """What came of clips that were prepared here before and not asked for now: they are still learnt from."""
    paths = sorted((folder / "clips").glob("[!.]*/clip.json"))
    return [_record(json.loads(path.read_text(encoding="utf-8"))) for path in paths if path.parent.name not in now]


def _line(record: Record) -> dict[str, Any]:
    dropped = "; ".join([*([record.refused] if record.refused else []), *(f"{count} {why}" for why, count in record.reasons().items())])
    plain = {name: getattr(record, name) for name in ("clip", "group", "video", "frames", "kept")}
    return {**plain, "silent": f"{record.silent:.3f}", "dropped": dropped, "notes": "; ".join(record.notes)}


def _table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", encoding="utf-8", newline="", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _about(folder: Path) -> dict[str, Any] | None:
    path = folder / "prepared.json"
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        version = about["version"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is damaged or not Crossfade's; prepare the video again into a new folder") from None
    if version != VERSION:
        raise UserError(f"{path}: version {version!r}, this Crossfade reads {VERSION}; prepare the video again into a new folder")
    return about


def _difference(there: Mapping[str, Any], wanted: Mapping[str, Any], above: str = "") -> tuple[str, Any, Any]:
    """The first key whose value differs: its dotted name and both values."""
    name = next(name for name in [*wanted, *there] if there.get(name) != wanted.get(name))
    before, now = there.get(name), wanted.get(name)
    if isinstance(before, dict) and isinstance(now, dict):
        return _difference(before, now, f"{above}{name}.")
    return f"{above}{name}", before, now


def _talk(folder: Path, row: Mapping[str, str]) -> Talk:
    place = folder / "clips" / row["clip"]
    try:
        kept, boxes = np.load(place / "kept.npy"), np.load(place / "boxes.npy")
        if not all((place / f"{name}.npy").is_file() for name in MAPPED):
            raise FileNotFoundError
    except (OSError, ValueError):
        raise UserError(
            f"{place}: is gone or damaged, but clips.csv lists it; the same `crossfade face prepare` again makes it anew once it is removed"
        ) from None
    return Talk(row["clip"], row["group"], Path(row["video"]), kept, boxes, place)


def _record(found: Mapping[str, Any]) -> Record:
    return Record(**{**found, "dropped": [Stretch(**each) for each in found["dropped"]]})


def _array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")
