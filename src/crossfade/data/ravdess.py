"""RAVDESS: every fact of a clip is read from its file name `MM-VC-EE-II-SS-RR-AA`, sound and picture are paired by it.

Modality (01 picture and sound, 02 picture, 03 sound), vocal channel (01 speech, 02 song), emotion, intensity, statement,
repetition, actor. Source: Livingstone and Russo 2018, doi 10.1371/journal.pone.0196391.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from crossfade.clip import Clip, Corpus, UserError

EMOTIONS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]  # EE 01 … 08
VALENCES = ["neutral/calm", "positive", "negative", "surprise"]
CLASS_NAMES = {8: EMOTIONS, 4: VALENCES}
CLASS_OF_EMOTION = {8: EMOTIONS, 4: [VALENCES[i] for i in (0, 0, 1, 2, 2, 2, 2, 3)]}

# The five folds of actors that speaker-independent results on RAVDESS are published with.
RAVDESS_FOLDS = [
    ["02", "05", "14", "15", "16"],
    ["03", "06", "07", "13", "18"],
    ["10", "11", "12", "19", "20"],
    ["08", "17", "21", "23", "24"],
    ["01", "04", "09", "22"],
]

# medium -> the modalities that hold it in a file of that extension, best first
MODALITIES = {"audio": ["03"], "video": ["02", "01"]}
EXTENSION = {"audio": ".wav", "video": ".mp4"}

NAME = re.compile(r"(?P<modality>0[1-3])-(?P<key>(?P<channel>0[12])-(?P<emotion>0[1-8])-0[12]-0[12]-0[12]-(?P<actor>0[1-9]|1\d|2[0-4]))")


class Name(NamedTuple):
    """One file name, read. `key` is the last six fields, shared by the sound and the picture of a clip."""

    modality: str
    key: str
    channel: int
    emotion: int  # 1 … 8
    actor: str  # "01" … "24"


def parse(path: Path) -> Name | None:
    """The fields of a RAVDESS file name, or None where the name does not fit the grammar."""
    found = NAME.fullmatch(path.stem)
    return found and Name(found["modality"], found["key"], int(found["channel"]), int(found["emotion"]), found["actor"])


def ravdess(
    *,
    root: Path,
    classes: Literal[8, 4] = 8,
    media: list[Literal["audio", "video"]] | None = None,
    vocal_channel: Literal[1, 2] | None = 1,
) -> Corpus:
    """RAVDESS below `root`: target "emotion", group = the actor's two digits, clip id = the last six fields of the name.

    `media` (default both) picks sound (`.wav`, modality 03) and picture (`.mp4`, modality 02, or 01 where 02 is absent);
    `vocal_channel` 1 is speech, 2 song, None both. What was not asked for is left out; what does not fit is in `skipped`.
    A clip with one of two media is kept with what it has, and one entry of `skipped` that names `root` counts them.
    4 classes: neutral and calm; happy; sad, angry, fearful and disgust; surprised. Raises UserError.
    """
    root, wanted = Path(root), _wanted(media)
    if not root.is_dir():
        raise UserError(f"ravdess: root {root} is not a folder; give the folder that holds Actor_01, Actor_02, …")
    found, skipped = _scan(root, wanted)
    kept = {name.key: name for name in sorted(set(found)) if vocal_channel in (None, name.channel)}
    paired = {key: _media(key, wanted, found) for key in kept}
    paired = {key: files for key, files in paired.items() if files}
    _refuse_absent(root, wanted, paired.values(), len(found), len(skipped))
    clips = [_clip(kept[key], files, classes) for key, files in sorted(paired.items())]
    return Corpus(clips, {"emotion": list(CLASS_NAMES[classes])}, skipped + _incomplete(root, wanted, clips), group_name="actor")


def _wanted(media: Iterable[str] | None) -> list[str]:
    """The media asked for, in the table's order."""
    asked = list(MODALITIES if media is None else media)
    unknown = sorted(set(asked) - set(MODALITIES))
    if unknown or not asked:
        raise UserError(f"ravdess: media {unknown or '[]'} is not in RAVDESS; choose from {', '.join(MODALITIES)}")
    return [medium for medium in MODALITIES if medium in asked]


def _scan(root: Path, wanted: list[str]) -> tuple[dict[Name, Path], list[tuple[str, str]]]:
    """Every file that fits, by name; and the others with why. Files of a medium that was not asked for are passed over."""
    found: dict[Name, Path] = {}
    skipped: list[tuple[str, str]] = []
    for path in sorted(path for path in root.rglob("*") if path.is_file() and not _hidden(path, root)):
        name, why = parse(path), _misfit(path)
        if why or name is None:
            skipped.append((str(path), why))
        elif name in found:
            skipped.append((str(path), f"same name as {found[name]}, which is used"))
        elif _medium(path) in wanted:
            found[name] = path
    return found, skipped


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _medium(path: Path) -> str | None:
    return next((medium for medium, extension in EXTENSION.items() if path.suffix.lower() == extension), None)


def _misfit(path: Path) -> str:
    """Why a file is not part of RAVDESS, or "" where it is."""
    medium, name = _medium(path), parse(path)
    if medium is None:
        return f"{path.suffix or 'no extension'}: RAVDESS is .wav and .mp4"
    if name is None:
        return "name does not fit MM-VC-EE-II-SS-RR-AA"
    if name.modality not in MODALITIES[medium]:
        return f"modality {name.modality} does not go with {path.suffix}"
    return ""


def _media(key: str, wanted: list[str], found: dict[Name, Path]) -> dict[str, Path]:
    """The files of one clip by medium; of picture alone and picture with sound, picture alone is taken."""
    return {medium: path for medium in wanted if (path := _first(key, MODALITIES[medium], found))}


def _first(key: str, modalities: list[str], found: dict[Name, Path]) -> Path | None:
    channel, emotion, *_, actor = key.split("-")
    names = (Name(modality, key, int(channel), int(emotion), actor) for modality in modalities)
    return next((found[name] for name in names if name in found), None)


def _clip(name: Name, files: dict[str, Path], classes: int) -> Clip:
    label = CLASS_OF_EMOTION[classes][name.emotion - 1]
    return Clip(id=name.key, media=files, labels={"emotion": label}, group=name.actor)


def _refuse_absent(root: Path, wanted: list[str], paired: Iterable[dict[str, Path]], fit: int, misfit: int) -> None:
    """UserError where a medium that was asked for is in no clip at all."""
    present = {medium for files in paired for medium in files}
    absent = [medium for medium in wanted if medium not in present]
    if not present:
        raise UserError(
            f"ravdess: no clip below {root} ({fit} files fit MM-VC-EE-II-SS-RR-AA, {misfit} do not); check root and vocal_channel"
        )
    if absent:
        raise UserError(f"ravdess: no {absent[0]} ({EXTENSION[absent[0]]}) below {root}; add the files or say media: {sorted(present)}")


def _incomplete(root: Path, wanted: list[str], clips: list[Clip]) -> list[tuple[str, str]]:
    """One note a medium: how many clips have to do without it."""
    lacking = {medium: sum(medium not in clip.media for clip in clips) for medium in wanted}
    return [(str(root), f"note: {n} of {len(clips)} clips have no {medium} and are kept without") for medium, n in lacking.items() if n]
