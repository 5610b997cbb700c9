"""What every table shares: the machine, the versions, Markdown, and a process beside this one that is timed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("CROSSFADE_DATA", ROOT.parent / "shared" / "data"))
THREADS = int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1)))  # of everybody
SPAWNED = "BENCHMARK_SPAWNED"  # seconds since 1970 at which a timed process was asked for


class Failed(Exception):
    """A timed process that gave no result; the last line it said."""


def machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    found = Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(*packages: str, python: Path | None = None) -> dict[str, str]:
    """Package -> its version here, or in the environment of another Python."""
    if python is None:
        return {name: _version(name) for name in packages}
    code = "import json, sys; from importlib.metadata import version; print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    return json.loads(subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=True).stdout)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def command() -> str:
    """What was typed."""
    return " ".join(["python -m benchmarks", *sys.argv[1:]])


def progress(text: str) -> None:
    """For whoever waits; the table alone goes to standard output."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def timed(python: Path | str, module: str, *words: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a module of ours under this Python; the JSON of its last line, with `process`, its seconds from asking to end. Raises Failed."""
    fixed = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    fixed |= {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", SPAWNED: repr(time.time()), **(environment or {})}
    started = time.perf_counter()
    done = subprocess.run([str(python), "-m", module, *words], capture_output=True, text=True, cwd=ROOT, env=os.environ | fixed)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise Failed(_last(done.stderr) or f"exit code {done.returncode}")
    return json.loads(_last(done.stdout)) | {"process": seconds}


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """A table whose first columns are text and whose others are numbers."""
    lines = [columns, ["---" if place < texts else "---:" for place in range(len(columns))], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def heading(title: str, about: Mapping[str, Any], found: Mapping[str, str]) -> str:
    """The title, the command, the machine and the versions, above a table."""
    place = "{processor}, {cores} cores, {threads} threads, {memory_gb} GB, {system}, Python {python}".format(**about)
    return f"## {title}\n\n`{command()}`\n\n{place}; {', '.join(f'{name} {number}' for name, number in found.items())}\n"


def times(ratio: float) -> str:
    """A ratio to three digits: 0.970×, 12.3×, 1,234×."""
    return f"{digits(ratio)}×"


def digits(value: float) -> str:
    """Three of them, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
