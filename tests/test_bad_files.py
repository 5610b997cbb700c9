"""Ten kinds of bad file in one corpus: the run ends, exactly the unusable ones are listed, and too many refuse to start."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from shutil import copytree

import av
import numpy as np
import pytest
import soundfile
from tiny import Said, bound_by_modes, crossfade, write_recipe

RATE = 16_000


def tone(channels: int = 1, seconds: float = 0.6) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return (0.1 * rng.standard_normal((round(seconds * RATE), channels))).astype(np.float32)


def write_video(path: Path, *, frames: int = 8, sound: bool = False, kind: str = "mp4") -> None:
    with av.open(str(path), "w", format=kind) as container:
        pictures = container.add_stream("mpeg4", rate=12)
        pictures.width = pictures.height = 32
        track = container.add_stream("aac", rate=RATE, layout="mono") if sound else None
        for number in range(frames):
            picture = np.full((32, 32, 3), 20 * number % 256, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(pictures.encode())
        if track is not None:
            wave = av.AudioFrame.from_ndarray(tone().T.copy(), "fltp", "mono")
            wave.sample_rate = RATE
            container.mux(track.encode(wave))
            container.mux(track.encode())


def write_odd_files(folder: Path) -> None:
    folder.mkdir()
    soundfile.write(folder / "good.wav", tone(), RATE)
    whole = (folder / "good.wav").read_bytes()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is no sound at all, it is a note somebody saved under the wrong name\n" * 20)
    soundfile.write(folder / "nan.wav", np.where(np.arange(RATE) == 99, np.nan, tone(seconds=1)[:, 0]), RATE, "FLOAT")
    soundfile.write(folder / "zero.wav", np.zeros((0, 1), np.float32), RATE)
    (folder / "locked.wav").write_bytes(whole)
    (folder / "locked.wav").chmod(0)
    soundfile.write(folder / "six.wav", tone(6), RATE)
    (folder / "sound.mp4").write_bytes(whole)  # a real wav called .mp4
    write_video(folder / "video.mp4", sound=True)
    (folder / "video.wav").write_bytes((folder / "video.mp4").read_bytes())  # a real mp4 called .wav
    (folder / "truncated.mp4").write_bytes((folder / "video.mp4").read_bytes()[:700])
    write_video(folder / "silent.mp4")
    write_video(folder / "frame.mp4", frames=1)


ODD = [  # (audio, video) of a clip
    ("empty.wav", ""),
    ("", "truncated.mp4"),
    ("", "sound.mp4"),
    ("video.wav", ""),
    ("text.wav", "video.mp4"),
    ("nan.wav", "video.mp4"),
    ("", "silent.mp4"),
    ("good.wav", "frame.mp4"),
    ("zero.wav", ""),
    ("locked.wav", ""),
    ("six.wav", ""),
]
UNUSABLE = {
    "empty.wav": "empty",
    "truncated.mp4": "damaged beyond reading",
    "text.wav": "not a sound or video file",
    "nan.wav": "NaN",
    "zero.wav": "no sound",
    "locked.wav": "permission denied",
}
USED = {"sound.mp4": "audio", "video.wav": "audio", "silent.mp4": "video", "six.wav": "audio", "good.wav": "audio+video"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, demo_clips: Path) -> Path:
    """A CSV of the demo's clips and of one clip for each odd file, all in the test split so that each answer can be looked up."""
    folder = tmp_path_factory.mktemp("corpus")
    write_odd_files(folder / "odd")
    rows = [("audio", "video", "emotion", "group", "split")]
    for sound in sorted(demo_clips.rglob("03-*.wav")):
        actor = sound.stem[-2:]
        video = sound.with_name(f"02-{sound.stem[3:]}.mp4")
        rows.append((str(sound), str(video), f"emotion {sound.stem[6:8]}", actor, "val" if actor == "04" else "train"))
    rows += [(*(f"odd/{name}" if name else "" for name in odd), "emotion 01", f"odd {place}", "test") for place, odd in enumerate(ODD)]
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "clips.csv"


def train(corpus: Path, folder: Path, *words: str) -> Said:
    recipe = write_recipe(folder)
    with bound_by_modes():
        return crossfade("train", recipe, "--data", corpus, "--out", folder / "run", "data.split.by=column", *words)


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory) -> tuple[Path, Said]:
    folder = tmp_path_factory.mktemp("bad")
    return folder / "run", train(corpus, folder, "data.bad_fraction=0.2")


def test_the_lock_holds(corpus: Path):
    with bound_by_modes(), pytest.raises(PermissionError):
        (corpus.parent / "odd" / "locked.wav").read_bytes()


def test_the_run_ends_and_lists_exactly_the_unusable_files(finished: tuple[Path, Said]):
    run, said = finished
    assert said.code == 0, said.err
    skipped = {Path(path).name: reason for path, reason in json.loads((run / "notes.json").read_text())["skipped"]}
    assert set(skipped) == set(UNUSABLE)
    page = (run / "report.html").read_text()
    listed = page[page.index("could not be used") :].split("</table>")[0]
    for name, reason in UNUSABLE.items():
        assert reason.lower() in skipped[name].lower()
        assert f"odd/{name}" in listed
    assert listed.count("odd/") == len(UNUSABLE)


def clips_in(table: Path) -> list[str]:
    with table.open() as file:
        return [row["clip"] for row in csv.DictReader(file)]


def test_odd_files_that_can_be_used_are(finished: tuple[Path, Said]):
    run, _ = finished
    odd = {name for name in clips_in(run / "predictions.csv") if name.startswith("odd/")}
    assert odd == {f"odd/{name}" for name in (*USED, "text.wav", "nan.wav")}  # the last two by their videos
    for name, streams in USED.items():
        assert f"odd/{name}" in clips_in(run / f"predictions-{streams}.csv")


def test_what_a_used_file_lacks_is_a_warning_and_no_bad_file(finished: tuple[Path, Said]):
    run, said = finished
    warnings = json.loads((run / "notes.json").read_text())["warnings"]
    for name, lacks in {"sound.mp4": "no pictures", "silent.mp4": "no sound"}.items():
        (warning,) = [warning for warning in warnings if name in warning]
        assert lacks in warning
        assert f"warning: {warning}" in said.err


def test_too_many_refuse_to_start_and_leave_nothing_behind(corpus: Path, tmp_path: Path):
    refused = train(corpus, tmp_path)
    assert refused.code == 2
    assert refused.err.strip().count("\n") == 0, refused.err
    assert "data.bad_fraction=0.05" in refused.err and "of the files cannot be read" in refused.err
    assert not (tmp_path / "run").exists()
    again = train(corpus, tmp_path, "data.bad_fraction=0.2", "phases.all.epochs=0")
    assert again.code == 0, again.err


def test_a_refused_start_gives_an_empty_folder_back_empty(corpus: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    assert train(corpus, tmp_path).code == 2
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_with_something_in_it_is_never_touched(corpus: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    for name in ("recipe.yaml", "notes.json", "thesis.tex"):
        (tmp_path / "run" / name).write_text(f"my own {name}")
    refused = train(corpus, tmp_path)
    assert refused.code == 2 and "exists already" in refused.err
    assert {path.name: path.read_text() for path in (tmp_path / "run").iterdir()} == {
        name: f"my own {name}" for name in ("recipe.yaml", "notes.json", "thesis.tex")
    }


def test_files_a_table_names_and_that_are_not_there_count_as_bad(corpus: Path, tmp_path: Path):
    lines = corpus.read_text().splitlines()
    kept = [line for line in lines if "odd/" not in line]
    lost = [f"gone/{number}.wav,,emotion 01,gone,train" for number in range(9)]
    table = corpus.parent / "lost.csv"
    table.write_text("\n".join([*kept, *lost]))
    refused = train(table, tmp_path)
    assert refused.code == 2 and "gone/0.wav" in refused.err and "no such file" in refused.err
    assert not (tmp_path / "run").exists()


def test_remarks_on_a_corpus_are_warnings_and_not_files(demo_clips: Path, tmp_path: Path):
    root = copytree(demo_clips, tmp_path / "clips")
    next(root.rglob("03-*.wav")).unlink()
    recipe = write_recipe(tmp_path)
    said = crossfade("train", recipe, "--data", root, "--out", tmp_path / "run", "phases.all.epochs=0")
    assert said.code == 0, said.err
    notes = json.loads((tmp_path / "run" / "notes.json").read_text())
    assert notes["skipped"] == []
    (warning,) = [warning for warning in notes["warnings"] if "have no audio" in warning]
    assert not warning.startswith("note")
    assert f"warning: {warning}" in said.err
    assert warning in (tmp_path / "run" / "report.html").read_text()
