"""Table 3: real 3 s clips with sound to (8 frames at 112 pixels, log-mel 64), against other readers and the bare decoder."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import NotInstallable, ffmpeg_command, peers_python, pyav_libraries
from benchmarks.measure import DATA, ROOT, Failed, command, digits, heading, machine, markdown, progress, times, versions

GRID = DATA / "grid" / "s1"
KINDS = {"mpg": "MPEG-1 + MP2, as published", "mp4": "H.264 + AAC"}
WARM = 2  # files of each kind that every process reads before the clock starts
STD = 58  # of 255: what one unit of a normalised picture is, the mean over the colours
NOTES = """\
Medians, milliseconds a clip. A process of one thread for each tool; the clips of a kind are given to all of them in turn, half a
second's work each, so that a busy moment of the machine strikes all; ratios are medians over the clips of two times taken in the same
turn. Files lie in the page cache. Each tool gives the same 8 frames, resized and normalised, and the sound at 16 kHz as a log-mel
spectrogram. "First pass" of ours decodes and writes to an empty store, a later pass reads that; the others decode at every pass. The
floor decodes every packet and throws it away: ours leaves out pictures that neither it nor another picture needs. "Pictures" and "sound"
are the mean distance of what was read to ours, in 255ths and decibels; resizers differ, ours and torchcodec's smooth before they shrink.
OpenCV has no sound: librosa gets it from the `ffmpeg` command, or, in its second row, from .wav files that were written before the clock
started and spare it the decoding; that row is in no headline. torchcodec uses PyAV's FFmpeg, the same libraries as ours; asked for the
last three frames of the .mpg files it fails, and is spared them here."""


@dataclass(frozen=True)
class Tool:
    name: str
    reader: str
    packages: tuple[str, ...] = ()
    environment: Callable[[Path], dict[str, str]] = field(default=lambda python: {})
    in_part: tuple[str, ...] = ()  # kinds of file that it cannot read whole


def _with_ffmpeg(python: Path) -> dict[str, str]:
    return {"PATH": f"{ffmpeg_command(python)}{os.pathsep}{os.environ['PATH']}"}


def _with_libraries(python: Path) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": pyav_libraries(python)}


CV = ("opencv-python-headless", "librosa")
OURS, FLOOR, SPARED = Tool("Crossfade", "ours"), Tool("the floor: PyAV alone", "bare"), Tool("OpenCV + librosa, .wav", "opencv_and_wav", CV)
TOOLS = [
    OURS,
    Tool("torchcodec", "torchcodec", ("torch", "torchcodec", "av", "librosa"), _with_libraries, ("mpg",)),
    Tool("decord + librosa", "decord", ("decord", "librosa")),
    Tool("OpenCV + librosa", "opencv", (*CV, "imageio-ffmpeg"), _with_ffmpeg),
    SPARED,
    FLOOR,
]


def run(quick: bool) -> dict[str, Any]:
    names = ("torchcodec", "decord", "opencv-python-headless", "librosa")
    about, used = machine() | {"threads": 1}, versions("av", "numpy", "torch", "soxr") | versions(*names, python=peers_python(*names))
    print(heading("Intake", about, used))
    files = {kind: sorted(GRID.glob(f"*.{kind}"))[: WARM + (2 if quick else 22)] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        rows = _contest(files, Path(folder), repeats=1 if quick else 5)
    lines = _headlines({row["tool"]: row for row in rows if "failed" not in row})
    print("\n".join(f"- {line}" for line in lines) + "\n\n" + _table(rows) + "\n\n" + NOTES, flush=True)
    clips = {kind: len(names) - WARM for kind, names in files.items()}
    return {"command": command(), "machine": about, "versions": used, "clips": clips, "headlines": lines, "rows": rows}


def _contest(files: Mapping[str, Sequence[Path]], folder: Path, *, repeats: int) -> list[dict[str, Any]]:
    """One row a tool, ours first: milliseconds of each kind, ratios to ours, distances to what ours reads."""
    _write_sound(files, folder)
    taken: dict[str, dict[str, list[list[float]]]] = {tool.name: {kind: [] for kind in KINDS} for tool in TOOLS}
    failed: dict[str, str] = {}
    for turn in range(repeats):
        with ExitStack() as seats:
            asks = {}
            for tool in TOOLS:
                try:
                    asks[tool.name] = seats.enter_context(_seated(tool, folder, folder / f"store-{turn}"))
                except (Failed, NotInstallable) as error:
                    failed[tool.name] = str(error)
            _round(asks, files, taken, failed, folder)
        progress(f"intake: round {turn + 1} of {repeats} done" + "".join(f"; {name}: {why}" for name, why in failed.items()))
    return [{"tool": tool.name, "failed": failed[tool.name]} if tool.name in failed else _row(tool, taken, folder) for tool in TOOLS]


Ask = Callable[[list[tuple[str, str]]], list[float]]  # [(a file, where its arrays go or "")] -> seconds


def _round(
    asks: Mapping[str, Ask], files: Mapping[str, Sequence[Path]], taken: dict[str, Any], failed: dict[str, str], folder: Path
) -> None:
    """Three passes over the files of each kind, through all tools before the next; a tool that fails drops out."""
    warm, measured = {kind: paths[:WARM] for kind, paths in files.items()}, {kind: paths[WARM:] for kind, paths in files.items()}
    for number, by_kind in enumerate([warm, measured, measured, measured]):
        for kind, paths in by_kind.items():
            for name in [name for name in asks if name not in failed]:
                try:
                    seconds = asks[name]([(str(path), _answer(folder, name, kind) if path == files[kind][-1] else "") for path in paths])
                    taken[name][kind] += [[number, each] for each in seconds if number]
                except Failed as error:
                    failed[name] = str(error)


def _answer(folder: Path, name: str, kind: str) -> str:
    return str(folder / f"{name}.{kind}.npz")


@contextmanager
def _seated(tool: Tool, folder: Path, store: Path) -> Iterator[Ask]:
    """A process that reads what it is asked to. Raises Failed, NotInstallable."""
    python = peers_python(*tool.packages) if tool.packages else Path(sys.executable)
    fixed = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    words = [str(python), "-m", "benchmarks.peers.reading", tool.reader, str(store if tool is OURS else folder)]
    with (folder / f"{tool.reader}.stderr").open("w+") as said:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said}
        process = subprocess.Popen(words, text=True, cwd=ROOT, env=os.environ | fixed | tool.environment(python), **pipes)

        def answer() -> Any:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                said.seek(0)
                raise Failed((said.read().strip().splitlines() or ["ended without a word"])[-1])
            return json.loads(line)

        def ask(files: list[tuple[str, str]]) -> list[float]:
            print(json.dumps(files), file=process.stdin, flush=True)
            return answer()

        try:
            answer()
            yield ask
        finally:
            if process.stdin:
                process.stdin.close()
            process.wait()


def _write_sound(files: Mapping[str, Sequence[Path]], folder: Path) -> None:
    """The .wav files of the tool that is spared the decoding; everything read once, so that it is in memory for all."""
    import soundfile

    from crossfade.data.media import read_audio

    for path in [path for paths in files.values() for path in paths]:
        path.read_bytes()
        soundfile.write(folder / f"{path.stem}.wav", read_audio(path, rate=44100), 44100, subtype="PCM_16")


def _row(tool: Tool, taken: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    mine, ours = taken[tool.name], taken[OURS.name]
    row = {"tool": tool.name, "ms": {kind: _median(mine[kind], 1, 3 if tool is not OURS else 1) for kind in KINDS}}
    if tool is OURS:
        row["later_ms"] = {kind: _median(mine[kind], 2, 3) for kind in KINDS}
    else:
        row["ratio"] = {
            kind: statistics.median(a / b for (n, a), (_, b) in zip(mine[kind], ours[kind], strict=True) if n == 1) for kind in KINDS
        }
    return row | {"distance": None if tool in (OURS, FLOOR) else _distance(tool, folder), "in_part": tool.in_part, "seconds": mine}


def _median(taken: Sequence[Sequence[float]], first: int, last: int) -> float:
    """Milliseconds, of these passes."""
    return statistics.median(seconds for number, seconds in taken if first <= number <= last) * 1000


def _distance(tool: Tool, folder: Path) -> dict[str, float]:
    """Mean absolute difference to ours on one file of each kind: pictures in 255ths, sound in decibels."""
    found = {"pictures": 0.0, "sound": 0.0}
    for kind in KINDS:
        with np.load(_answer(folder, OURS.name, kind)) as ours, np.load(_answer(folder, tool.name, kind)) as theirs:
            for what in found:
                found[what] += float(np.abs(ours[what] - theirs[what]).mean()) / len(KINDS)
    return {"pictures": found["pictures"] * STD, "sound": found["sound"]}


def _headlines(rows: Mapping[str, dict[str, Any]]) -> list[str]:
    ours = rows[OURS.name]
    others = [row for row in rows.values() if row is not ours and row["tool"] not in (FLOOR.name, SPARED.name)]
    return [_headline(kind, ours, others, rows[FLOOR.name]) for kind in KINDS]


def _headline(kind: str, ours: Mapping[str, Any], others: Sequence[Mapping[str, Any]], floor: Mapping[str, Any]) -> str:
    fastest = min((row for row in others if kind not in row["in_part"]), key=lambda row: row["ms"][kind])
    beside = [f"{row['tool']} {times(row['ratio'][kind])}, but for a part of each file" for row in others if kind in row["in_part"]]
    beside += [f"the bare decoder {times(floor['ratio'][kind])}"]
    return (
        f".{kind}: the fastest other, {fastest['tool']}, takes **{times(fastest['ratio'][kind])}** as long as our first pass "
        f"({'; '.join(beside)}); our later passes are **{times(ours['ms'][kind] / ours['later_ms'][kind])}** faster than our first"
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = [
        "",
        *(f".{kind} ÷ ours" for kind in KINDS),
        *(f".{kind}, {text} (ms)" for kind, text in KINDS.items()),
        "pictures",
        "sound (dB)",
    ]
    ours = rows[0]
    later = {kind: ours["later_ms"][kind] / ours["ms"][kind] for kind in KINDS}
    lines = [_line("Crossfade, first pass", dict.fromkeys(KINDS, 1.0), ours["ms"], None)]
    lines += [_line("Crossfade, later passes", later, ours["later_ms"], None)]
    lines += [
        _failed(row, len(columns)) if "failed" in row else _line(row["tool"], row["ratio"], row["ms"], row["distance"]) for row in rows[1:]
    ]
    return markdown(columns, lines)


def _line(name: str, ratio: Mapping[str, float], taken: Mapping[str, float], distance: Mapping[str, float] | None) -> list[str]:
    apart = [digits(value) for value in distance.values()] if distance else ["–", "–"]
    return [name, *(times(ratio[kind]) for kind in KINDS), *(digits(taken[kind]) for kind in KINDS), *apart]


def _failed(row: Mapping[str, Any], columns: int) -> list[str]:
    return [row["tool"], f"failed: {row['failed']}", *[""] * (columns - 2)]
