"""Times of a run and its exports: every row is there, the numbers are of the calls, and PyTorch's threads are as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import QUIET, crossfade

from crossfade import bench, exporting
from crossfade.clip import UserError


@pytest.fixture(scope="module")
def run(bundle: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("timed") / "run"
    shutil.copytree(bundle, folder)
    exporting.export(folder, "onnx", int8=True, max_loss=1.0, screen=QUIET)
    exporting.export(folder, "onnx", fixed=True, screen=QUIET)
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "ROUNDS", {1: 4, bench.MANY: 3})


def test_rows_and_threads(run: Path):
    before = torch.get_num_threads()
    found = bench.bench(run, screen=QUIET)
    assert torch.get_num_threads() == before
    assert [(row.runs, row.threads) for row in found.rows] == [
        (name, threads) for name in ("torch", "model.fixed.onnx", "model.int8.onnx", "model.onnx") for threads in (1, 2)
    ]
    assert {row.parameters for row in found.rows} == {59_427} and len({row.multiply_adds for row in found.rows}) == 1
    sizes = {row.runs: row.bytes for row in found.rows}
    assert sizes["torch"] == (run / "model.safetensors").stat().st_size
    assert sizes["model.int8.onnx"] == (run / "export" / "model.int8.onnx").stat().st_size < sizes["model.onnx"]
    assert all(0 < row.p50 <= row.p95 for row in found.rows)
    assert {row.runs for row in found.rows if row.rate is None} == {"model.fixed.onnx"}


def test_p50_p95_and_clips_a_second_by_hand():
    way = bench.Way("torch", 10, {"parameters": 3, "multiply_adds": 4}, lambda threads: None)  # type: ignore[arg-type]
    row = bench._row(way, 2, [float(number) for number in range(1, 102)], [0.5, 4.0, 0.25])
    assert (row.p50, row.p95, row.rate) == (51.0, 96.0, bench.MANY / 0.5)
    assert bench._shown(row)["p50"] == "51000.00 ms"


def test_a_busy_machine_is_said():
    idle, busy = (bench.Bench([], "a processor, 2 cores", load, 100).sentence() for load in (0.1, 4.0))
    assert "a processor, 2 cores" in idle and "busy" not in idle and "load 4.0" in busy


def test_noise_has_the_usual_sizes_and_the_right_numbers():
    from crossfade.deploy.runner import Shape

    class Takes:
        inputs = {"a": Shape((None, None), "float32", (2, 70)), "a.mask": Shape((None, 70), "bool"), "v": Shape((None, 2, 3), "uint8")}  # noqa: RUF012
        outputs: list[str] = []  # noqa: RUF012

    made = bench._noise(Takes(), 8)  # type: ignore[arg-type]
    assert {name: (array.shape, array.dtype) for name, array in made.items()} == {
        "a": ((8, 70), np.dtype("float32")),
        "a.mask": ((8, 70), np.dtype(bool)),
        "v": ((8, 2, 3), np.dtype("uint8")),
    }


def test_the_command_prints_rows_or_json(run: Path):
    said = crossfade("bench", run, "--json")
    assert said.code == 0 and len(json.loads(said.out)["rows"]) == 8
    with pytest.raises(UserError, match="its run"):
        bench.bench(run / "export" / "model.onnx", screen=QUIET)
