"""Which stretch of a clip a stream takes, and the front end of the cough reference on real coughs."""

import os
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from crossfade.clip import Clip
from crossfade.data.log_mel import log_mel
from crossfade.data.sound import read_audio
from crossfade.data.streams import waveform

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
COUGHS = sorted((DATA / "cough" / "callcentre" / "cough").glob("*.mp3"))
needs_data = pytest.mark.skipif(not COUGHS, reason=f"no real data at {DATA}")
REFERENCE = {"seconds": 0.6399, "mels": 96, "low": 125.0, "high": 7500.0, "log": "natural"}


def clip_of(path: Path, **options) -> Clip:
    return Clip("one", {"audio": path}, {}, "group", **options)


@pytest.fixture
def late(tmp_path) -> Path:
    """Three seconds of faint noise with a burst from 1.8 to 2.1 s."""
    sound = np.random.default_rng(0).normal(0, 0.001, 48_000).astype(np.float32)
    sound[28_800:33_600] += 0.3 * np.sin(np.arange(4800)).astype(np.float32)
    soundfile.write(tmp_path / "late.wav", sound, 16_000, subtype="FLOAT")
    return tmp_path / "late.wav"


def test_the_loudest_window_holds_what_the_first_misses(late):
    first, most = waveform(seconds=0.64).decode(clip_of(late)), waveform(seconds=0.64, take="loudest").decode(clip_of(late))
    whole = read_audio(late, rate=16_000)
    assert len(first) == len(most) == 10_240 and np.abs(first).max() < 0.01
    starts = np.arange(0, 48_000 - 10_240 + 1, 160)
    powers = [float((whole[start : start + 10_240].astype(float) ** 2).sum()) for start in starts]
    best = int(starts[int(np.argmax(powers))])
    assert best <= 28_800 and best + 10_240 >= 33_600
    np.testing.assert_array_equal(most, whole[best : best + 10_240])
    np.testing.assert_array_equal(log_mel(seconds=0.64, take="loudest").decode(clip_of(late)), most)


def test_only_within_the_span_and_a_short_clip_whole(late):
    loudest = waveform(seconds=0.64, take="loudest")
    assert np.abs(loudest.decode(clip_of(late, span=(0.0, 1.7)))).max() < 0.01
    inside = loudest.decode(clip_of(late, span=(1.5, 2.5)))
    assert len(inside) == 10_240 and (np.abs(inside) > 0.2).sum() > 2000
    short = clip_of(late, span=(1.9, 2.2))
    np.testing.assert_array_equal(loudest.decode(short), waveform(seconds=0.64).decode(short))
    assert len(loudest.decode(short)) == 4800 and loudest.finish(loudest.decode(short))[1].sum() == 4800


def test_what_is_at_hand_is_chosen_as_from_a_file(late):
    whole = read_audio(late, rate=16_000)
    for take in ("first", "loudest"):
        stream = log_mel(seconds=0.64, take=take)
        np.testing.assert_array_equal(stream.chosen(whole), stream.decode(clip_of(late)))
        assert len(stream.chosen(whole[:100])) == 100


def test_the_key_says_which(late):
    assert waveform(take="loudest").key == log_mel(take="loudest").key != waveform().key
    assert waveform().key["take"] == "first"


def reference(sound: np.ndarray) -> np.ndarray:
    """(96, T), torchaudio's MelSpectrogram and ln(x + 1e-9), by librosa in double precision."""
    shape = {"n_fft": 400, "win_length": 400, "hop_length": 160, "pad_mode": "reflect"}
    bank = {"n_mels": 96, "fmin": 125, "fmax": 7500, "htk": True, "norm": None}
    return np.log(librosa.feature.melspectrogram(y=sound.astype(np.float64), sr=16_000, **shape, **bank) + 1e-9)


@needs_data
@pytest.mark.parametrize("take", ["first", "loudest"])
@pytest.mark.parametrize("path", [COUGHS[0], COUGHS[-1]] if COUGHS else [None])
def test_the_front_end_of_the_cough_reference_equals_librosa(path, take):
    stream = log_mel(**REFERENCE, take=take)
    assert stream.spec.shape == (1, 96, 64) and stream.spec.rate == 16_000
    sound = stream.decode(clip_of(path))
    found, mask = stream.finish(sound)
    assert found.shape == (1, 96, 64) and mask.sum() == min(len(sound) // 160 + 1, 64)
    expected = reference(np.pad(sound, (0, 10_238 - len(sound))))
    np.testing.assert_allclose(found[0].numpy(), expected, atol=0.02)
    heard = expected > -13  # below, float32 rounds off what a louder neighbour leaks
    assert heard.mean() > 0.5
    np.testing.assert_allclose(found[0].numpy()[heard], expected[heard], atol=2e-3)


@needs_data
def test_the_first_frames_are_the_reference_cut_to_64():
    whole = read_audio(COUGHS[0], rate=16_000)
    assert len(whole) > 10_440
    found, stream = reference(whole)[:, :64], log_mel(**REFERENCE)
    np.testing.assert_allclose(stream.finish(stream.decode(clip_of(COUGHS[0])))[0][0, :, :63], found[:, :63], atol=0.05)
