"""Augmentations: the numbers they promise, determinism by generator, nothing in place, every option checked."""

import math

import numpy as np
import pytest
import soundfile
import torch
from torchvision.transforms.functional import gaussian_blur

from crossfade.clip import UserError
from crossfade.data.augment import blur, darken, noise_at_snr, sensor_noise, spectrogram_masks


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sine(samples: int = 48000, level: float = 0.1) -> torch.Tensor:
    return level * torch.sin(torch.arange(samples) * 0.17)


def clip_of_frames(size: int = 24) -> torch.Tensor:
    return torch.rand(4, 3, size, size, generator=seeded(9))


def noise_file(folder, samples: int = 20000):
    path = folder / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.2, samples).astype(np.float32), 16000, subtype="FLOAT")
    return path


ALL = {
    "noise_at_snr": (noise_at_snr, sine()),
    "spectrogram_masks": (spectrogram_masks, torch.randn(1, 64, 301, generator=seeded(1))),
    "blur": (blur, clip_of_frames()),
    "darken": (darken, clip_of_frames()),
    "sensor_noise": (sensor_noise, clip_of_frames()),
}


@pytest.mark.parametrize("name", ALL)
def test_every_augmentation(name):
    factory, x = ALL[name]
    before, augmentation = x.clone(), factory(probability=1.0)
    once, again, other = augmentation(x, seeded(1)), augmentation(x, seeded(1)), augmentation(x, seeded(2))
    assert once.shape == x.shape and once.dtype == x.dtype and once.isfinite().all()
    assert torch.equal(once, again) and not torch.equal(once, other) and not torch.equal(once, x)
    assert torch.equal(x, before)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    augmentation(x, seeded(3))
    assert torch.equal(torch.get_rng_state(), state)
    never = factory(probability=0.0)(x, seeded())
    assert torch.equal(never, x) and never.data_ptr() != x.data_ptr()
    changed = sum(not torch.equal(factory()(x, generator), x) for generator in [seeded(5)] for _ in range(60))
    assert 15 < changed < 45
    with pytest.raises(UserError, match=f"{name}.probability"):
        factory(probability=1.5)


@pytest.mark.parametrize("snr", [20.0, 5.0, 0.0, -5.0])
@pytest.mark.parametrize("from_file", [False, True])
def test_measured_snr(tmp_path, snr, from_file):
    clean = sine(level=0.05)
    noisy = noise_at_snr(snr=(snr,), weights=None, probability=1.0, file=noise_file(tmp_path) if from_file else None)(clean, seeded())
    added = noisy - clean
    assert 10 * math.log10(clean.square().mean() / added.square().mean()) == pytest.approx(snr, abs=0.05)


def test_the_defaults_are_the_reference_mixture():
    augmentation, clean, generator = noise_at_snr(), sine(2000, 0.01), seeded()
    counts = dict.fromkeys(("clean", 20, 15, 10, 5), 0)
    for _ in range(4000):
        added = augmentation(clean, generator) - clean
        counts[round(10 * math.log10(clean.square().mean() / added.square().mean())) if added.any() else "clean"] += 1
    shares = {key: count / 4000 for key, count in counts.items()}
    expected = {"clean": 0.5, 20: 0.4 / 3, 15: 0.4 / 3, 10: 0.4 / 3, 5: 0.1}
    assert shares == pytest.approx(expected, abs=0.025)


def test_silence_stays_silent_and_loud_sound_stays_in_range():
    always = noise_at_snr(snr=(0.0,), weights=None, probability=1.0)
    assert not always(torch.zeros(1000), seeded()).any()
    assert always(sine(level=0.99), seeded()).abs().max() <= 1.0


def test_noise_file_is_looped_from_a_random_offset(tmp_path):
    path = noise_file(tmp_path, samples=1000)
    augmentation = noise_at_snr(snr=(10.0,), weights=None, probability=1.0, file=path)
    noise, _ = soundfile.read(path, dtype="float32")
    path.unlink()
    clean = sine(3500, 0.01)
    added = (augmentation(clean, seeded(1)) - clean).numpy()
    np.testing.assert_allclose(added[:1000], added[1000:2000], atol=1e-6)
    shift = int(np.argmax([np.dot(np.roll(noise, -offset), added[:1000]) for offset in range(1000)]))
    np.testing.assert_allclose(
        added[:1000] / np.roll(noise, -shift), np.full(1000, (added[:1000] / np.roll(noise, -shift)).mean()), rtol=0.05
    )
    assert not torch.equal(augmentation(clean, seeded(1)), augmentation(clean, seeded(2)))


def test_noise_files_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match=r"noise_at_snr\.file: .*no such file"):
        noise_at_snr(file=tmp_path / "none.wav")
    soundfile.write(tmp_path / "silent.wav", np.zeros(100, np.float32), 16000)
    with pytest.raises(UserError, match="is silent"):
        noise_at_snr(file=tmp_path / "silent.wav")


@pytest.mark.parametrize(("mels", "columns"), [(64, 301), (4, 3), (1, 1), (20, 40)])
def test_masks_are_the_mean_and_always_inside(mels, columns):
    x, augmentation, generator = torch.randn(1, mels, columns, generator=seeded(1)), spectrogram_masks(probability=1.0), seeded()
    for _ in range(50):
        masked = augmentation(x, generator)
        changed = masked != x
        assert torch.equal(masked[changed], x.mean().expand(int(changed.sum())))
        whole_rows = changed.all(dim=-1).sum()
        whole_columns = changed.all(dim=-2).sum()
        assert (whole_rows <= 40 and whole_columns <= 80) or mels * columns < 1000


def test_masks_differ_from_sample_to_sample():
    x, augmentation, generator = torch.randn(1, 64, 301, generator=seeded(1)), spectrogram_masks(probability=1.0), seeded()
    assert not torch.equal(augmentation(x, generator), augmentation(x, generator))


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_blur_equals_torchvision(kernel):
    x = clip_of_frames()
    torch.testing.assert_close(
        blur(kernels=(kernel,), probability=1.0)(x, seeded()), gaussian_blur(x, [kernel, kernel]), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("factory", [blur, darken])
def test_one_setting_for_all_frames_of_a_clip(factory):
    x = torch.rand(1, 3, 24, 24, generator=seeded(2)).expand(4, -1, -1, -1)
    out = factory(probability=1.0)(x, seeded())
    torch.testing.assert_close(out, out[:1].expand_as(out))


def test_darken_and_sensor_noise_keep_their_ranges():
    x, generator = torch.full((2, 3, 32, 32), 0.5), seeded()
    factors = [float(darken(probability=1.0)(x, generator).mean() / 0.5) for _ in range(200)]
    assert 0.2 <= min(factors) < 0.25 and 0.55 < max(factors) <= 0.6
    spreads = [float((sensor_noise(probability=1.0)(x, generator) - x).std()) for _ in range(50)]
    assert max(spreads) < 0.00055 and min(spreads) < 0.0002
    assert sensor_noise(std=5.0, probability=1.0)(x, generator).aminmax() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: noise_at_snr(weights=(1.0,)), r"noise_at_snr\.weights"),
        (lambda: noise_at_snr(snr=()), r"noise_at_snr\.weights"),
        (lambda: spectrogram_masks(time=-1), "spectrogram_masks"),
        (lambda: blur(kernels=(4,)), r"blur\.kernels"),
        (lambda: darken(low=0.7, high=0.6), "darken"),
        (lambda: sensor_noise(std=-1.0), r"sensor_noise\.std"),
    ],
)
def test_options_that_cannot_be(build, key):
    with pytest.raises(UserError, match=key):
        build()
