"""`face prepare` on real heads: what a folder holds, what is dropped and refused, other rates of pictures, going on after a stop."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from crossfade import use
from crossfade.clip import UserError
from crossfade.data.face import FEATURES
from crossfade.data.face import prepare as preparing_module
from crossfade.data.face.crop import CROPS, cut
from crossfade.data.face.footage import Footage
from crossfade.data.face.prepare import silent
from crossfade.data.face.prepared import read
from crossfade.data.face.track import Rules
from crossfade.data.face.videos import videos
from crossfade.face.preparing import prepare
from crossfade.screen import Terminal

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
GRID, HEADS, DETECTOR = DATA / "grid" / "s1", DATA / "faces", DATA / "weights" / "yunet" / "yunet_n_dynamic.onnx"
QUIET = Terminal(quiet=True)

needs_heads = pytest.mark.skipif(not (GRID.is_dir() and DETECTOR.is_file()), reason=f"no talking heads or YuNet in {DATA}")


@pytest.fixture(autouse=True)
def _opencv(request):
    if request.node.get_closest_marker("skipif"):
        pytest.importorskip("cv2", reason="pip install crossfade[faces]")


@pytest.fixture(scope="module")
def head() -> list[np.ndarray]:
    """40 pictures of one sentence, 288 × 360."""
    return list(Footage(GRID / "bbaf4p.mp4").frames(0, 40))


def write(path: Path, pictures: Sequence[np.ndarray], *, times: Sequence[float] | None = None, sound: float | None = 0.1) -> Path:
    """Matroska of JPEG-like quality with stamps in seconds (default 25 a second) and a tone of that loudness; None: no sound."""
    stamps = times or [number / 25 for number in range(len(pictures))]
    with av.open(str(path), "w", format="matroska") as container:
        shown = container.add_stream("mpeg4", rate=25, options={"qscale": "2"})
        shown.height, shown.width, shown.pix_fmt, shown.bit_rate = *pictures[0].shape[:2], "yuv420p", 8_000_000
        shown.codec_context.time_base = Fraction(1, 1000)
        heard = container.add_stream("pcm_s16le", rate=16000, layout="mono") if sound is not None else None
        for picture, stamp in zip(pictures, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = round(stamp * 1000), Fraction(1, 1000)
            container.mux(shown.encode(frame))
        container.mux(shown.encode(None))
        if heard is not None:
            line = sound * np.sin(np.arange(round((stamps[-1] + 0.04) * 16000)) * 0.1) * 32767
            frame = av.AudioFrame.from_ndarray(line.astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux([*heard.encode(frame), *heard.encode(None)])
    return path


def prepared(video: Path, out: Path, **options):
    return prepare(video, out, detector=DETECTOR, **{"size": 96, "screen": QUIET, **options})


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Two sentences, by a CSV with groups."""
    place = tmp_path_factory.mktemp("two")
    lines = ["video,group,letter", *(f"{GRID / name},{group},x" for name, group in (("bbaf4p.mp4", "one"), ("bbal7s.mp4", "two")))]
    (place / "list.csv").write_text("\n".join(lines))
    found = prepared(place / "list.csv", place / "out")
    assert (found.clips, found.frames, found.kept, found.dropped, found.refused) == (2, 150, 150, {}, {})
    assert json.loads(json.dumps(found.to_json()))["contact_sheet"] == str(place / "out" / "contact.jpg")
    return place / "out"


@needs_heads
def test_a_prepared_folder(two):
    found, crop = read(two), CROPS[96]
    assert (found.crop, found.dim, found.features) == (crop, 256, use.check(FEATURES, "logmel256", ""))
    assert [(talk.clip, talk.group, len(talk)) for talk in found.talks] == [("bbaf4p", "one", 75), ("bbal7s", "two", 75)]
    talk, footage = found.talks[0], Footage(GRID / "bbaf4p.mp4")
    assert talk.video == GRID / "bbaf4p.mp4" and talk.kept.all() and talk.kept.dtype == bool
    assert isinstance(talk.faces, np.memmap) and talk.faces.shape == (75, 100, 100, 3) and talk.faces.dtype == np.uint8
    pictures, sound = list(footage.frames()), footage.sound()
    for frame in (0, 37, 74):
        assert np.array_equal(talk.faces[frame], cut(pictures[frame], talk.boxes[frame].tolist(), crop))
    assert talk.rows.shape == (94, 256) and talk.rows.dtype == np.float32
    assert np.array_equal(talk.rows, use.make(FEATURES, found.features)(sound, 75))
    sides = talk.boxes[:, 2] - talk.boxes[:, 0]
    assert 90 < sides.min() <= sides.max() < 130 and np.diff(sides).std() < 0.1
    assert talk.boxes[:, 3] - talk.boxes[:, 1] == pytest.approx(sides, abs=1e-3)
    about = json.loads((two / "prepared.json").read_text())
    assert (about["version"], about["size"], about["fps"], about["dim"]) == (1, 96, 25, 256)
    rows = list(csv.DictReader((two / "clips.csv").open()))
    assert [(row["clip"], row["frames"], row["kept"], row["dropped"]) for row in rows] == [
        ("bbaf4p", "75", "75", ""),
        ("bbal7s", "75", "75", ""),
    ]
    assert (two / "dropped.csv").read_text().splitlines() == ["clip,first,last,why"]
    assert (two / "contact.jpg").read_bytes()[:2] == b"\xff\xd8"


@needs_heads
def test_what_is_there_is_not_done_again_and_other_settings_are_refused(two):
    before = {path: path.stat().st_mtime_ns for path in two.rglob("*.npy")}
    again = prepared(two.parent / "list.csv", two)
    assert again.clips == 2 and {path: path.stat().st_mtime_ns for path in two.rglob("*.npy")} == before
    with pytest.raises(UserError, match=r"out: was prepared with size 96, found 128; give another folder"):
        prepared(two.parent / "list.csv", two, size=128)
    with pytest.raises(UserError, match=r"out: was prepared with settings.min_size 64, found 70"):
        prepared(two.parent / "list.csv", two, rules=Rules(min_size=70))


@needs_heads
def test_after_a_stop_it_goes_on(two, tmp_path, monkeypatch):
    """The second clip's rows are where it is interrupted; nothing half made stays, and the first clip is not made again."""
    made = preparing_module._rows

    def interrupted(features, sound, frames):
        if any((tmp_path / "out" / "clips").glob("bb*/clip.json")):
            raise KeyboardInterrupt
        return made(features, sound, frames)

    monkeypatch.setattr(preparing_module, "THREADS", 1)
    monkeypatch.setattr(preparing_module, "_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared(two.parent / "list.csv", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "clips").iterdir()] == ["bbaf4p"]
    with pytest.raises(UserError, match="its preparation has not ended; the same `crossfade face prepare` again goes on"):
        read(tmp_path / "out")
    (tmp_path / "out" / "clips" / ".bbal7s.killed").mkdir()
    monkeypatch.setattr(preparing_module, "_rows", made)
    first = (tmp_path / "out" / "clips" / "bbaf4p" / "faces.npy").stat().st_mtime_ns
    assert prepared(two.parent / "list.csv", tmp_path / "out").clips == 2
    assert (tmp_path / "out" / "clips" / "bbaf4p" / "faces.npy").stat().st_mtime_ns == first
    assert sorted(path.name for path in (tmp_path / "out" / "clips").iterdir()) == ["bbaf4p", "bbal7s"]
    for whole, stopped in zip(read(two).talks, read(tmp_path / "out").talks, strict=True):
        assert np.array_equal(whole.faces, stopped.faces) and np.array_equal(whole.rows, stopped.rows)


@needs_heads
def test_a_moving_head_at_160(tmp_path, head):
    """A chin near the picture's lower edge is no reason to drop it."""
    if not HEADS.is_dir():
        pytest.skip(f"no {HEADS}")
    shorter = write(tmp_path / "radio.mkv", list(Footage(HEADS / "radio2_8s.mp4").frames(0, 30)))
    found = prepared(shorter, tmp_path / "out", size=160)
    assert (found.clips, found.frames, found.kept) == (1, 30, 30)
    assert read(tmp_path / "out").talks[0].faces.shape == (30, 168, 168, 3)


@needs_heads
def test_two_faces_that_do_not_touch(tmp_path, head):
    """The larger one is followed; the other is mentioned."""
    small = [picture[::2, ::2] for picture in head[:24]]
    both = [
        np.concatenate([picture, np.pad(half, ((72, 72), (0, 0), (0, 0)))], axis=1) for picture, half in zip(head[:24], small, strict=True)
    ]
    found = prepared(write(tmp_path / "two.mkv", both), tmp_path / "out")
    assert found.kept == 24 and found.notes["two"] == ["2 faces in 24 of 24 pictures; followed the largest"]
    boxes = read(tmp_path / "out").talks[0].boxes
    assert boxes[:, 2].max() < 360
    with pytest.raises(UserError, match=r"only 0 of 24 pictures can be used, 20 are needed \(24 too small\)"):
        prepared(tmp_path / "two.mkv", tmp_path / "other", rules=Rules(min_size=150))
    assert not (tmp_path / "other").exists(), "so that other settings may be tried"


@needs_heads
def test_a_face_that_leaves_the_picture(tmp_path, head):
    """The camera turns by 14 pixels a picture from the twentieth on; the box, which began at 125, is 11 pixels outside by the thirtieth."""
    wide = [np.pad(picture, ((0, 0), (0, 280), (0, 0)), mode="edge") for picture in head]
    slid = [picture[:, moved : moved + 360] for picture, moved in zip(wide, [0] * 20 + list(range(0, 280, 14)), strict=True)]
    found = prepared(write(tmp_path / "slides.mkv", slid), tmp_path / "out")
    kept = read(tmp_path / "out").talks[0].kept
    assert kept[:27].all() and not kept[30:].any() and found.kept == kept.sum() and "outside the picture" in found.dropped
    rows = list(csv.DictReader((tmp_path / "out" / "dropped.csv").open()))
    assert rows[-1]["last"] == "39" and sum(int(row["last"]) - int(row["first"]) + 1 for row in rows) == 40 - found.kept


@needs_heads
@pytest.mark.parametrize("kind", ["60 a second", "variable"])
def test_other_rates_are_the_same_pictures(tmp_path, head, kind):
    """What is on screen every 40 ms, whatever the file's own rate."""
    pick = np.random.default_rng(0)
    times = {"60 a second": [k / 60 for k in range(96)], "variable": np.cumsum([0, *pick.uniform(0.012, 0.038, 63)]).tolist()}[kind]
    shown = [head[min(int(stamp * 25 + 1e-3), 39)] for stamp in times]
    prepared(write(tmp_path / "plain.mkv", head), tmp_path / "plain")
    found = prepared(write(tmp_path / "other.mkv", shown, times=times), tmp_path / "other")
    plain, other = read(tmp_path / "plain").talks[0], read(tmp_path / "other").talks[0]
    assert abs(len(other) - times[-1] * 25) <= 1.5 and found.kept == found.frames
    alike = min(len(plain), len(other)) - 2
    assert np.abs(plain.boxes[:alike] - other.boxes[:alike]).max() < 3


@needs_heads
def test_one_video_that_cannot_be_used_is_one_line(tmp_path, head):
    noise = np.random.default_rng(0).integers(0, 256, (30, 96, 128, 3), dtype=np.uint8)
    write(tmp_path / "noise.mkv", list(noise))
    write(tmp_path / "mute.mkv", head[:24], sound=None)
    write(tmp_path / "short.mkv", head[:12])
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    said = {
        "noise.mkv": "no face in any of 30 pictures",
        "mute.mkv": "no sound in this file",
        "short.mkv": "only 12 pictures at 25 a second, 20 are needed",
        "text.mp4": "is not a sound or video file, or is damaged beyond reading",
        "empty.mp4": r"is empty \(0 bytes\)",
    }
    for name, why in said.items():
        with pytest.raises(UserError, match=rf"^{tmp_path / name}: {why}$"):
            prepared(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"none of its 5 videos can be used; the first, .*empty.mp4: is empty"):
        prepared(tmp_path, tmp_path / "out")


@needs_heads
def test_among_many_the_rest_is_done(tmp_path, head, capsys):
    write(tmp_path / "好 talk.mkv", head[:24], sound=0.0)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.csv").write_text("video\n好 talk.mkv\ntext.mp4\ngone.mp4\n", encoding="utf-8")
    found = prepared(tmp_path / "list.csv", tmp_path / "out")
    assert (found.clips, found.kept) == (1, 24) and found.notes == {"好 talk": ["no sound in 100% of it"]}
    assert found.refused == {
        str(tmp_path / "text.mp4"): "is not a sound or video file, or is damaged beyond reading",
        str(tmp_path / "gone.mp4"): "no such file or directory",
    }
    assert "left out" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "out" / "clips.csv").open(encoding="utf-8")))
    assert [(row["clip"], row["kept"], row["silent"], row["dropped"][:8]) for row in rows] == [
        ("好 talk", "24", "1.000", ""),
        ("text", "0", "0.000", "is not a"),
        ("gone", "0", "0.000", "no such "),
    ]
    assert [talk.clip for talk in read(tmp_path / "out").talks] == ["好 talk"]
    assert any(line.startswith("1 clip, 24 of 24 pictures") for line in found.lines())


def test_what_the_command_refuses(tmp_path):
    with pytest.raises(UserError, match=r"^--size: found 100; a face is 96, 128, 160, 192 pixels"):
        prepare(tmp_path, tmp_path / "out", size=100)
    with pytest.raises(UserError, match=r"^--detector: missing; give a YuNet face detector"):
        prepare(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"holds no prepared\.json"):
        read(tmp_path)


def test_names_of_clips(tmp_path):
    for name in ("a/x.mp4", "a-x.mp4", "b/x.mp4", "b/x.mov", ".hidden/y.mp4", "Ünï/1:2.mkv", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {str(video.path.relative_to(tmp_path)): video.clip for video in videos(tmp_path)}
    assert found == {"a/x.mp4": "a-x", "a-x.mp4": "a-x.mp4", "b/x.mov": "b-x", "b/x.mp4": "b-x.mp4", "Ünï/1:2.mkv": "Ünï-1-2"}
    assert [tuple(video) for video in videos(tmp_path / "a-x.mp4")] == [("a-x", "a-x", tmp_path / "a-x.mp4")]
    (tmp_path / "list.csv").write_text("Video;GROUP\nb/x.mp4;one\na/x.mp4;\nb/x.mp4;two\n")
    assert [(video.clip, video.group) for video in videos(tmp_path / "list.csv")] == [("b-x", "one"), ("a-x", "a-x")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file\na.mp4\n", "no column video among file"),
        ("video,start\na.mp4,1.5\n", "row 2: has a start or end, but whole videos are prepared"),
        ("video,group\n,a\n", "row 2: names no video"),
    ],
)
def test_tables_that_will_not_do(tmp_path, text, said):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        videos(tmp_path / "list.csv")


def test_no_video(tmp_path):
    with pytest.raises(UserError, match="no video in this folder"):
        videos(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        videos(tmp_path / "gone")


def test_silence_is_counted_by_the_picture():
    """Blocks of 640: loud, silent, half loud (rms 0.1 / √2), beyond the sound."""
    sound = np.concatenate([np.full(640, 0.1), np.full(640, 0.0009), np.full(320, 0.1)]).astype(np.float32)
    assert silent(sound, 4) == 0.5
    assert silent(sound, 1) == 0.0
