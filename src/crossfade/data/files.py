"""Corpora that files describe: a CSV manifest with one clip a row, or a tree of folders named after classes."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from crossfade.clip import Clip, Corpus, UserError
from crossfade.data.labels import classes_of, labels_of, several_notes, several_of
from crossfade.data.table import Row, chosen_columns, read_table, span_of

AUDIO = ".wav .flac .ogg .oga .opus .mp3 .m4a .aac .wma .aif .aiff .aifc .au .caf .amr .w64"
VIDEO = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .m2v .ts .mts .wmv .flv .3gp .ogv"
IMAGE = (
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .bmp .dib .webp .tif .tiff .gif .pbm .pgm .ppm .pnm .pfm"
    " .tga .pcx .ico .jp2 .j2k .avif .qoi .psd .sgi .dds .heic .heif"
)  # what Pillow reads, and phones' HEIC, which it does not: left out it would not be named
MEDIUM_OF = {extension: medium for medium, names in {"audio": AUDIO, "video": VIDEO, "image": IMAGE}.items() for extension in names.split()}

MEDIA = ("audio", "video", "image", "frames", "mel")  # the last two are stored tensors: .pt and .npy
RESERVED = (*MEDIA, "id", "group", "domain", "split", "start", "end")
UNLABELLED = ("unlabelled", "unlabeled")  # a folder of clips whose class nobody has said, in any case of its letters
SPLIT_NAMES = {
    "": "",
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def manifest(
    *,
    path: Path,
    targets: list[str] | None = None,
    media: list[str] | None = None,
    root: Path | None = None,
    several: list[str] | None = None,
) -> Corpus:
    """A UTF-8 CSV with one clip a row; delimiter `,` `;` or tab; BOM and Windows line ends are fine.

    Columns `audio`, `video`, `image`, and `frames` (.pt) and `mel` (.npy) for stored tensors: files relative to `root` (default: the
    folder of the CSV); at least one is needed, and `media` keeps some of them. Optional: `id`; `group`, which a split never cuts (empty
    or no column: the clip's own file); `domain`; `split` (train, val, test); `start` and `end` in seconds. Every other column is a
    label column, or those that `targets` names; an empty label is unknown. Classes are sorted, by value where all are whole numbers.
    `several` names label columns whose cells hold any number of classes, `grazing|walking`, and `|` alone for none; by default those
    in which a `|` occurs, and a note says so. Files that are not there are in `skipped`, as is a note where clips have no group.
    Raises UserError, with the row where there is one.
    """
    path = Path(path)
    columns, rows = read_table(path, RESERVED)
    kinds = chosen_columns(path, "media", media, [name for name in MEDIA if name in columns])
    labels = chosen_columns(path, "targets", targets, [name for name in columns if name not in RESERVED])
    many = several_of(path, several, labels, rows)
    if not kinds:
        raise UserError(f"{path}: no media column among {', '.join(columns)}; name one {', '.join(MEDIA[:-1])} or {MEDIA[-1]}")
    base = Path(root) if root is not None else path.parent
    found = [(row, _found(row, kinds, base)) for row in rows]
    if not any(files for _, files in found):
        raise UserError(f"{path}: none of the files of its {len(rows)} rows is there; the first would be {_first_path(rows, kinds, base)}")
    clips = unique_ids([(f"row{row.line}", _clip(path, row, files, labels, many, base)) for row, files in found if files])
    notes = several_notes(path, several, many) + _ungrouped(path, rows)
    return Corpus(clips, classes_of(clips, labels, many), _missing(found, kinds, base) + notes, several=many)


def tree(
    *,
    root: Path,
    target: str = "label",
    levels: Literal["auto", "class", "domain/class", "split/class"] = "auto",
    group_pattern: str | None = None,
) -> Corpus:
    """Folders named after classes, `class/*`; domains and classes, `domain/class/*`; or splits and classes, `train/class/*` beside
    `val` and `test` (or training, valid, validation, dev, testing). Files lie in them at any depth.

    `levels` auto is split/class where all outermost folders are named after splits and hold no file themselves, else what all files
    agree on by their depth. Files of one folder that share a stem and differ in
    medium (`a.wav`, `a.mp4`) are one clip. Clips without a label lie in a folder `unlabelled` in the place of a class, or straight in
    their domain's where other domains have class folders; a note in `skipped` says so. `group_pattern` is a regular expression searched
    in the file name, its first group is the clip's group (a speaker, say); without it each clip is its own. Hidden files are passed
    over, other files that are not media are in `skipped`. Raises UserError.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"tree: root {root} is not a folder")
    relative = sorted(path.relative_to(root) for path in _files(root))
    relative = [path for path in relative if not any(part.startswith(".") for part in path.parts)]
    usable = [path for path in relative if path.suffix.lower() in MEDIUM_OF]
    depth, outer = _levels(root, usable, levels)
    bare = _bare(usable) if (depth, outer) == (2, "domain") else []
    placed = [path for path in usable if len(path.parts) > depth or (len(path.parts) == depth and path.parts[0] in bare)]
    clips = [_leaf(root, stem, files, target, depth, outer, group_pattern) for stem, files in _stems(placed)]
    if not clips:
        raise UserError(f"tree: no media file in class folders below {root}; expected class/*, domain/class/* or split/class/*")
    return Corpus(clips, classes_of(clips, [target]), _outside(root, relative, set(placed)) + _unlabelled(root, clips, bare))


def _files(root: Path) -> Iterator[Path]:
    """Every file below a folder, through links to folders too, each folder once."""
    seen = {root.resolve()}
    for folder, below, names in os.walk(root, followlinks=True):
        places = {name: Path(folder, name).resolve() for name in below}
        below[:] = [name for name in below if places[name] not in seen]
        seen.update(places.values())
        yield from (path for name in names if (path := Path(folder, name)).is_file())


# ---- a row


def _clip(path: Path, row: Row, files: dict[str, Path], labels: list[str], several: Collection[str], base: Path) -> Clip:
    cell = row.cells
    own = _relative(next(iter(files.values())), base)
    span = span_of(path, row)
    mark = "" if span == (0.0, None) else f"@{span[0]:g}-" + ("" if span[1] is None else f"{span[1]:g}")
    return Clip(
        id=cell.get("id") or own + mark,
        media=files,
        labels=labels_of(cell, labels, several),
        group=cell.get("group") or own,
        domain=cell.get("domain", ""),
        span=span,
        split=split_of(path, row),
    )


def _relative(path: Path, base: Path) -> str:
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def split_of(path: Path, row: Row) -> str:
    """What the column `split` says, under our names; "" where it says nothing."""
    cell = row.cells.get("split", "")
    if cell.lower() not in SPLIT_NAMES:
        raise UserError(f"{path}: row {row.line}: split {cell!r} is not known; write train, val, test or nothing")
    return SPLIT_NAMES[cell.lower()]


def _path(cell: str, base: Path) -> Path:
    """A cell as a path below `base`; a backslash is a folder mark where the file is found that way."""
    path = base / cell
    turned = base / cell.replace("\\", "/")
    return turned if not path.is_file() and turned.is_file() else path


def _found(row: Row, kinds: list[str], base: Path) -> dict[str, Path]:
    paths = {kind: _path(row.cells[kind], base) for kind in kinds if row.cells[kind]}
    return {kind: path for kind, path in paths.items() if path.is_file()}


def _first_path(rows: list[Row], kinds: list[str], base: Path) -> str:
    return next((str(_path(row.cells[kind], base)) for row in rows for kind in kinds if row.cells[kind]), "(every media cell is empty)")


def unique_ids(clips: list[tuple[str, Clip]]) -> list[Clip]:
    """Of (mark, clip) the clips; where another clip has the same id too, the mark goes behind it."""
    times = Counter(clip.id for _, clip in clips)
    return [clip if times[clip.id] == 1 else replace(clip, id=f"{clip.id}#{mark}") for mark, clip in clips]


def _missing(found: list[tuple[Row, dict[str, Path]]], kinds: list[str], base: Path) -> list[tuple[str, str]]:
    """The files of the table that are not there, and the rows that name none."""
    return [entry for row, files in found for entry in _missing_of(row, kinds, base, files)]


def _missing_of(row: Row, kinds: list[str], base: Path, files: dict[str, Path]) -> list[tuple[str, str]]:
    fate = "its clip is kept without" if files else "its clip is left out"
    named = [kind for kind in kinds if row.cells[kind]]
    lost = [(str(_path(row.cells[kind], base)), f"row {row.line}: no such file; {fate}") for kind in named if kind not in files]
    return lost if named else [(f"row {row.line}", f"names no file in {', '.join(kinds)}")]


def _ungrouped(path: Path, rows: list[Row]) -> list[tuple[str, str]]:
    bare = sum(not row.cells.get("group") for row in rows)
    why = f"note: {bare} of {len(rows)} rows have no group: each file is its own, so one speaker may be on both sides of a split"
    return [(str(path), why)] if bare else []


# ---- a tree


def _levels(root: Path, usable: list[Path], levels: str) -> tuple[int, str]:
    """How many folders stand above a file (1 for class/*, else 2), and what the outer one of two says: "domain" or "split"."""
    depths = {len(path.parts) - 1 for path in usable} - {0}
    named = bool(depths) and min(depths) > 1 and all(_is_split(path.parts[0]) for path in usable if len(path.parts) > 1)
    agreed = depths.pop() if len(depths) == 1 else 2 if _bare(usable) and max(depths) == 2 else 0
    auto = (2, "split") if named else (agreed, "domain")
    depth, outer = {"class": (1, "domain"), "domain/class": (2, "domain"), "split/class": (2, "split"), "auto": auto}[levels]
    if depth not in (1, 2) and usable:
        raise UserError(
            f"tree: files below {root} lie at different depths or too deep; say levels: class, levels: domain/class or levels: split/class"
        )
    return depth, outer


def _bare(usable: list[Path]) -> list[str]:
    """The outermost folders that hold their files themselves, where every other one has its files in folders, and there is one.

    None where all are named after splits, or where a folder does both: that may be a class with a folder in it.
    """
    direct = {path.parts[0] for path in usable if len(path.parts) == 2}
    deep = {path.parts[0] for path in usable if len(path.parts) > 2}
    return sorted(direct) if deep and not all(map(_is_split, direct | deep)) and not direct & deep else []


def _is_split(name: str) -> bool:
    return bool(SPLIT_NAMES.get(name.lower()))


def _stems(placed: list[Path]) -> list[tuple[str, list[Path]]]:
    """(clip id, files): the files of a stem together, unless two are of one medium; then each by itself under its full name."""
    together: dict[str, list[Path]] = defaultdict(list)
    for path in placed:
        together[path.with_suffix("").as_posix()].append(path)
    return [entry for stem, files in together.items() for entry in _apart(stem, files)]


def _apart(stem: str, files: list[Path]) -> list[tuple[str, list[Path]]]:
    media = [MEDIUM_OF[path.suffix.lower()] for path in files]
    return [(stem, files)] if len(set(media)) == len(media) else [(path.as_posix(), [path]) for path in files]


def _leaf(root: Path, name: str, files: list[Path], target: str, depth: int, outer: str, pattern: str | None) -> Clip:
    folders = files[0].parts[:-1]
    label = "".join(folders[depth - 1 : depth])
    labels = {target: label} if label and label.lower() not in UNLABELLED else {}
    media = {MEDIUM_OF[path.suffix.lower()]: root / path for path in files}
    return OUTER[outer](root, Clip(name, media, labels, _group(files[0], name, pattern)), "".join(folders[: depth - 1]))


def _of_domain(root: Path, clip: Clip, name: str) -> Clip:
    return replace(clip, domain=name)


def _of_split(root: Path, clip: Clip, name: str) -> Clip:
    if not _is_split(name):
        raise UserError(f"tree: levels is split/class, but {root} holds a folder {name!r}; expected train, val and test")
    return replace(clip, split=SPLIT_NAMES[name.lower()])


OUTER: dict[str, Callable[[Path, Clip, str], Clip]] = {"domain": _of_domain, "split": _of_split}


def _group(path: Path, name: str, pattern: str | None) -> str:
    """What `pattern` captures in the file name, or the clip itself."""
    try:
        found = re.search(pattern, path.name) if pattern else None
        group = found[1] if found else None
    except (re.error, IndexError) as error:
        raise UserError(f"tree: group_pattern {pattern!r}: {error}; expected a regular expression with one (group)") from None
    if pattern and group is None:
        raise UserError(f"tree: group_pattern {pattern!r} finds no group in {path.as_posix()}; it must fit every file name")
    return group or name


def _unlabelled(root: Path, clips: list[Clip], bare: list[str]) -> list[tuple[str, str]]:
    """What was taken for clips without a label, of which a folder's name or depth alone speaks, must be said."""
    count = sum(not clip.labels for clip in clips)
    below = f"straight in {', '.join(bare)}, beside domains with class folders" if bare else f"in a folder called {UNLABELLED[0]}"
    return [(str(root), f"note: {count} of {len(clips)} clips have no label, for they lie {below}")] if count else []


def _outside(root: Path, relative: list[Path], placed: set[Path]) -> list[tuple[str, str]]:
    """Files that are no clip, and why."""
    why = {True: "lies in no class folder", False: "not a media file"}
    return [(str(root / path), why[path.suffix.lower() in MEDIUM_OF]) for path in relative if path not in placed]
