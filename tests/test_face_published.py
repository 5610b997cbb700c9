"""LPIPS and SyncNet with weights drawn at random: against a plain derivation, torchvision's AlexNet, loops, and shifts that are known."""

import math

import numpy as np
import pytest
import torch
from torchvision.models import alexnet

from crossfade.clip import UserError
from crossfade.evaluation.face import syncnet
from crossfade.evaluation.face.lpips import WIDTHS, Lpips
from crossfade.evaluation.face.mfcc import mfcc
from crossfade.evaluation.face.syncnet import SyncNet, distances, judge


@pytest.fixture(scope="module")
def perceptual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    network = alexnet(weights=None).features.eval()
    linear = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(WIDTHS)}
    torch.save({f"features.{name}": value for name, value in network.state_dict().items()}, folder / "alexnet.pth")
    torch.save(linear, folder / "alex.pth")
    return folder, network, linear


def pictures(count, size=96, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, size, size)).astype(np.float32)


def plain_lpips(network, linear, a, b):
    """Of two pictures (3, H, W), place by place and channel by channel."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total, number = 0.0, 0
    x, y = ((torch.from_numpy(picture) - shift[:, None, None]) / scale[:, None, None] for picture in (a, b))
    for layer in network:
        x, y = layer(x[None])[0], layer(y[None])[0]
        if isinstance(layer, torch.nn.ReLU):
            first, second = (each / each.norm(dim=0) for each in (x, y))
            weights = linear[f"lin{number}.model.1.weight"].flatten()
            total += float(((first - second) ** 2 * weights[:, None, None]).sum() / x[0].numel())
            number += 1
    assert number == 5
    return total


def test_lpips_is_the_papers(perceptual):
    folder, network, linear = perceptual
    measure, a, b = Lpips(folder / "alexnet.pth", folder / "alex.pth"), pictures(3), pictures(3, seed=1)
    with torch.no_grad():
        slow = [plain_lpips(network, linear, *pair) for pair in zip(a, b, strict=True)]
    assert measure(a, b) == pytest.approx(slow, rel=1e-4)
    assert measure(a, a).tolist() == [0, 0, 0]
    assert (measure(a, np.clip(a + 0.05, -1, 1)) < measure(a, b)).all()


def test_wrong_weights_are_refused(perceptual, tmp_path):
    folder, _, linear = perceptual
    with pytest.raises(UserError, match=r"alex.pth: there is no '0.weight'; expected the published weights of AlexNet"):
        Lpips(folder / "alex.pth", folder / "alex.pth")
    torch.save(linear | {"lin2.model.1.weight": torch.rand(1, 5, 1, 1)}, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"lin2.model.1.weight' has shape \(1, 5, 1, 1\)"):
        Lpips(folder / "alexnet.pth", tmp_path / "short.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match="cannot be read as PyTorch weights"):
        SyncNet(tmp_path / "text.pth")
    with pytest.raises(UserError, match="cannot be read as PyTorch weights"):
        SyncNet(tmp_path / "nowhere.pth")


def slow_mfcc(sound, frame):
    """One column by the formulas: emphasis, a window without taper, a spectrum, triangles over mels, logarithm, cosines, lifter."""
    sound = np.asarray(sound, dtype=np.float64) * 32768
    heard = [sound[i] - (0.97 * sound[i - 1] if i else 0) for i in range(frame * 160, frame * 160 + 400)]
    angle = -2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512
    power = np.abs(np.exp(angle) @ heard) ** 2 / 512
    top = 2595 * math.log10(1 + 8000 / 700)
    corner = [math.floor(513 * 700 * (10 ** (top * i / 27 / 2595) - 1) / 16000) for i in range(28)]
    bands = []
    for left, middle, right in zip(corner, corner[1:], corner[2:], strict=False):
        up = sum(power[k] * (k - left) / (middle - left) for k in range(left, middle))
        bands.append(math.log(up + sum(power[k] * (right - k) / (right - middle) for k in range(middle, right))))
    cosines = [math.sqrt(2 / 26) * sum(b * math.cos(math.pi * n * (2 * m + 1) / 52) for m, b in enumerate(bands)) for n in range(13)]
    lifted = [value * (1 + 11 * math.sin(math.pi * n / 22)) for n, value in enumerate(cosines)]
    return [math.log(power.sum()), *lifted[1:]]


def test_mfcc_against_the_formulas():
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000)
    found = mfcc(sound)
    assert found.shape == (13, 99)  # 1 + ceil((16000 − 400) / 160)
    for frame in (0, 40):
        assert found[:, frame] == pytest.approx(slow_mfcc(sound, frame), rel=1e-4, abs=1e-3)
    assert np.isfinite(mfcc(np.zeros(1600))).all()


@pytest.fixture(scope="module")
def sync(tmp_path_factory):
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    torch.manual_seed(0)
    weights = {name: value for name, value in syncnet.network().state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(weights, path)
    return SyncNet(path), weights


def test_syncnet_has_the_published_layers(sync):
    _, weights = sync
    assert weights["netcnnaud.18.weight"].shape == (512, 256, 5, 4)
    assert weights["netcnnlip.0.weight"].shape == (96, 3, 5, 7, 7)
    assert weights["netcnnlip.18.weight"].shape == (512, 256, 1, 6, 6)
    assert weights["netfcaud.3.weight"].shape == weights["netfclip.3.weight"].shape == (1024, 512)
    convolutions = {int(name.split(".")[1]) for name, value in weights.items() if name.startswith("netcnnlip") and value.ndim == 5}
    assert convolutions == {0, 4, 8, 11, 14, 18}


def test_a_clip_gets_a_distance(sync):
    measure, _ = sync
    faces, sound = pictures(7, 64), np.random.default_rng(0).normal(0, 0.1, 7 * 640)
    assert measure.seen(faces, 2).shape == measure.heard(sound, 2).shape == (2, 1024)
    found = measure(faces, sound)
    assert found.distance > 0 and found.confidence >= 0 and abs(found.late) <= 15
    with pytest.raises(UserError, match="more than 5 frames with their sound; found 4"):
        measure(faces, sound[: 4 * 640])


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_the_shift_is_found(late):
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(80, 32, generator=generator) * 5
    seen, heard = line[10:70], line[10 - late : 70 - late]
    found = judge(seen, heard)
    assert found.late == late
    each = distances(seen, heard)
    assert found.distance == pytest.approx(float(each[15 + late])) == pytest.approx(float(each.min()))
    assert found.confidence == pytest.approx(float(each.median() - each.min())) and found.confidence > 10


def test_distances_by_hand():
    seen, heard = torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [5.0]])
    assert distances(seen, heard, 1).tolist() == pytest.approx([(3 + 0) / 2, (2 + 4) / 2, (2 + 1) / 2], abs=1e-4)
