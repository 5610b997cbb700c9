"""`make bench`: what a clip costs to read the first time and later, against the bare decoder, and what starting costs."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av

from crossfade.clip import Clip
from crossfade.data.demo import write_demo
from crossfade.data.intake import Reader
from crossfade.data.ravdess import ravdess
from crossfade.data.streams import frames, log_mel
from crossfade.store import Store

REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare(path: Path) -> None:
    """Every frame of every stream decoded and thrown away: the floor under any first pass."""
    with av.open(str(path)) as container:
        for packet in container.demux():
            packet.decode()


def intake(clips: list[Clip], folder: Path) -> None:
    streams = {"audio": log_mel(seconds=1.2), "video": frames(count=8, size=112)}
    floor, first, later = [], [], []
    for repeat in range(REPEATS):
        reader = Reader(streams, Store(folder / f"store-{repeat}"))

        def read(reader: Reader = reader) -> None:
            for clip in clips:
                for name, stream in streams.items():
                    stream.finish(reader.read(clip, name))

        floor.append(seconds(lambda: [bare(path) for clip in clips for path in clip.media.values()]))
        first.append(seconds(read))
        later.append(seconds(read))
    floor, first, later = (statistics.median(times) / len(clips) * 1000 for times in (floor, first, later))
    print(f"intake, {len(clips)} clips of sound and picture to (log-mel, 8 frames): medians of {REPEATS}")
    print(f"  first pass / bare decoder  {first / floor:6.2f}x   ({first:.2f} against {floor:.2f} ms a clip)")
    print(f"  first pass / later passes  {first / later:6.1f}x   ({first:.2f} against {later:.2f} ms a clip)")


def start_up() -> None:
    def run(*words: str) -> float:
        return statistics.median(seconds(lambda: subprocess.run([sys.executable, *words], capture_output=True)) for _ in range(REPEATS))

    verb, python, torch = run("-m", "crossfade", "--help"), run("-c", "pass"), run("-c", "import torch")
    print(f"start-up: medians of {REPEATS}")
    print(f"  crossfade --help / import torch  {verb / torch:5.2f}x   ({verb:.2f} against {torch:.2f} s; Python alone {python:.2f} s)")


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, PyAV {av.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        write_demo(Path(folder) / "clips", actors=6, repetitions=1)
        intake(ravdess(root=Path(folder) / "clips").clips, Path(folder))
    start_up()


if __name__ == "__main__":
    main()
