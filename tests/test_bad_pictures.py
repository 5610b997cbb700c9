"""A folder with every kind of bad picture: named, skipped or used with a remark, and the rest trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import QUIET, crossfade

import crossfade as package

GOOD = 20  # pictures of each class


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root, values = tmp_path / "pictures", np.random.default_rng(0)
    for kind, level in (("light", 200), ("深色", 50)):
        (root / kind).mkdir(parents=True)
        for number in range(GOOD):
            Image.fromarray(values.integers(level - 40, level + 40, (20, 24, 3), dtype=np.uint8)).save(root / kind / f"{number:02}.png")
    light = root / "light"
    (light / "text.png").write_text("this is no picture")
    whole = (light / "00.png").read_bytes()
    (light / "corrupt.png").write_bytes(whole[: len(whole) // 2])
    (light / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(light / "dot.png")
    Image.new("CMYK", (24, 20), (0, 0, 0, 60)).save(light / "print.jpg")
    frames = [Image.new("RGB", (24, 20), (200 - 60 * number,) * 3) for number in range(3)]
    frames[0].save(light / "moves.gif", save_all=True, append_images=frames[1:])
    return root


def test_they_are_named_and_the_rest_is_trained_on(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path / "store"))
    shrunk = ["phases.train.epochs=2", "model.encoders.image.width=4", "data.batch=8", "data.workers=0", "data.bad_fraction=0.2"]
    recipe = package.load("digits-best", [*shrunk, "data.split.ratios=[0.6, 0.2, 0.2]"], corpus=folder)
    metrics = package.train(recipe, tmp_path / "run", screen=QUIET)
    notes = json.loads((tmp_path / "run" / "notes.json").read_text())
    skipped = {Path(path).name: reason for path, reason in notes["skipped"]}
    assert set(skipped) == {"text.png", "corrupt.png", "empty.jpg", "dot.png"}
    assert "not an image" in skipped["text.png"] and "truncated" in skipped["corrupt.png"] and "1 × 1" in skipped["dot.png"]
    partly = {Path(path).name: reason for path, reason in notes["partly"]}
    assert set(partly) == {"print.jpg", "moves.gif"} and "CMYK" in partly["print.jpg"] and "first" in partly["moves.gif"]
    assert all(name in (tmp_path / "run" / "report.html").read_text("utf-8") for name in (*skipped, *partly))
    used = sum(sum(per.values()) for per in notes["counts"].values())
    assert used >= 2 * GOOD + 2 and metrics["test"]["n_clips"] >= 6


def test_too_many_of_them_stop_it_with_one_line(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path / "store"))
    said = crossfade("train", "digits-best", "--data", folder, "--out", tmp_path / "run", "data.workers=0")
    assert said.code == 2 and "of the files cannot be read" in said.err and "Traceback" not in said.err
    assert not (tmp_path / "run").exists()
