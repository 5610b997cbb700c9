"""Windows over a sound that comes in pieces, and the loudest stretch of it, against the same on the whole array."""

import tracemalloc

import numpy as np
import pytest
import soundfile

from crossfade.clip import Unreadable
from crossfade.data.sliding import slide
from crossfade.data.sound import read_audio, sound_blocks
from crossfade.data.stretch import loudest, read_loudest


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def cut(sound: np.ndarray, *sizes: int) -> list[np.ndarray]:
    """Pieces of these sizes, over and over."""
    places = np.cumsum(np.resize(sizes, len(sound)))
    return np.split(sound, places[places < len(sound)])


@pytest.mark.parametrize("sizes", [(10**6,), (1,), (700, 3), (70_000, 5_000)])
@pytest.mark.parametrize(("length", "hop"), [(64, 32), (100, 33.3), (50, 50)])
def test_windows_lie_on_the_grid_and_the_last_at_the_end(sizes, length, hop):
    sound = noise(1000 if sizes == (1,) else 200_011)
    found = list(slide(cut(sound, *sizes), length, hop))
    grid = [round(number * hop) for number in range(len(sound)) if round(number * hop) + length <= len(sound)]
    last = [] if grid[-1] + length == len(sound) else [len(sound) - length]
    assert [first for first, _ in found] == grid + last
    for first, window in found[:: max(len(found) // 50, 1)] + found[-2:]:
        np.testing.assert_array_equal(window, sound[first : first + length])


def test_a_sound_shorter_than_a_window_is_one():
    ((first, window),) = slide([noise(30), noise(10)], 64, 32)
    assert first == 0 and len(window) == 40
    assert not list(slide([], 64, 32))
    assert [len(window) for _, window in slide([noise(64)], 64, 32)] == [64]


def brute(sound: np.ndarray, length: int, hop: int) -> np.ndarray:
    starts = range(0, max(len(sound) - length, 0) + 1, hop)
    best = max(starts, key=lambda start: float((sound[start : start + length].astype(float) ** 2).sum()))
    return sound[best : best + length]


@pytest.mark.parametrize(("length", "hop"), [(1024, 16), (1000, 16), (300_000, 160), (8_000, 441)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_loudest_stretch_is_that_of_every_stretch_tried(length, hop, seed):
    sound = noise(700_000, seed) * (1 + np.sin(np.arange(700_000) / (3e4 + 1e4 * seed))).astype(np.float32)
    sound = sound[: 40 * length] if length < 2000 else sound
    np.testing.assert_array_equal(loudest(cut(sound, 4096), length, hop), brute(sound, length, hop))
    np.testing.assert_array_equal(loudest([sound], length, hop), brute(sound, length, hop))


def test_of_equals_the_first_and_of_a_short_sound_all():
    click = np.tile(np.concatenate([np.ones(100), np.zeros(900)]).astype(np.float32), 600)  # every stretch of 1000 samples is alike
    click[:3] = 0.5
    np.testing.assert_array_equal(loudest(cut(click, 5000), 1000, 10), click[10:1010])
    assert np.array_equal(loudest([np.zeros(5000, np.float32)], 1000, 10), np.zeros(1000))
    np.testing.assert_array_equal(loudest([noise(90), noise(9)], 100, 10), np.concatenate([noise(90), noise(9)]))


@pytest.mark.parametrize("rate", [8000, 22050, 16000])
@pytest.mark.parametrize("span", [(0.0, None), (0.3, None), (0.5, 1.7), (1.0, 99.0)])
@pytest.mark.parametrize("ending", ["wav", "mp3"])
def test_blocks_are_what_is_read_at_once(tmp_path, rate, span, ending):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.stack([noise(44100 * 3), noise(44100 * 3, 1)], axis=1), 44100)
    blocks = list(sound_blocks(path, rate=rate, start=span[0], end=span[1]))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(path, rate=rate, start=span[0], end=span[1]))


def test_what_cannot_be_read_is_the_same_error(tmp_path):
    whole, short = tmp_path / "whole.wav", tmp_path / "short.wav"
    soundfile.write(whole, noise(64000), 16000, subtype="FLOAT")
    short.write_bytes(whole.read_bytes()[:60_000])
    with pytest.raises(Unreadable, match=r"truncated or damaged: 0.94 s of the 3.99 s"):
        list(sound_blocks(short, rate=16000))
    with pytest.raises(Unreadable, match=r"the file ends at 4.00 s"):
        next(sound_blocks(whole, rate=16000, start=5.0))
    soundfile.write(whole, np.array([0.0, np.nan], np.float32), 16000, subtype="FLOAT")
    with pytest.raises(Unreadable, match="NaN"):
        list(sound_blocks(whole, rate=16000))


@pytest.mark.parametrize("ending", ["wav", "mp3"])
def test_an_hour_takes_no_more_memory_than_minutes(tmp_path, ending):
    def peak(minutes: float) -> int:
        path = tmp_path / f"{minutes}.{ending}"
        soundfile.write(path, np.tile(noise(8000), round(60 * minutes)), 8000)
        tracemalloc.start()
        found = read_loudest(path, 8000, 5120, 0.0, None)
        for _ in slide(sound_blocks(path, rate=8000), 5120, 2560):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(found) == 5120
        return most

    assert peak(8) < 1.1 * peak(2) < 16e6
