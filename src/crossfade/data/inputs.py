"""Unlabelled input: files, folders or a CSV to clips, for prediction."""

from __future__ import annotations

from pathlib import Path

from crossfade.clip import Clip, UserError
from crossfade.data.files import MEDIUM_OF, manifest


def clips_of(path: Path) -> list[Clip]:
    """A CSV's rows, a folder's media files (recursively; sound and video of one name are one clip), or the file itself.

    Raises UserError where there is nothing at `path`.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        return [_clip(str(stem), files) for stem, files in _by_stem(path).items()]
    if path.suffix.lower() in {".csv", ".tsv"}:
        return manifest(path=path).clips
    return [_clip(str(path), [path])]


def _by_stem(folder: Path) -> dict[Path, list[Path]]:
    files: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MEDIUM_OF and not path.name.startswith("."):
            files.setdefault(path.with_suffix(""), []).append(path)
    return files


def _clip(name: str, files: list[Path]) -> Clip:
    # A name of no known kind may still hold sound or pictures: decoding goes by content, and audio streams read videos too.
    media = {MEDIUM_OF.get(path.suffix.lower(), "video"): path for path in files}
    return Clip(id=name, media=media, labels={}, group=name)
