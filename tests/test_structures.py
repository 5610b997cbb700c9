"""A run, its ncnn twin, and back: compared layer by layer, loaded, imported, tuned and exported again, by the commands a person types."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import crossfade

from crossfade import structures

STEP = ("data.workers=0", "data.batch=8", "phases.train.epochs=1", "phases.train.steps=2", "data.streams.image.size=28")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Sixteen little pictures of each of two classes."""
    root, values = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for kind, level in (("dark", 60), ("light", 180)):
        (root / kind).mkdir()
        for number in range(16):
            Image.fromarray(values.integers(level - 60, level + 60, (40, 40, 3), dtype=np.uint8)).save(root / kind / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("twin") / "run"
    said = crossfade("train", "digits-best", "--data", pictures, "--out", folder, *STEP)
    assert said.code == 0, said.err
    said = crossfade("export", folder, "--to", "ncnn")
    assert said.code == 0, said.err
    return folder


def test_a_run_and_its_own_export_have_one_structure(run: Path, tmp_path: Path):
    said = crossfade("compare", run, run / "export" / "model.param", "--structure", "--report", tmp_path / "page.html")
    assert said.code == 0, said.err
    assert "same structure" in said.out and "BatchNorm folded" in said.out
    assert "same structure" in (tmp_path / "page.html").read_text()
    said = crossfade("compare", run, "--structure")
    assert said.code == 2 and "found 1 networks" in said.err


def test_weights_go_into_a_run_and_answer_alike(run: Path, pictures: Path, tmp_path: Path):
    said = crossfade("ncnn", "load", run / "export" / "model.param", run, "--out", tmp_path / "loaded", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["equal"] and len(found["layers"]) > 4 and max(layer["difference"] for layer in found["layers"]) < structures.TOLERANCE
    mine, theirs = (
        json.loads(crossfade("predict", each, pictures / "dark" / "0.png", "--json").out) for each in (run, tmp_path / "loaded")
    )
    assert mine["p_dark"] == pytest.approx(theirs["p_dark"], abs=1e-4)
    assert not (tmp_path / "loaded" / "exports.json").exists(), "nothing that was measured of the other weights"
    assert "were not judged" in json.loads((tmp_path / "loaded" / "notes.json").read_text())["warnings"][0]
    said = crossfade("ncnn", "load", run / "export" / "model.param", run, "--out", tmp_path / "loaded")
    assert said.code == 2 and "exists already" in said.err


def test_other_weights_are_told_layer_by_layer(run: Path, pictures: Path, tmp_path: Path, monkeypatch):
    """Where what is moved is not what the model holds, the first layer after it is named, with exit code 1."""
    moving = structures.transfer

    def spoiled(alignment, weights, module):
        found = moving(alignment, weights, module)
        next(module.parameters()).data.mul_(1.5)
        return found

    monkeypatch.setattr(structures, "transfer", spoiled)
    said = crossfade("ncnn", "load", run / "export" / "model.param", run, "--out", tmp_path / "loaded")
    assert said.code == 1 and "differs first at" in said.out


def test_an_export_comes_back_is_tuned_and_goes_out_again(run: Path, pictures: Path, tmp_path: Path):
    labels = tmp_path / "labels.txt"
    labels.write_text("dark\nlight\n")
    said = crossfade("ncnn", "import", run / "export" / "model.param", "--out", tmp_path / "back", "--labels", labels)
    assert said.code == 0, said.err
    short = [f"phases.{name}.{key}" for name in ("head", "unfreeze") for key in ("epochs=1", "steps=2")]
    said = crossfade(
        "train", tmp_path / "back" / "fine-tuning.yaml", "--data", pictures, "--out", tmp_path / "tuned", "data.workers=0", *short
    )
    assert said.code == 0, said.err
    said = crossfade("export", tmp_path / "tuned", "--to", "ncnn", "--json")
    assert said.code == 0, said.err
    said = crossfade("ncnn", "show", tmp_path / "tuned" / "export" / "model.param", "--json")
    assert said.code == 0 and json.loads(said.out)
