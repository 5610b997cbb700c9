"""Footage: what is on screen every 40 ms whatever the rate, the same backwards and from anywhere, and its sound from picture 0 on."""

from __future__ import annotations

import os
import struct
import tracemalloc
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from test_media import grey, number, tone, truncate, write_video
from test_pictures import CODINGS

from crossfade.clip import Unreadable, UserError
from crossfade.data.face import footage as footage_module
from crossfade.data.face.footage import Footage, natural, there_and_back

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))


def numbers(footage: Footage, *given, **options) -> list[int]:
    return [number(picture) for picture in footage.frames(*given, **options)]


def write_at(path: Path, rate: Fraction, frames: int) -> Path:
    """Pictures at a constant rate that need not be 25."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 2_000_000
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(index), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("extension", "codec", "options"), [*CODINGS, ("avi", "mpeg4", {"g": "9"})])
def test_backwards_and_from_anywhere_whatever_the_coding(tmp_path, extension, codec, options):
    footage = Footage(write_video(tmp_path / f"a.{extension}", 70, codec=codec, options=options))
    assert (footage.count, footage.size) == (70, (48, 64))
    whole = list(footage.frames())
    assert [number(picture) for picture in whole] == list(range(70))
    np.testing.assert_array_equal(list(footage.frames(backwards=True)), whole[::-1])
    np.testing.assert_array_equal(list(footage.frames(33, 41)), whole[33:41])
    np.testing.assert_array_equal(list(footage.frames(1, 69, backwards=True)), whole[68:0:-1])
    assert list(footage.frames(69, 5)) == []


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
@pytest.mark.parametrize(("rate", "frames"), [(Fraction(60), 78), (Fraction(30000, 1001), 75), (Fraction(10), 20), (Fraction(24), 48)])
def test_other_rates_by_time_stamps(tmp_path, extension, rate, frames):
    footage = Footage(write_at(tmp_path / f"a.{extension}", rate, frames))
    assert abs(footage.count - frames / rate * 25) <= 1
    ticks = 1000 if extension == "mkv" else 1_000_000  # Matroska counts milliseconds
    stamps = [round(index / rate * ticks) / ticks for index in range(frames)]
    expected = [max(index for index, stamp in enumerate(stamps) if stamp <= k / 25 + 1e-5) for k in range(footage.count)]
    assert numbers(footage) == expected
    assert numbers(footage, backwards=True) == expected[::-1]


def test_variable_rate(tmp_path):
    times = [0, 10, 35, 120, 121, 500, *range(600, 1600, 17)]
    footage = Footage(write_video(tmp_path / "a.mkv", len(times), times=times))
    expected = [max(i for i, t in enumerate(times) if t <= 40 * k + 0.5) for k in range(footage.count)]
    assert abs(footage.count - times[-1] / 40) <= 1.5
    assert numbers(footage) == expected


def test_a_video_that_does_not_begin_at_zero(tmp_path):
    times = list(range(500, 1500, 40))
    footage = Footage(write_video(tmp_path / "a.mkv", 25, times=times, sound=("pcm_s16le", 16000, tone(16000, 1.5))))
    assert numbers(footage) == list(range(25))


def late(path: Path, pictures: float, sound: float) -> Path:
    """Pictures that begin at one second, and sound at another, which clicks 1 s after second 0 of the file."""
    wave = np.zeros((1, 32000 - round(sound * 16000)), np.float32)
    wave[0, round((1 - sound) * 16000)] = 0.9
    with av.open(str(path), "w") as container:
        stream, track = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=16000, layout="mono")
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 2_000_000
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(grey(index), format="rgb24")
            frame.pts, frame.time_base = round(pictures * 25) + index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for begin in range(0, wave.shape[1], 1600):
            piece = av.AudioFrame.from_ndarray((wave[:, begin : begin + 1600] * 32767).astype(np.int16), format="s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = 16000, round(sound * 16000) + begin, Fraction(1, 16000)
            container.mux(track.encode(piece))
        container.mux(track.encode(None))
    return path


@pytest.mark.parametrize(("pictures", "sound"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.32)])
def test_sound_counts_from_picture_0(tmp_path, pictures, sound):
    heard = Footage(late(tmp_path / "a.mkv", pictures, sound)).sound()
    assert heard is not None
    assert abs(heard.argmax() - round((1 - pictures) * 16000)) <= 16
    assert len(heard) == 32000 - round(pictures * 16000)
    assert not heard[: round(sound * 16000) - 100].any() or not sound


def test_no_sound_is_none(tmp_path):
    assert Footage(write_video(tmp_path / "a.mp4", 5)).sound() is None


def test_turned_as_a_phone_says(tmp_path):
    path = write_video(tmp_path / "a.mp4", 3)
    plain = next(Footage(path).frames())
    content = bytearray(path.read_bytes())
    struct.pack_into(">9i", content, content.find(b"tkhd") + 44, *(value << 16 for value in (0, 1, 0, -1, 0, 0, 0, 0, 1 << 14)))
    path.write_bytes(content)
    footage = Footage(path)
    assert footage.size == (64, 48)
    np.testing.assert_array_equal(next(footage.frames()), np.rot90(plain, 3))


def test_pictures_in_a_folder_in_the_order_of_their_numbers(tmp_path):
    for index in (0, 1, 2, 10, 11):
        Image.fromarray(grey(index)).save(tmp_path / f"shot {index}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    footage = Footage(tmp_path)
    assert (footage.count, footage.size, footage.sound()) == (5, (48, 64), None)
    assert numbers(footage) == [0, 1, 2, 10, 11]
    assert numbers(footage, 1, 4, backwards=True) == [10, 2, 1]
    Image.fromarray(grey(3, width=32)).save(tmp_path / "shot 12.png")
    with pytest.raises(Unreadable, match="change size from 64 × 48 to 32 × 48"):
        numbers(Footage(tmp_path))
    assert sorted(["b2", "a10", "A9", "10", "9"], key=natural) == ["9", "10", "A9", "a10", "b2"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "anything"])
def test_one_picture_by_content(tmp_path, suffix):
    path = tmp_path / f"face.{suffix}"
    Image.fromarray(grey(7)[..., 0]).save(path, format="PNG" if suffix == "anything" else None)
    footage = Footage(path)
    assert (footage.count, footage.size, footage.sound()) == (1, (48, 64), None)
    first, again = next(footage.frames()), next(footage.frames(backwards=True))
    assert number(first) == 7
    first[:] = 0
    assert number(again) == 7


def test_what_is_no_footage(tmp_path):
    (tmp_path / "text.mp4").write_text("hello" * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    wave = tmp_path / "a.wav"
    __import__("soundfile").write(wave, tone(8000), 8000)
    said = {
        tmp_path / "text.mp4": "is not a sound or video file",
        tmp_path / "empty.mp4": "is empty",
        tmp_path / "gone.mp4": "no such file",
        tmp_path / "folder": "a folder without pictures",
        wave: "no pictures in this file",
        truncate(write_video(tmp_path / "a.mp4", 70), 0.5): "is not a sound or video file",
        truncate(write_video(tmp_path / "a.mkv", 70, options={"g": "5"}), 0.3): "truncated or damaged",
    }
    for path, words in said.items():
        with pytest.raises(UserError, match=words) as error:
            numbers(Footage(path))
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_video_that_breaks_off_after_most_of_it_is_used(tmp_path):
    footage = Footage(truncate(write_video(tmp_path / "a.avi", 70, options={"g": "5"}), 0.8))
    assert 40 < footage.count < 70
    assert numbers(footage) == list(range(footage.count))


def test_there_and_back():
    assert list(islice(there_and_back(4), 10)) == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert list(islice(there_and_back(2), 5)) == [0, 1, 0, 1, 0]
    assert list(islice(there_and_back(1), 3)) == [0, 0, 0]


def test_memory_of_the_way_back_is_a_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(footage_module, "PIECE", 8)
    footage = Footage(write_video(tmp_path / "a.mp4", 78, size=(320, 240), options={"g": "250"}))
    tracemalloc.start()
    assert sum(1 for _ in footage.frames(backwards=True)) == 78
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 14 * 320 * 240 * 3


def test_a_real_talking_head():
    path = DATA / "grid" / "s1" / "bbal8p.mpg"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    footage = Footage(path)
    heard = footage.sound()
    assert heard is not None
    assert (footage.count, footage.size) == (75, (288, 360))
    assert abs(len(heard) - 75 * 640) < 2 * 640
    np.testing.assert_array_equal(list(footage.frames(70, 75, backwards=True)), list(footage.frames())[:69:-1])
