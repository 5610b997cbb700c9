"""A film: colours and sides as they were given, the sound from second 0 on and exactly as long as asked for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_face_footage import late
from test_media import grey, number, tone

from crossfade.data.face.footage import Footage
from crossfade.data.media import read_audio
from crossfade.face.film import SoundTrack, filming


@pytest.fixture
def sound(tmp_path) -> SoundTrack:
    """0.2 s: five pictures."""
    soundfile.write(tmp_path / "a.wav", tone(16000, 0.2), 16000)
    return SoundTrack(tmp_path / "a.wav", Fraction(1, 5))


def test_odd_sides_get_one_row_or_column_more(tmp_path, sound):
    with filming(tmp_path / "a.mp4", size=(143, 191), sound=sound, about={}) as film:
        for _ in range(5):
            film.show(grey(9, 191, 143))
    found = list(Footage(tmp_path / "a.mp4").frames())
    assert len(found) == 5 and found[0].shape == (144, 192, 3)
    assert [number(picture) for picture in found] == [9] * 5


def test_colours_come_out_as_they_went_in(tmp_path, sound):
    colours = np.zeros((64, 96, 3), np.uint8)
    for index, colour in enumerate([(200, 30, 40), (30, 180, 60), (40, 60, 210)]):
        colours[:, 32 * index : 32 * index + 32] = colour
    with filming(tmp_path / "a.mp4", size=(64, 96), sound=sound, about={}) as film:
        for _ in range(5):
            film.show(colours)
    found = next(Footage(tmp_path / "a.mp4").frames())
    for index in range(3):
        inside = slice(32 * index + 6, 32 * index + 26)
        assert np.abs(found[8:-8, inside].astype(int) - colours[8:-8, inside]).mean() < 4


@pytest.mark.parametrize("seconds", [Fraction(1, 2), Fraction(2), Fraction(3)])
def test_a_sound_is_cut_or_filled(tmp_path, seconds):
    soundfile.write(tmp_path / "a.wav", tone(8000, 2.0, 2), 8000)
    track = SoundTrack(tmp_path / "a.wav", seconds)
    assert (track.layout, track.rate, len(track)) == ("stereo", 48000, 2)
    frames = [*track.until(Fraction(1, 4)), *track.until(Fraction(1, 4)), *track.until(None)]
    assert sum(frame.samples for frame in frames) == seconds * 48000
    assert [frame.pts for frame in frames] == np.cumsum([0, *(frame.samples for frame in frames[:-1])]).tolist()
    found = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    assert not found[:, 97000:].any()
    expected = tone(48000, 0.5, 2).T
    assert np.abs(found[:, 1000:23000] - expected[:, 1000:23000]).max() < 0.01


def test_sound_that_begins_late_begins_late_in_the_film(tmp_path):
    """The click is 1 s after second 0 of the file, wherever its tracks begin."""
    track = SoundTrack(late(tmp_path / "a.mkv", 0.0, 0.32), Fraction(2))
    with filming(tmp_path / "a.mp4", size=(48, 64), sound=track, about={}) as film:
        for _ in range(50):
            film.show(grey(1))
    assert abs(read_audio(tmp_path / "a.mp4", rate=16000).argmax() - 16000) <= 16


def test_nothing_is_left_where_it_fails(tmp_path: Path, sound):
    with pytest.raises(KeyboardInterrupt), filming(tmp_path / "films" / "a.mp4", size=(48, 64), sound=sound, about={}) as film:
        film.show(grey(1))
        raise KeyboardInterrupt
    assert list((tmp_path / "films").iterdir()) == []
