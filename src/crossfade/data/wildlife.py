"""Videos that train.csv, val.csv and test.csv list by `video_path`, and what was made of them: stored frames, spectrograms, sound."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from crossfade.clip import Clip, Corpus, UserError
from crossfade.data.files import MEDIA, RESERVED, split_of, unique_ids
from crossfade.data.labels import classes_of, labels_of, names_in, several_notes, several_of
from crossfade.data.table import Row, chosen_columns, read_table, span_of

VIDEO = "video_path"
LISTS = ("train", "val", "test")
PLACES = ("", "metadata", "raw/metadata", "processed/metadata")  # of the lists; the original's guide and its settings differ
EVENT = r"(?:^|/)(S\d+_C\d+_E\d+)(?=_|\.|/|$)"  # site, camera, event


class Listed(NamedTuple):
    """A row of one of the lists. `name` is its video_path with `/` between folders."""

    table: Path
    split: str
    row: Row
    name: str

    @property
    def where(self) -> str:
        return f"{self.table}: row {self.row.line}: clip {self.name}"


@dataclass(frozen=True)
class Beside:
    """Where one medium of a listed video lies: below one of these folders, under a name made of the video's."""

    folders: tuple[str, ...]
    named: Callable[[str], str]

    def find(self, root: Path, name: str) -> Path | None:
        return next((path for folder in self.folders if (path := root / folder / self.named(name)).is_file()), None)


def flat(ending: str) -> Callable[[str], str]:
    """ "a/b.mp4" -> "a_b.pt": the original's rule for what it made of a video."""
    return lambda name: PurePosixPath(name).with_suffix(ending).as_posix().replace("/", "_")


def same(ending: str) -> Callable[[str], str]:
    """ "a/b.mp4" -> "a/b.wav"."""
    return lambda name: PurePosixPath(name).with_suffix(ending).as_posix()


KEPT: dict[str, Beside] = {
    "audio": Beside(("audios", "audio", "raw/audios", "raw/audio"), same(".wav")),
    "video": Beside(("videos", "clips", "raw/videos", "raw/clips", "raw", ""), str),
    "frames": Beside(("video_frames", "processed/video_frames"), flat(".pt")),
    "mel": Beside(("mel_spectrograms", "processed/mel_spectrograms"), flat(".npy")),
}


def wildlife(
    *,
    root: Path,
    videos: Path | None = None,
    targets: list[str] | None = None,
    several: list[str] | None = None,
    group_pattern: str | None = None,
) -> Corpus:
    """The wildlife system's tables: `train.csv`, and `val.csv` and `test.csv` where they are, in `root`, `root/metadata`,
    `root/raw/metadata` or `root/processed/metadata`, with the columns `video_path`, `species`, `activity` and any other labels. Where
    `root` is a CSV itself that is the one table, whose column `split`, if any, says train, val or test; files are sought beside it.

    A clip has whatever is there of: the video (below `videos`, else root's videos, clips or raw), its sound as `.wav` (audios), its
    stored frames `video_frames/a_b.pt` and spectrogram `mel_spectrograms/a_b.npy` (of `a/b.mp4`; both also below `processed`). Which
    of these are used the streams of the recipe say. Split: the table a row is in. A class that train.csv lacks is an error.
    `group_pattern`: a regular expression searched in video_path, what it captures (joined by _) is the clip's group; null is the event,
    as S1_C3_E144 in S1_C3_E144_V0060_ID1_T1/…, else the folder, else the file; a column `group` goes before. `targets` and
    `several`: as in `manifest`. Raises UserError.
    """
    listed = read_lists(Path(root), PLACES)
    first = listed[0].table
    columns = [name for name in listed[0].row.cells if name not in RESERVED and name != VIDEO]
    labels = chosen_columns(first, "targets", targets, columns)
    many = several_of(first, several, labels, [entry.row for entry in listed])
    classes = _classes(listed, labels, many)
    groups, note = grouped(listed, group_pattern)
    found = found_media(Path(root).parent if Path(root).is_file() else Path(root), listed, videos)
    clips = [
        (f"{entry.table.stem}:{entry.row.line}", _clip(entry, files, group, labels_of(entry.row.cells, labels, many)))
        for entry, files, group in zip(listed, found, groups, strict=True)
        if files
    ]
    notes = several_notes(first, several, many) + _without(listed, labels) + [(str(first.parent), why) for why in note]
    return Corpus(unique_ids(clips), classes, lost(listed, found) + notes, several=many)


def _clip(entry: Listed, files: dict[str, Path], group: str, labels: dict[str, str]) -> Clip:
    cells, span = entry.row.cells, span_of(entry.table, entry.row)
    return Clip(cells.get("id") or entry.name, files, labels, group, cells.get("domain", ""), span, entry.split)


# ---- the lists


def read_lists(root: Path, places: Sequence[str]) -> list[Listed]:
    """Every row of the lists in the first of these places below `root` that has a train.csv, or of `root` itself. Raises UserError."""
    if root.is_file():
        return [entry._replace(split=split_of(root, entry.row)) for entry in _rows("", root)]
    return [row for split, path in _tables(root, places).items() for row in _rows(split, path)]


def _tables(root: Path, places: Sequence[str]) -> dict[str, Path]:
    if not root.is_dir():
        raise UserError(f"{root}: is not a folder; give the one that holds {' or '.join(filter(None, places))}, or a CSV")
    folder = next((root / place for place in places if (root / place / "train.csv").is_file()), None)
    if folder is None:
        looked = ", ".join(str(root / place) for place in places)
        raise UserError(f"{root}: no train.csv in {looked}; expected the columns {VIDEO}, species, activity")
    return {split: path for split in LISTS if (path := folder / f"{split}.csv").is_file()}


def _rows(split: str, path: Path) -> list[Listed]:
    columns, rows = read_table(path, (*RESERVED, VIDEO))
    if VIDEO not in columns:
        raise UserError(f"{path}: no column {VIDEO!r} among {', '.join(columns)}; it names the video of each clip")
    bare = [row.line for row in rows if not row.cells[VIDEO]]
    if bare:
        raise UserError(f"{path}: row {bare[0]}: {VIDEO} is empty; name the clip's video, whether it is there or not")
    return [Listed(path, split, row, row.cells[VIDEO].replace("\\", "/").removeprefix("./")) for row in rows]


def _without(listed: list[Listed], targets: list[str]) -> list[tuple[str, str]]:
    """Lists that lack a label column of train.csv."""
    columns = {entry.table: entry.row.cells for entry in listed}
    pairs = [(table, target) for table, cells in columns.items() for target in targets if target not in cells]
    return [(str(table), f"note: has no column {target!r}, which is unknown of all its clips") for table, target in pairs]


def _classes(listed: list[Listed], targets: list[str], several: Sequence[str]) -> dict[str, list[str]]:
    """The classes of the training clips; UserError where another has one that they lack."""
    said = [(entry, labels_of(entry.row.cells, targets, several)) for entry in listed]
    shown = {"train"} & {entry.split for entry in listed} or {""}
    known = classes_of([Clip("", {}, labels, "") for entry, labels in said if entry.split in shown], targets, several)
    for entry, labels in said:
        for target, label in labels.items():
            for name in names_in(label, target in several):
                refuse_unknown(entry, target, name, known[target], f"{listed[0].table.name}'s training clips")
    return known


def refuse_unknown(entry: Listed, target: str, name: str, known: Sequence[str], source: str) -> None:
    if name not in known:
        near = get_close_matches(name, known, 1, 0.7)
        right = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(known) or 'none'}"
        raise UserError(f"{entry.where}: {target} {name!r} is no class of {source}; {right}")


# ---- what is there of a clip


def found_media(root: Path, listed: Sequence[Listed], videos: Path | None = None) -> list[dict[str, Path]]:
    """Of each row medium -> file. Raises UserError where there is nothing at all."""
    beside = KEPT if videos is None else KEPT | {"video": Beside((str(Path(videos).absolute()),), str)}
    found = [_found(root, beside, entry.name) for entry in listed]
    if not any(found):
        looked = "; ".join(f"{place.named(listed[0].name)} in {', '.join(filter(None, place.folders))}" for place in beside.values())
        raise UserError(f"{listed[0].table}: none of the files of {len(listed)} rows is below {root}; looked for {looked}")
    return found


def _found(root: Path, beside: Mapping[str, Beside], name: str) -> dict[str, Path]:
    paths = {kind: place.find(root, name) for kind, place in beside.items()}
    return {kind: path for kind, path in paths.items() if path}


def lost(listed: Sequence[Listed], found: Sequence[dict[str, Path]]) -> list[tuple[str, str]]:
    """The rows of which there is nothing, and how many clips have to do without a medium that others have."""
    gone = [
        (entry.name, f"{entry.table.name} row {entry.row.line}: no such file; its clip is left out")
        for entry, files in zip(listed, found, strict=True)
        if not files
    ]
    kept = [files for files in found if files]
    lacking = {kind: sum(kind not in files for files in kept) for kind in MEDIA if any(kind in files for files in kept)}
    where = str(listed[0].table.parent)
    return gone + [(where, f"note: {n} of {len(kept)} clips have no {kind} and are kept without") for kind, n in lacking.items() if n]


# ---- groups


def grouped(listed: Sequence[Listed], pattern: str | None) -> tuple[list[str], list[str]]:
    """The group of each row, and what must be said of it."""
    own = [entry.row.cells.get("group", "") for entry in listed]
    matched = [group or captured(entry, pattern) for entry, group in zip(listed, own, strict=True)]
    if all(matched):
        why = f"what {pattern!r} captures" if pattern else "site, camera and event"
        return matched, [] if all(own) else [f"note: a group is {why} in its name, as in {matched[0]}"]
    bare = [entry for entry, group in zip(listed, matched, strict=True) if not group]
    folders, why = _folders(bare)
    groups = [group or (folders(entry) or entry.name) for entry, group in zip(listed, matched, strict=True)]
    return groups, [f"note: {len(bare)} of {len(listed)} clips have no event in their name, as S1_C3_E144 would be; {why}"]


def captured(entry: Listed, pattern: str | None) -> str:
    """What a pattern captures in the name, "" where the default finds nothing."""
    try:
        found = re.search(pattern or EVENT, entry.name)
        parts = [part for part in found.groups() if part] if found else []
    except re.error as error:
        raise UserError(f"group_pattern {pattern!r}: {error}; expected a regular expression with one (group) or more") from None
    if pattern and not parts:
        raise UserError(f"{entry.where}: group_pattern {pattern!r} captures nothing in it; it must fit every {VIDEO}")
    return "_".join(parts)


def _folders(listed: Sequence[Listed]) -> tuple[Callable[[Listed], str], str]:
    """The folder as the group; not where one holds clips of two lists, for then it says what a clip is of, and not which event."""
    sides: dict[str, set[str]] = {}
    for entry in listed:
        sides.setdefault(_folder(entry), set()).add(entry.split)
    torn = [folder for folder, splits in sides.items() if folder and len(splits) > 1]
    if torn or not any(sides):
        held = f"folder {torn[0]!r} holds clips of several lists" if torn else "they lie in no folders"
        return lambda entry: "", f"{held}, so each file is its own group, and one event may be on both sides of a split"
    return _folder, f"their folder is their group, as in {next(filter(None, sides))}"


def _folder(entry: Listed) -> str:
    parent = PurePosixPath(entry.name).parent.as_posix()
    return "" if parent == "." else parent
