"""On a visit a file is opened and walked through once, and everything read from it is what it is without one."""

import threading
from contextlib import nullcontext, suppress

import av
import numpy as np
import pytest
import soundfile
from test_media import tone, truncate, write_video

from crossfade.clip import Unreadable
from crossfade.data import container as container_module
from crossfade.data.container import opened, packets
from crossfade.data.media import probe, read_audio, read_frames
from crossfade.data.visit import visiting

CONTAINERS = [
    ("mp4", "mpeg4", "aac", {}),
    ("mp4", "libx264", "aac", {"g": "12", "bf": "3"}),
    ("mkv", "libx264", "libopus", {"bf": "2"}),
    ("mpg", "mpeg2video", "mp2", {"g": "12", "bf": "2"}),
    ("ts", "libx264", "mp2", {"g": "15", "bf": "3"}),
    ("avi", "mpeg4", "libmp3lame", {}),
    ("webm", "libvpx", "libopus", {}),
]
READS = {
    "sound": lambda path: read_audio(path, rate=16000),
    "sound at another rate": lambda path: read_audio(path, rate=22050, end=0.7),
    "pictures": lambda path: read_frames(path, count=5, size=32),
    "other pictures": lambda path: read_frames(path, count=8, size=24, end=1.2),
    "a later span of sound": lambda path: read_audio(path, rate=16000, start=0.8),
    "a later span of pictures": lambda path: read_frames(path, count=3, size=32, start=0.8, end=1.5),
    "probe": probe,
}


def answer(read, path):
    try:
        return read(path)
    except Unreadable as error:
        return error.reason


def same(a, b) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


@pytest.fixture
def openings(monkeypatch) -> list:
    found = []
    monkeypatch.setattr(
        container_module.av, "open", lambda *given, open_file=av.open, **named: found.append(0) or open_file(*given, **named)
    )
    return found


def video(tmp_path, extension, codec, sound, options):
    rate = 48000 if sound == "libopus" else 44100
    return write_video(tmp_path / f"a.{extension}", 50, codec=codec, options=options, sound=(sound, rate, tone(rate, 2.0)))


@pytest.mark.parametrize(("extension", "codec", "sound", "options"), CONTAINERS)
def test_everything_read_on_a_visit_is_what_it_is_without_one(tmp_path, extension, codec, sound, options):
    whole = video(tmp_path, extension, codec, sound, options)
    for path in (whole, truncate(whole, 0.7)):
        expected = {name: answer(read, path) for name, read in READS.items()}
        for names in (list(READS), [*reversed(READS), *READS]):
            with visiting():
                found = {name: answer(READS[name], path) for name in names}
            assert [name for name in READS if not same(found[name], expected[name])] == []


def test_sound_and_pictures_cost_one_opening(tmp_path, openings):
    first, second = (video(tmp_path, extension, "mpeg4", sound, {}) for extension, sound in (("mp4", "aac"), ("mpg", "mp2")))
    for around, count in ((nullcontext, 4), (visiting, 2)):
        openings.clear()
        with around():
            for path in (first, second):
                read_audio(path, rate=16000)
                read_frames(path, count=4, size=32)
        assert len(openings) == count


def test_a_decoder_that_was_used_is_not_used_again(tmp_path, openings):
    path = video(tmp_path, "mp4", "mpeg4", "aac", {})
    openings.clear()
    with visiting():
        first, _, again = read_audio(path, rate=16000), read_frames(path, count=4, size=32), read_audio(path, rate=16000)
    assert len(openings) == 2
    np.testing.assert_array_equal(first, again)


def test_a_file_is_let_go_at_the_end_and_not_kept_where_it_is_large(tmp_path, monkeypatch, openings):
    path = video(tmp_path, "mp4", "mpeg4", "aac", {})
    with visiting(), opened(path, track="sound") as container:
        pass
    with pytest.raises(AssertionError, match="not open"):
        next(container.demux())
    monkeypatch.setattr(container_module, "KEPT", 1000)
    openings.clear()
    with visiting():
        read_audio(path, rate=16000)
        read_frames(path, count=4, size=32)
    assert len(openings) == 2


def test_who_reads_beside_another_opens_the_file_for_themselves(tmp_path):
    path = video(tmp_path, "mp4", "mpeg4", "aac", {})
    with visiting(), opened(path, track="sound") as outer:
        first = next(packets(outer))
        with opened(path, track="pictures") as inner:
            assert inner is not outer and len(list(packets(inner))) > 50
        assert next(packets(outer)).pts == first.pts


def test_bad_files_among_good_ones(tmp_path):
    good, bad = video(tmp_path, "mp4", "mpeg4", "aac", {}), tmp_path / "bad.mp4"
    bad.write_bytes(b"no video\n" * 100)
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    expected = read_frames(good, count=4, size=32)
    with visiting():
        for path in (bad, good, tmp_path / "a.wav", bad, good):
            with suppress(Unreadable):
                read_audio(path, rate=16000)
            if path == good:
                np.testing.assert_array_equal(read_frames(path, count=4, size=32), expected)
            else:
                with pytest.raises(Unreadable):
                    read_frames(path, count=4, size=32)


def test_a_visit_is_one_threads_own(tmp_path, openings):
    path = video(tmp_path, "mp4", "mpeg4", "aac", {})
    openings.clear()
    with visiting():
        read_audio(path, rate=16000)
        other = threading.Thread(target=lambda: read_frames(path, count=4, size=32))
        other.start()
        other.join()
        read_frames(path, count=4, size=32)
    assert len(openings) == 2
