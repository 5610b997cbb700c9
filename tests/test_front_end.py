"""A front end gives what its stream's `finish` gives, on real recordings, in PyTorch and as ONNX from the waveform or bytes on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from crossfade.clip import Clip
from crossfade.data.front_end import FrontEnds, front_end
from crossfade.data.log_mel import log_mel
from crossfade.data.mel import LOGARITHMS
from crossfade.data.streams import frames, image, waveform
from crossfade.data.tensors import stored_mel
from crossfade.deploy.onnx_export import export
from crossfade.deploy.onnx_runner import OnnxRunner

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
SPEECH = sorted((DATA / "fsdd").rglob("*.wav"))[:3] + sorted((DATA / "esc10").rglob("*.wav"))[:1]
VIDEO = sorted((DATA / "ravdess").rglob("*.mp4"))[:1] or sorted((DATA / "grid").rglob("*.mpg"))[:1]
WILDLIFE = {"n_fft": 2048, "window": 2048, "hop": 512, "mels": 128, "scale": "slaney", "top_db": 80.0, "unit": True, "columns": 128}
MELS = {
    "default": {},
    "natural": {"seconds": 0.6399, "mels": 96, "low": 125, "high": 7500, "log": "natural"},
    "magnitude": {"n_fft": 512, "window": 320, "power": 1.0, "hop": 128},
    "wildlife": WILDLIFE,
    "band": {"seconds": 0.6399, "mels": 96, "low": 125, "high": 7500, "log": "natural", "band": (144.0, 3837.0)},
}


def batch_of(sounds: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sounds side by side, noise where the shorter have ended, and their mask."""
    longest = max(map(len, sounds))
    x = torch.full((len(sounds), longest), 0.5)
    for row, sound in zip(x, sounds, strict=True):
        row[: len(sound)] = torch.from_numpy(sound)
    return x, torch.arange(longest) < torch.tensor([len(sound) for sound in sounds])[:, None]


def heard(stream) -> list[np.ndarray]:
    real = [stream.decode(Clip(path.stem, {"audio": path}, {}, "group")) for path in SPEECH]
    return [*real, np.random.default_rng(0).normal(0, 0.1, stream.spec.rate).astype(np.float32)]


def apart(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected - found).abs().max() / expected.abs().max())


def exactly(stream, sound: np.ndarray) -> torch.Tensor:
    """What `finish` means, in float64."""
    padded, half = stream.sound.finish(sound)[0].double(), stream.n_fft // 2
    mirrored = torch.cat([padded[1 : half + 1].flip(0), padded, padded[-half - 1 : -1].flip(0)])
    spectrum = torch.fft.rfft(mirrored.unfold(0, stream.n_fft, stream.hop) * stream.taper.double())
    energy = stream.bank.double().T @ spectrum.abs().pow(stream.power).T
    return stream.after(LOGARITHMS[stream.log](energy, stream.floor)[None])


@pytest.mark.parametrize("options", MELS.values(), ids=MELS)
def test_log_mel_of_real_sound_equals_finish(options):
    """To 1e-4 of the range, but where a band is so faint that `finish` itself, in float32, is not so exact."""
    stream = log_mel(**options)
    sounds = heard(stream)
    mels, masks = front_end(stream)(*batch_of(sounds))
    for sound, mel, mask in zip(sounds, mels, masks, strict=True):
        expected, real = stream.finish(sound)
        truth, span = exactly(stream, sound), float(expected.abs().max())
        assert torch.equal(mask, real)
        assert (mel - expected).abs().mean() < 1e-4 * span
        assert ((mel - expected).abs() > 1e-4 * span).float().mean() < 0.04
        assert (mel - truth).abs().max() < max(1e-4 * span, 1.5 * float((expected - truth).abs().max()))


def test_a_waveform_is_padded_or_cut_and_otherwise_itself():
    stream = waveform(seconds=1.0)
    sounds = [np.linspace(-1, 1, count).astype(np.float32) for count in (16000, 9000, 1)]
    x, mask = front_end(stream)(*batch_of(sounds))
    longer, whole = front_end(stream)(torch.ones(1, 20000), torch.ones(1, 20000, dtype=torch.bool))
    expected = [stream.finish(sound) for sound in sounds]
    assert torch.equal(x, torch.stack([each for each, _ in expected])) and torch.equal(mask, torch.stack([real for _, real in expected]))
    assert longer.shape == (1, 16000) and whole.all()


PICTURES = [
    frames(count=3, size=20),
    frames(count=3, size=20, background="remove"),
    image(size=12, channels=1),
    image(size=12, mean=(0.1, 0.2, 0.3)),
]


@pytest.mark.parametrize("stream", PICTURES)
def test_pictures_equal_finish(stream):
    pictures = np.random.default_rng(1).integers(0, 256, (2, *stream.spec.shape), dtype=np.uint8)
    mask = torch.ones(2, stream.spec.shape[0], dtype=torch.bool)
    x, real = front_end(stream)(torch.from_numpy(pictures), mask)
    assert torch.allclose(x, torch.stack([stream.finish(each)[0] for each in pictures]), atol=1e-5) and real is mask


@pytest.mark.skipif(not VIDEO, reason=f"no real data at {DATA}")
def test_frames_of_a_real_video_equal_finish():
    stream = frames(count=4, size=48)
    decoded = stream.decode(Clip("one", {"video": VIDEO[0]}, {}, "group"))
    x, _ = front_end(stream)(torch.from_numpy(decoded)[None], torch.ones(1, 4, dtype=torch.bool))
    assert torch.allclose(x[0], stream.finish(decoded)[0], atol=1e-6)


def test_an_absent_clip_has_no_columns_and_a_stored_stream_no_front_end():
    mel, mask = front_end(log_mel(seconds=0.5))(torch.ones(1, 100), torch.zeros(1, 100, dtype=torch.bool))
    assert mel.isfinite().all() and not mask.any()
    assert front_end(stored_mel()) is None


class Named(nn.Module):
    """In place of a model: what it would see, under other names."""

    def forward(self, batch):
        return {"mel": batch["audio"], "real": batch["audio.mask"].float(), "seen": batch["video"]}


@pytest.mark.parametrize("options", [{"seconds": 0.5}, WILDLIFE | {"seconds": 0.5}, MELS["band"]], ids=["default", "wildlife", "band"])
def test_as_onnx_it_starts_from_sound_of_any_length_and_from_bytes(options, tmp_path):
    sound, pictures = log_mel(**options), frames(count=2, size=16)
    ends = nn.Sequential(FrontEnds({"audio": front_end(sound), "video": front_end(pictures)}), Named())
    generator = np.random.default_rng(2)
    seen = generator.integers(0, 256, (4, 2, 3, 16, 16), dtype=np.uint8)
    sounds = [level * generator.normal(0, 0.1, count).astype(np.float32) for level, count in ((1, 8000), (1, 5000), (1, 300), (0, 4000))]
    x, mask = batch_of(sounds)
    example = {"audio": torch.zeros(2, 4000), "audio.mask": torch.ones(2, 4000, dtype=torch.bool), "video": torch.from_numpy(seen[:2])}
    runner = OnnxRunner(export(ends, example, tmp_path / "ends.onnx", outputs=["mel", "real", "seen"]), threads=1)
    assert runner.inputs["video"].dtype == "uint8" and runner.inputs["audio"].sizes == (None, None)
    found = runner({"audio": x.numpy(), "audio.mask": mask.numpy(), "video": seen})
    expected = [sound.finish(each) for each in sounds]
    assert apart(torch.stack([mel for mel, _ in expected]), torch.from_numpy(found["mel"])) < 1e-4
    assert np.array_equal(found["real"] > 0, torch.stack([real for _, real in expected]).numpy())
    np.testing.assert_allclose(found["seen"], np.stack([pictures.finish(each)[0].numpy() for each in seen]), atol=1e-5)
