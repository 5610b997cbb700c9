"""What comes after the logarithm of a mel spectrogram: the wildlife reference's arrays from the sound, against librosa and scipy."""

import librosa
import numpy as np
import pytest
import soundfile
import torch
from scipy.ndimage import zoom

from crossfade.clip import Clip, UserError
from crossfade.data.log_mel import log_mel
from crossfade.data.mel import Levelled
from crossfade.data.streams import waveform

RATE = 16000
ORIGINAL = {"seconds": 10.0, "mels": 128, "n_fft": 2048, "window": 2048, "hop": 512, "scale": "slaney", "take": "middle"}
ORIGINAL |= {"top_db": 80.0, "unit": True, "columns": 128}


def recording(seconds: float) -> np.ndarray:
    generator = np.random.default_rng(3)
    time = np.arange(int(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * (300 + 200 * time) * time) * np.exp(-time / 4) + 0.01 * generator.normal(size=len(time))).astype(
        np.float32
    )


def clip(folder, sound: np.ndarray) -> Clip:
    soundfile.write(folder / "a.wav", sound, RATE, subtype="FLOAT")
    return Clip("a", {"audio": folder / "a.wav"}, {}, "g")


def published(sound: np.ndarray, pad_mode: str) -> np.ndarray:
    """The reference's steps: centre crop or zeros to 10 s, power mel, power_to_db(ref=max), min–max, linear zoom."""
    whole = 10 * RATE
    start = max(len(sound) - whole, 0) // 2
    sound = np.pad(sound[start : start + whole], (0, max(whole - len(sound), 0)))
    mel = librosa.feature.melspectrogram(
        y=sound,
        sr=RATE,
        n_fft=2048,
        hop_length=512,
        n_mels=128,
        fmin=0,
        fmax=RATE / 2,
        pad_mode=pad_mode,  # type: ignore[arg-type]
    )
    decibels = librosa.power_to_db(mel, ref=np.max)
    level = (decibels - decibels.min()) / (decibels.max() - decibels.min())
    return np.asarray(zoom(level, (1, 128 / level.shape[1]), order=1))


@pytest.mark.parametrize("seconds", [4.0, 10.0, 13.7])
def test_the_originals_spectrogram_from_the_sound(tmp_path, seconds):
    stream = log_mel(**ORIGINAL)
    found, mask = stream.finish(stream.decode(clip(tmp_path, recording(seconds))))
    assert stream.spec.shape == found.shape == (1, 128, 128) and mask.shape == (128,)
    assert np.abs(found[0].numpy() - published(recording(seconds), "reflect")).max() < 2e-3
    zeros = np.abs(found[0].numpy() - published(recording(seconds), "constant"))
    assert zeros[:, 2:-2].max() < 2e-3, "how librosa fills the ends, by version, is seen in the outermost columns alone"
    assert int(mask.sum()) == (128 if seconds >= 10 else (int(seconds * RATE) // 512) * 127 // 312 + 1)


def test_parts_of_it():
    mel = torch.tensor([[[-100.0, -20.0, 0.0], [-50.0, -10.0, -90.0]]])
    assert Levelled()(mel) is mel and Levelled().real(2, 3) == 2
    assert Levelled(top_db=80)(mel).tolist() == [[[-80.0, -20.0, 0.0], [-50.0, -10.0, -80.0]]]
    assert Levelled(unit=True)(mel)[0, 0].tolist() == pytest.approx([0.0, 0.8, 1.0])
    assert Levelled(columns=5)(mel)[0, 0].tolist() == pytest.approx([-100.0, -60.0, -20.0, -10.0, 0.0])
    assert [Levelled(columns=5).real(heard, 3) for heard in (1, 2, 3)] == [1, 3, 5]
    assert not Levelled(unit=True)(torch.full((1, 4, 4), -100.0)).any(), "where all are equal there is nothing to spread"


def test_the_middle_of_a_recording(tmp_path):
    sound = recording(2.0)
    stream = waveform(seconds=0.5, take="middle")
    assert np.array_equal(stream.decode(clip(tmp_path, sound)), sound[12_000:20_000])
    assert np.array_equal(stream.chosen(sound), sound[12_000:20_000])
    assert len(waveform(seconds=3.0, take="middle").decode(clip(tmp_path, sound))) == len(sound)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"top_db": 0.0}, "top_db: 0 with log db"), ({"top_db": 80.0, "log": "natural"}, "needs log: db"), ({"columns": 0}, "columns: 0")],
)
def test_options_that_cannot_be(options, says):
    with pytest.raises(UserError, match=says):
        log_mel(**options)
