"""Terms on pictures: against numbers worked by hand, and against the independent scores of the island evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crossfade import training, use
from crossfade.clip import UserError
from crossfade.evaluation.face import pictures
from crossfade.models.picture_trunk import MEAN, STD, picture_trunk
from crossfade.training.terms import Objective

WEIGHTS = Path(__file__).parents[2] / "shared/data/weights/mobilenet_v2_features_imagenet.safetensors"
SIZE = 96


def term(name: str, *given: object, **options: object):
    return use.make(training.PICTURE_TERMS, {"use": name, **options}, *given)


def some(clips: int, seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.rand(clips, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def values(name: str, output: Tensor, true: Tensor, *given: object, pair: Tensor | None = None, **options: object) -> Tensor:
    batch = {"true": true, "pair": torch.arange(len(true)) if pair is None else pair}
    found, known = term(name, *given, **options)({"output": output}, batch)
    return found[known]


def test_l1_counts_the_mouth_again():
    true = torch.zeros(2, 3, 160, 160)
    output = true.clone()
    output[0, :, 44:116, 32:128] = 0.5  # the mouth, wrong by a half
    output[1, :, :44] = 0.5  # what is above it
    share = 96 * 72 / 160**2
    assert values("l1", output, true).tolist() == pytest.approx([0.5 * share, 0.5 * 44 / 160])
    assert values("l1", output, true, mouth=2.0).tolist() == pytest.approx([0.5 * share + 1.0, 0.5 * 44 / 160])
    assert values("l1", output, output, epsilon=0.001).tolist() == pytest.approx([0.001, 0.001])


def test_dssim_is_the_evaluations_ssim():
    true = some(3)
    output = (true + 0.3 * some(3, 1)).clamp(-1, 1)
    expected = pictures.ssim(output.numpy(), true.numpy())
    assert values("dssim", output, true).numpy() == pytest.approx((1 - expected) / 2, abs=1e-5)
    lips = pictures.ssim(output.numpy(), true.numpy(), pictures.mouth(SIZE))
    assert values("dssim", output, true, mouth=1.0).numpy() == pytest.approx((2 - expected - lips) / 2, abs=1e-5)


def test_temporal_looks_at_what_follows_alone():
    true, output = some(4), some(4, 1)
    pair = torch.tensor([0, 0, 1, 1])
    expected = pictures.temporal(output.numpy(), true.numpy(), np.array([3, 4, 8, 9]), pictures.mouth(SIZE))
    found = values("temporal", output, true, pair=pair)
    assert found.numpy() == pytest.approx(2 * expected[[1, 3]], abs=1e-6)  # the scores are on 0 … 1


def test_temporal_of_two_that_do_not_follow_is_nothing():
    batch = {"true": some(2), "pair": torch.tensor([0, 1])}
    loss, means = Objective({"movement": term("temporal")})({"output": some(2, 1)}, batch)
    assert float(loss) == 0 == float(means["movement"])


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs ../shared/data")
def test_perceptual_is_the_networks_own_difference():
    from safetensors.torch import load_file
    from torchvision import models

    whole = models.mobilenet_v2(weights=None)
    entries = load_file(WEIGHTS)
    whole.load_state_dict(entries if "features.0.0.weight" in entries else {f"features.{n}": t for n, t in entries.items()}, strict=False)
    trunk = whole.features[:3].eval()
    true = some(2)
    output = some(2, 1).requires_grad_()

    def seen(x: Tensor) -> Tensor:
        return trunk(((x + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))

    with torch.no_grad():
        expected = (seen(output) - seen(true)).square().flatten(1).mean(1)
    found = values("perceptual", output, true, picture_trunk, weights=str(WEIGHTS), blocks=3)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    found.sum().backward()
    assert output.grad is not None and float(output.grad.abs().sum()) > 0


def test_what_a_term_cannot_be_is_said(tmp_path: Path):
    with pytest.raises(UserError, match="neither may be negative"):
        term("l1", mouth=-1.0)
    with pytest.raises(UserError, match=r"perceptual\.network: found 'resnet9'; one of mobilenet_v2"):
        picture_trunk("resnet9", 3, "imagenet")
    torch.save({"features.0.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"not of mobilenet_v2: its features\.0\.0\.weight is \(32, 3, 3, 3\), the file is \(3,\)"):
        picture_trunk("mobilenet_v2", 3, tmp_path / "other.pth")
