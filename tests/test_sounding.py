"""Augmentations of sound: how loud, how high and where, against librosa and against the numbers they promise."""

import math
import time

import librosa
import numpy as np
import pytest
import torch

from crossfade.clip import UserError
from crossfade.data import AUGMENTATIONS
from crossfade.data.sounding import gain, paced, pitch_shift, pitched, shift, time_stretch, white_noise

ALL = {"gain": gain, "pitch_shift": pitch_shift, "shift": shift, "time_stretch": time_stretch, "white_noise": white_noise}
RATE = 16000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sine(hertz: float, samples: int = 10_240) -> torch.Tensor:
    return 0.3 * torch.sin(2 * math.pi * hertz / RATE * torch.arange(samples))


def peak(sound: np.ndarray) -> float:
    """The frequency of most energy, hertz."""
    energy = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 18))
    return float(energy.argmax()) * RATE / (1 << 18)


@pytest.mark.parametrize("name", ALL)
def test_every_augmentation(name):
    assert AUGMENTATIONS[name] is ALL[name]
    x, augmentation = sine(440) + 0.01 * torch.randn(10_240, generator=seeded()), ALL[name](probability=1.0)
    before = x.clone()
    once, again, other = augmentation(x, seeded(1)), augmentation(x, seeded(1)), augmentation(x, seeded(2))
    assert augmentation.domain == "waveform" and once.shape == x.shape and once.dtype == x.dtype and once.isfinite().all()
    assert torch.equal(once, again) and not torch.equal(once, other) and not torch.equal(once, x) and torch.equal(x, before)
    never = ALL[name](probability=0.0)(x, seeded())
    assert torch.equal(never, x) and never.data_ptr() != x.data_ptr()
    changed = sum(not torch.equal(ALL[name]()(x, generator), x) for generator in [seeded(5)] for _ in range(60))
    assert 15 < changed < 45
    with pytest.raises(UserError, match=f"{name}.probability"):
        ALL[name](probability=-0.1)


def test_gain_is_uniform_in_decibels_and_clips_nothing():
    x, generator = sine(300), seeded()
    ratios = [20 * math.log10(float(gain(probability=1.0)(x, generator).abs().max() / x.abs().max())) for _ in range(1000)]
    assert min(ratios) == pytest.approx(-12, abs=0.1) and max(ratios) == pytest.approx(12, abs=0.1)
    assert np.mean(ratios) == pytest.approx(0, abs=0.7) and np.std(ratios) == pytest.approx(24 / math.sqrt(12), rel=0.05)
    assert max(float(gain(probability=1.0)(x, generator).abs().max()) for _ in range(50)) > 1


@pytest.mark.parametrize("semitones", [-4.0, -1.3, 0.0, 2.5, 4.0])
@pytest.mark.parametrize("hertz", [220.0, 440.0, 1000.0, 3000.0])
def test_a_sine_comes_out_at_its_frequency_times_the_ratio(semitones, hertz):
    ratio, x = 2 ** (semitones / 12), sine(hertz)
    found, expected = pitched(x, ratio, 512).numpy(), librosa.effects.pitch_shift(x.numpy(), sr=RATE, n_steps=semitones)
    assert len(found) == len(x)
    assert peak(found) == pytest.approx(hertz * ratio, rel=0.003) and peak(found) == pytest.approx(peak(expected), rel=0.003)
    middle = slice(2000, 8000)
    assert np.sqrt((found[middle] ** 2).mean()) == pytest.approx(np.sqrt((expected[middle] ** 2).mean()), rel=0.1)


def test_no_change_of_pitch_is_no_change_and_time_stays():
    x = 0.1 * torch.randn(10_240, generator=seeded())
    torch.testing.assert_close(pitched(x, 1.0, 512), x, atol=1e-5, rtol=0)
    burst = torch.zeros(10_240)
    burst[6000:6400] = sine(1000, 400)
    for ratio in (0.8, 1.25):
        energy = pitched(burst, ratio, 512).square()
        middle = float((energy * torch.arange(10_240)).sum() / energy.sum())
        assert middle == pytest.approx(6200, abs=160)


def test_drawn_pitches_fill_the_range():
    generator, augmentation = seeded(), pitch_shift(probability=1.0)
    found = [12 * math.log2(peak(augmentation(sine(1000), generator).numpy()) / 1000) for _ in range(100)]
    assert -4.05 < min(found) < -3.5 and 3.5 < max(found) < 4.05 and abs(np.mean(found)) < 0.8


@pytest.mark.parametrize("samples", [1, 5, 200, 700])
def test_short_and_silent_sounds_stay_as_long_and_finite(samples):
    for x in (torch.zeros(samples), torch.ones(samples)):
        for name, factory in ALL.items():
            found = factory(probability=1.0)(x, seeded())
            assert found.shape == x.shape and found.isfinite().all(), name
            assert x.any() or not found.any() or name == "white_noise"


@pytest.mark.parametrize("speed", [0.8, 0.93, 1.2])
@pytest.mark.parametrize("hertz", [220.0, 1000.0])
def test_another_pace_keeps_the_pitch_and_the_length(speed, hertz):
    x = sine(hertz)
    found, expected = paced(x, speed, 2048).numpy(), librosa.effects.time_stretch(x.numpy(), rate=speed)
    assert len(found) == len(x) and peak(found) == pytest.approx(hertz, rel=0.003) == pytest.approx(peak(expected), rel=0.006)
    played = slice(2500, min(len(x), int(len(x) / speed)) - 2500)
    assert np.sqrt((found[played] ** 2).mean()) == pytest.approx(np.sqrt((expected[played] ** 2).mean()), rel=0.05)
    assert not found[math.ceil(len(x) / speed) :].any(), "what became shorter ends in zeros"


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_a_burst_comes_when_the_pace_says(speed):
    burst = torch.zeros(10_240)
    burst[6000:6400] = sine(1000, 400)
    energy = paced(burst, speed, 512).square()
    assert float((energy * torch.arange(10_240)).sum() / energy.sum()) == pytest.approx(6200 / speed, abs=160)
    noise = 0.1 * torch.randn(10_240, generator=seeded())
    torch.testing.assert_close(paced(noise, 1.0, 512), noise, atol=1e-5, rtol=0)


def test_drawn_paces_fill_the_range():
    ends = [int(time_stretch(speed=(1.0, 2.0), probability=1.0)(sine(500), seeded(seed)).nonzero().max()) for seed in range(60)]
    assert min(ends) == pytest.approx(10_240 / 2, rel=0.05) and max(ends) == pytest.approx(10_240, rel=0.05)


def test_white_noise_has_its_level_however_loud_the_sound():
    for level in (0.0, 0.5):
        x = level * sine(300, 100_000)
        added = white_noise(std=0.005, probability=1.0)(x, seeded(1)) - x
        assert float(added.std()) == pytest.approx(0.005, rel=0.02) and abs(float(added.mean())) < 1e-4


def test_pitch_shift_takes_milliseconds():
    x, augmentation, taken = sine(500), pitch_shift(probability=1.0), []
    for seed in range(20):
        begun = time.process_time()
        augmentation(x, seeded(seed))
        taken.append(time.process_time() - begun)
    assert sorted(taken)[5] < 0.02  # some 3 ms on an idle core


def test_shift_is_circular_and_within_bounds():
    x = torch.arange(16_000.0)
    starts = [float(shift(probability=1.0)(x, seeded(seed))[0]) for seed in range(300)]
    moved = [int(start) if start < 8000 else int(start) - 16_000 for start in starts]
    assert min(moved) < -1500 and max(moved) > 1500 and max(map(abs, moved)) <= 1600
    found = shift(probability=1.0)(x, seeded(3))
    assert torch.equal(found.roll(int(starts[3])), x)
    assert shift(seconds=0.1, rate=8000).samples == 800


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (lambda: gain(decibels=-1), "gain.decibels: -1"),
        (lambda: pitch_shift(semitones=-1), "pitch_shift.semitones: -1; 0 to 24"),
        (lambda: pitch_shift(n_fft=10), "pitch_shift.n_fft: 10; a multiple of 4"),
        (lambda: shift(seconds=-1), "shift: seconds -1, rate 16000"),
        (lambda: time_stretch(speed=(1.2, 0.8)), r"time_stretch.speed: \[1.2, 0.8\]; 0.25 ≤ low ≤ high ≤ 4"),
        (lambda: time_stretch(n_fft=10), "time_stretch.n_fft: 10; a multiple of 4"),
        (lambda: white_noise(std=-1), "white_noise.std: -1"),
    ],
)
def test_options_out_of_range(factory, words):
    with pytest.raises(UserError, match=words):
        factory()
