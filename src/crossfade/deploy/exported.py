"""An exported file and its sidecar, which together stand in the place of a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfade.clip import UserError
from crossfade.deploy import sidecar
from crossfade.deploy.bundle import Bundle
from crossfade.deploy.runner import RUNNERS, Runner, open_runner

if TYPE_CHECKING:
    from crossfade.deploy.file_model import FileModel
    from crossfade.deploy.sidecar import Sidecar

HALF: dict[str, dict[str, Any]] = {"float16": {"fp16": True}}  # precision -> options of its runner


@dataclass(frozen=True)
class ExportedFile:
    """A file with its sidecar. Its `bundle` has no weights, but the recipe and the classes of the run that it was made from."""

    path: Path
    about: Sidecar

    @property
    def bundle(self) -> Bundle:
        return Bundle(self.path.parent, self.about.recipe, self.about.classes)

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in files_of(self.path))

    def runner(self, threads: int | None = None) -> Runner:
        """UserError where the files are not those that were compared: a runtime must not be given what may be damaged."""
        for file in files_of(self.path):
            if not file.is_file():
                raise UserError(f"{file}: no such file")
            if digest(file) != self.about.digests.get(file.suffix):
                raise UserError(
                    f"{file}: is not the file that {sidecar.beside(self.path).name} is about; it is damaged, or of another export"
                )
        return open_runner(self.path, threads=threads, **HALF.get(self.about.precision, {}))

    def model(self) -> FileModel:
        """In place of a run's model. UserError where it begins before what a run's streams give."""
        from crossfade.deploy.file_model import FileModel

        if self.about.front_end:
            found = f"{self.path}: begins with sound and pictures as they are decoded, which is for apps"
            raise UserError(f"{found}; for this, export it without --front-end too and give that file")
        return FileModel(self.runner())


def digest(file: Path) -> str:
    """A name for its content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digests(path: Path) -> dict[str, str]:
    """Suffix -> the content of the file, and of each that belongs to it."""
    return {file.suffix: digest(file) for file in files_of(path)}


def is_exported(path: Path) -> bool:
    """Whether this is the path of an exported file, not of a run's folder."""
    return path.suffix in RUNNERS and not path.is_dir()


def files_of(path: Path) -> list[Path]:
    """The file and those that belong to it: model.param, model.bin."""
    return [path, *(path.with_suffix(suffix) for suffix in RUNNERS[path.suffix][2])]


def read(path: Path) -> ExportedFile:
    """UserError where the file or its sidecar is not there, or is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    about = sidecar.read(path)
    if not about.recipe:
        raise UserError(f"{sidecar.beside(path)}: lacks the recipe; `crossfade export` writes it")
    return ExportedFile(path, about)


def remove(path: Path) -> None:
    """The file, those that belong to it and its sidecar, as far as they are there."""
    for file in (*files_of(path), sidecar.beside(path)):
        file.unlink(missing_ok=True)
