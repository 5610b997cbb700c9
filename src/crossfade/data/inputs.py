"""Unlabelled input: files, folders or a CSV to clips, for prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from crossfade.clip import Clip, Corpus, UserError
from crossfade.data.files import MEDIUM_OF, manifest
from crossfade.data.packed import is_packed, packed_pictures
from crossfade.data.ravdess import parse

TENSORS = {".pt": "frames", ".npy": "mel"}  # taken for what they are only where they are named: any folder may hold such files


def clips_of(paths: Iterable[Path]) -> Corpus:
    """Each file, folder or CSV in turn: a file itself, or each picture of a file of many; a folder's media files, recursively; the
    rows of a CSV.

    In a folder, sound and video of one name, or of one RAVDESS recording, are one clip. What is given twice is one clip too; clips
    of one id get their input before it. Raises UserError where there is nothing at a path or nothing to classify in it.
    """
    corpora = [(path, _corpus(path)) for path in paths]
    found = [(path, clip) for path, corpus in corpora for clip in corpus.clips]
    distinct = {(str(sorted(clip.media.items())), clip.span, clip.item): (path, clip) for path, clip in reversed(found)}
    kept = list(reversed(distinct.values()))
    times = Counter(clip.id for _, clip in kept)
    clips = [clip if times[clip.id] == 1 else replace(clip, id=f"{path}:{clip.id}") for path, clip in kept]
    return Corpus(clips, {}, [entry for _, corpus in corpora for entry in corpus.skipped])


def _corpus(path: Path) -> Corpus:
    if path.is_dir():
        return Corpus(_in_folder(path), {})
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.suffix.lower() in {".csv", ".tsv"}:
        return manifest(path=path)
    if is_packed(path):
        return Corpus([_picture(path, item) for item in range(len(packed_pictures(path)))], {})
    return Corpus([_clip(str(path), [path])], {})


def _picture(path: Path, item: int) -> Clip:
    name = f"{path}#{item:05d}"
    return Clip(id=name, media={"image": path}, labels={}, group=name, item=item)


def _in_folder(folder: Path) -> list[Clip]:
    stems: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in MEDIUM_OF and not hidden and path.is_file():
            stems.setdefault(_stem(path), []).append(path)
    if not stems:
        raise UserError(f"{folder}: no sound, picture or video file in it")
    return [clip for stem, files in stems.items() for clip in _apart(str(stem), files)]


def _stem(path: Path) -> Path:
    """What the files of one recording share: the name without its ending, in RAVDESS without the modality too."""
    name = parse(path)
    return path.with_name(name.key) if name else path.with_suffix("")


def _apart(stem: str, files: list[Path]) -> list[Clip]:
    """One clip, unless two files are of one medium: then each is its own."""
    media = [MEDIUM_OF[path.suffix.lower()] for path in files]
    if len(set(media)) == len(media):
        return [_clip(stem if len(files) > 1 else str(files[0]), files)]
    return [_clip(str(path), [path]) for path in files]


def _clip(name: str, files: list[Path]) -> Clip:
    # A name of no known kind may still hold sound or pictures: decoding goes by content, and audio streams read videos too.
    media = {(MEDIUM_OF | TENSORS).get(path.suffix.lower(), "video"): path for path in files}
    return Clip(id=name, media=media, labels={}, group=name)
