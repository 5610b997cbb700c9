"""The tools we are measured against, in an environment of their own: `.bench/venv`, with our own versions of what they share with us."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PLACE = Path(__file__).parents[1] / ".bench"
SAME = ("torch", "torchvision", "numpy", "transformers", "av", "librosa")  # as on our side, whatever range a tool declares


class NotInstallable(Exception):
    """A tool that cannot be had here, and why, in one line: its row of the table then says so."""


def peers_python(*packages: str) -> Path:
    """The Python of that environment with these packages in it: made and filled where needed. Raises NotInstallable."""
    python, same = PLACE / "venv" / "bin" / "python", PLACE / "same.txt"
    PLACE.mkdir(exist_ok=True)
    with (PLACE / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # two benchmarks may start at once
        same.write_text("".join(f"{name}=={version(name)}\n" for name in SAME))
        if not python.exists():
            _uv("venv", "--quiet", "--python", sys.executable, str(PLACE / "venv"))
        _uv("pip", "install", "--quiet", "--python", str(python), "--override", str(same), *packages)
    return python


def _uv(*words: str) -> None:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise NotInstallable("uv is neither beside this Python nor on the path; `make test` installs it")
    done = subprocess.run([uv, *words], capture_output=True, text=True)
    if done.returncode:
        raise NotInstallable(" ".join(done.stderr.split())[:300])


def pyav_libraries(python: Path) -> str:
    """PyAV's FFmpeg under the names by which other tools look for one, as a value for LD_LIBRARY_PATH: the same decoder on both sides."""
    held = next(python.parents[1].glob("lib/python3.*/site-packages/av.libs"))
    links = PLACE / "ffmpeg"
    links.mkdir(exist_ok=True)
    for library in held.glob("lib[as][vw]*.so.*"):
        name, number = library.name.split("-")[0], library.name.split(".so.")[1].split(".")[0]
        link = links / f"{name}.so.{number}"
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    return f"{links}{os.pathsep}{held}"


def ffmpeg_command(python: Path) -> str:
    """A folder with an `ffmpeg` in it, from the package imageio-ffmpeg, for PATH."""
    code = "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    link = PLACE / "bin" / "ffmpeg"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(found)
    return str(link.parent)
