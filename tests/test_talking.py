"""From a real video to a film, by the commands of the README: prepared, trained, driven on PyTorch and on ncnn, compared."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import av
import pytest
from tiny import Said
from tiny import crossfade as said_by

SHARED = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared/data"))
GRID, DETECTOR = SHARED / "grid/s1", SHARED / "weights/yunet/yunet_n_dynamic.onnx"
pytestmark = pytest.mark.skipif(not (GRID.is_dir() and DETECTOR.is_file()), reason="needs ../shared/data/grid and weights/yunet")
TINY = [
    "phases.learn.epochs=1",
    "phases.learn.steps=2",
    "data.batch=4",
    "data.val_clips=1",
    "data.split={val: 0.3, test: 0.3}",
    "device=cpu",
]


@pytest.fixture(scope="module")
def videos() -> list[Path]:
    return sorted(GRID.glob("*.mp4"))[:2]


@pytest.fixture(scope="module")
def faces(videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talking")
    listed = folder / "视频.csv"
    with listed.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["video", "group"], *([str(video), f"句子 {number}"] for number, video in enumerate(videos))])
    done = crossfade("face", "prepare", listed, folder / "faces", "--detector", DETECTOR, "--size", "96", "--json")
    found = json.loads(done.out)
    assert (found["clips"], found["frames"]) == (2, 150) and found["kept"] > 140 and Path(found["contact_sheet"]).is_file()
    return folder / "faces"


@pytest.fixture(scope="module")
def run(faces: Path) -> Path:
    out = faces.parent / "run"
    crossfade("train", "face", *TINY, "--data", faces, "--out", out)
    return out


def crossfade(*words: object, expect: int = 0) -> Said:
    """The command, which has to end like this."""
    done = said_by(*words)
    assert done.code == expect, done.err
    return done


def tracks(film: Path) -> dict[str, float]:
    """Seconds of each track."""
    with av.open(film) as opened:
        return {stream.type: float(stream.duration * stream.time_base) for stream in opened.streams if stream.duration and stream.time_base}


def test_a_run_drives_a_film_that_says_what_it_is(run: Path, faces: Path, videos: list[Path], tmp_path: Path):
    film = tmp_path / "film.mp4"
    done = json.loads(crossfade("drive", run, "--audio", videos[1], "--face", faces, "--out", film, "--json").out)
    assert done["frames"] == 75 and done["fps"] > 0
    found = tracks(film)
    assert found["video"] == pytest.approx(3.0, abs=0.001) and found["audio"] == pytest.approx(3.0, abs=0.041)
    with av.open(film) as opened:
        assert opened.metadata["comment"].startswith("synthetic")
        assert opened.streams.video[0].width == 360


def test_so_does_its_file_of_ncnn(run: Path, faces: Path, videos: list[Path], tmp_path: Path):
    crossfade("export", run, "--to", "ncnn")
    film = tmp_path / "film.mp4"
    crossfade("drive", run / "export/model.param", "--audio", videos[1], "--face", faces, "--out", film, "--threads", "1")
    assert tracks(film)["video"] == pytest.approx(3.0, abs=0.001)


def test_what_cannot_be_driven_is_one_line(run: Path, faces: Path, videos: list[Path], tmp_path: Path):
    film = ("--out", tmp_path / "film.mp4")
    bare = crossfade("drive", run, "--audio", videos[1], "--face", videos[0], *film, expect=2)
    assert "--detector" in bare.err and len(bare.err.splitlines()) == 1
    mute = tmp_path / "mute"
    crossfade("train", "face", *TINY, "data.sound=false", "--data", faces, "--out", mute)
    said = crossfade("drive", mute, "--audio", videos[1], "--face", faces, *film, expect=2)
    assert "was trained with data.sound=false" in said.err
    assert not (tmp_path / "film.mp4").exists()
    compared = json.loads(crossfade("compare", run, mute, "--json").out)
    assert compared["metric"] == "mouth_psnr" and {score["name"] for score in compared["scores"]} == {"run", "mute"}
    wrong = crossfade("compare", run, mute, "--metric", "mouth_pnsr", expect=2)
    assert "nearest is 'mouth_psnr'" in wrong.err
    refused = crossfade("compare", run, mute, "--report", tmp_path / "page.html", expect=2)
    assert "--report: is not for a talking face" in refused.err


def test_training_needs_prepared_faces(tmp_path: Path):
    said = crossfade("train", "face", "--out", tmp_path / "run", expect=2)
    assert "crossfade face prepare" in said.err and not (tmp_path / "run").exists()


def test_the_run_has_a_card_that_asks_for_consent(run: Path):
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "Only with the consent of the person" in card and "7,506,139 parameters" in card
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert f"| test | {found['mouth_psnr']:.4g} (" in card and "| test, a still mouth |" in card


def test_a_film_replaces_nothing_that_was_given(run: Path, faces: Path, videos: list[Path], tmp_path: Path):
    own = tmp_path / "own.mp4"
    own.write_bytes(videos[1].read_bytes())
    said = crossfade("drive", run, "--audio", own, "--face", faces, "--out", own, expect=2)
    assert "would be replaced by the film" in said.err and own.read_bytes() == videos[1].read_bytes()


def test_a_folder_lists_what_was_prepared_in_it_before(videos: list[Path], tmp_path: Path):
    for video in videos:
        crossfade("face", "prepare", video, tmp_path / "faces", "--detector", DETECTOR, "--size", "96")
    with (tmp_path / "faces/clips.csv").open(encoding="utf-8") as file:
        assert [row["clip"] for row in csv.DictReader(file)] == [video.stem for video in videos]
