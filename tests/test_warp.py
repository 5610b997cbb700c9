"""Augmentations of pictures: equal to torchvision's for equal parameters, one draw for all frames, any channels, every option checked."""

import math
import time

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from crossfade.clip import UserError
from crossfade.data import AUGMENTATIONS
from crossfade.data.warp import affine, bent, centre_crop, crop, elastic, erase, flip, jitter, moved, turned

ALL = {"affine": affine, "flip": flip, "elastic": elastic, "erase": erase, "crop": crop, "jitter": jitter}
OFF = {name: {"horizontal": 0.0} if name == "flip" else {"probability": 0.0} for name in ALL}
ON = {name: {"horizontal": 0.5, "vertical": 0.5} if name == "flip" else {"probability": 1.0} for name in ALL}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(*(shape or (2, 3, 24, 32)), generator=seeded(9))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (3, 3, 20, 34), (2, 6, 5, 4)])
def test_every_augmentation(name, shape):
    assert AUGMENTATIONS[name] is ALL[name]
    x, augmentation = pictures(*shape), ALL[name](**ON[name])
    before, state = x.clone(), torch.get_rng_state()
    outs = [augmentation(x, seeded(seed)) for seed in range(40)]
    again = [augmentation(x, seeded(seed)) for seed in range(40)]
    assert all(torch.equal(one, two) for one, two in zip(outs, again, strict=True))
    assert all(out.shape == x.shape and out.dtype == x.dtype and out.min() >= 0 and out.max() <= 1 for out in outs)
    assert sum(not torch.equal(out, x) for out in outs) > 20 and len({float(out.sum()) for out in outs}) > (0 if name == "flip" else 8)
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state) and augmentation.domain == "frames"
    never = ALL[name](**OFF[name])(x, seeded())
    assert torch.equal(never, x) and never.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("name", ALL)
def test_one_setting_for_all_frames_of_a_clip(name):
    out = ALL[name](**ON[name])(pictures(1, 3, 24, 24).expand(4, -1, -1, -1), seeded(1))
    torch.testing.assert_close(out, out[:1].expand_as(out))


@pytest.mark.parametrize(
    ("degrees", "shift", "scale", "shear"),
    [
        (0, (0, 0), 1, 0),
        (30, (0, 0), 1, 0),
        (0, (0.25, -0.125), 1, 0),
        (0, (0, 0), 1.3, 0),
        (0, (0, 0), 1, 20),
        (-17, (0.125, 0.25), 0.8, 11),
    ],
)
def test_affine_equals_torchvision(degrees, shift, scale, shear):
    x = pictures()
    pixels = [shift[0] * x.shape[-1], shift[1] * x.shape[-2]]
    expected = reference.affine(x, degrees, pixels, scale, [shear, 0.0], interpolation=reference.InterpolationMode.BILINEAR)
    torch.testing.assert_close(moved(x, degrees, shift, scale, shear, "zero"), expected, atol=2e-5, rtol=0)


def test_the_edge_goes_on_and_zero_is_black():
    white = torch.ones(1, 1, 16, 16)
    torch.testing.assert_close(moved(white, 30, (0.3, 0), 1, 0, "edge"), white)
    assert moved(white, 0, (0.5, 0), 1, 0, "zero")[0, 0, 8, :8].max() == 0


def test_affine_draws_within_its_options():
    dot = torch.zeros(1, 1, 41, 41)
    dot[..., 20, 20] = 1
    places = [
        (affine(degrees=0, shift=0.2, scale=(1, 1))(dot, seeded(seed))[0, 0] > 0.2).nonzero().float().mean(0) - 20 for seed in range(200)
    ]
    far = torch.stack(places).abs().amax(0)
    assert (far > 6).all() and (far <= 0.2 * 41 + 1).all()


def test_bent_equals_torchvision():
    x = pictures()
    displacement = 3 * (torch.rand(2, 24, 32, generator=seeded(3)) - 0.5)
    units = (displacement.permute(1, 2, 0) * torch.tensor([2 / 32, 2 / 24]))[None]
    torch.testing.assert_close(bent(x, displacement, "zero"), reference.elastic(x, units), atol=2e-5, rtol=0)


def test_elastic_moves_as_far_as_it_says():
    ramp = torch.arange(64.0).div(63).expand(1, 1, 64, 64)
    moves = torch.cat([(elastic(probability=1.0)(ramp, seeded(seed)) - ramp)[..., 16:48, 16:48].flatten() * 63 for seed in range(20)])
    assert float(moves.std()) == pytest.approx(34 * math.sqrt(1 / 3) / (2 * math.sqrt(math.pi) * 4), rel=0.15)


def test_flip():
    x = pictures()
    assert torch.equal(flip(horizontal=1.0)(x, seeded()), reference.horizontal_flip(x))
    assert torch.equal(flip(horizontal=0.0, vertical=1.0)(x, seeded()), reference.vertical_flip(x))
    assert 60 < sum(torch.equal(flip()(x, generator), x) for generator in [seeded(1)] for _ in range(200)) < 140


@pytest.mark.parametrize("size", [(0.1, 0.4), (0.5, 0.5), (1.0, 1.0), (0.001, 0.001)])
def test_erase_covers_one_rectangle_with_the_mean(size):
    x, augmentation = pictures(1, 3, 20, 40), erase(size=size, probability=1.0)
    for seed in range(30):
        out = augmentation(x, seeded(seed))
        changed = (out != x).all(1)[0]
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        high, wide = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert changed.sum() == high * wide and torch.equal(out[:, :, changed].unique(), x.mean().reshape(1))
        assert max(round(20 * size[0]), 1) <= high <= max(round(20 * size[1]), 1) and wide <= max(round(40 * size[1]), 1)


def test_crop_equals_torchvision_and_keeps_its_share():
    x = pictures(1, 3, 24, 24)
    whole = crop(scale=(1, 1), ratio=(1, 1))(x, seeded())
    torch.testing.assert_close(whole, x)
    half = crop(scale=(0.25, 0.25), ratio=(1, 1))(x, seeded(4))
    candidates = [reference.resized_crop(x, top, left, 12, 12, [24, 24], antialias=True) for top in range(13) for left in range(13)]
    assert min(float((half - candidate).abs().max()) for candidate in candidates) < 1e-5


def test_jitter_equals_torchvision():
    x = pictures(1, 3, 16, 16)
    for seed in range(5):
        _, *drawn = torch.rand(4, generator=seeded(seed)).tolist()
        bright, contrast, colour = (1 + 0.4 * (2 * u - 1) for u in drawn)
        expected = reference.adjust_contrast(reference.adjust_brightness(x, bright), contrast)
        found = jitter(brightness=0.4, contrast=0.4, saturation=0.0)(x, seeded(seed))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
        found = jitter(brightness=0.0, contrast=0.0, saturation=0.4)(x, seeded(seed))
        torch.testing.assert_close(found, reference.adjust_saturation(x, colour), atol=1e-3, rtol=0)


def test_centre_crop_equals_torchvision_and_draws_nothing_but_whether():
    x = pictures(2, 3, 24, 32)
    expected = reference.resized_crop(x, 3, 4, 18, 24, [24, 32], antialias=True)
    torch.testing.assert_close(centre_crop(share=0.75)(x, seeded()), expected)
    assert torch.equal(centre_crop(share=0.75)(x, seeded(1)), centre_crop(share=0.75)(x, seeded(2)))
    torch.testing.assert_close(centre_crop(share=1.0)(x, seeded()), x)
    same = centre_crop(share=0.5, probability=0.5)
    assert 60 < sum(torch.equal(same(x, generator), x) for generator in [seeded(1)] for _ in range(200)) < 140
    out = centre_crop(share=0.4, probability=0.9)(pictures(1, 3, 24, 24).expand(4, -1, -1, -1), seeded())
    torch.testing.assert_close(out, out[:1].expand_as(out))


@pytest.mark.parametrize("share", [-0.5, -0.1, 0.03, 0.25, 1 / 3, 0.5])
def test_turned_hues_equal_torchvision(share):
    x = torch.cat(
        [pictures(1, 3, 16, 16), pictures(1, 1, 16, 16).expand(-1, 3, -1, -1), torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)]
    )
    torch.testing.assert_close(turned(x, share), reference.adjust_hue(x, share), atol=1e-5, rtol=0)


def test_jitter_with_hue():
    x = pictures(3, 3, 16, 16)
    for seed in range(5):
        generator = seeded(seed)
        torch.rand(4, generator=generator)
        share = 0.1 * (2 * float(torch.rand(1, generator=generator)) - 1)
        found = jitter(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.1)(x, seeded(seed))
        torch.testing.assert_close(found, reference.adjust_hue(x, share), atol=1e-5, rtol=0)
    grey = pictures(2, 1, 8, 8)
    assert torch.equal(jitter(hue=0.5)(grey, seeded()), jitter()(grey, seeded())), "grey has no hue"
    after = [seeded(), seeded()]
    jitter()(x, after[0])
    torch.rand(4, generator=after[1])
    assert torch.equal(after[0].get_state(), after[1].get_state()), "without hue as many numbers are drawn as ever"


def test_affine_of_a_digit_is_quick():
    x, augmentation, generator = pictures(1, 1, 28, 28), affine(), seeded()
    spent = []
    for _ in range(300):
        started = time.perf_counter()
        augmentation(x, generator)
        spent.append(time.perf_counter() - started)
    assert sorted(spent)[30] < 1e-3, "about 0.1 ms on one core that is not shared"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: affine(degrees=-1), "affine: degrees -1"),
        (lambda: affine(shear=90), "affine: degrees 10, shift 0.1, shear 90"),
        (lambda: affine(scale=(1.2, 0.9)), r"affine\.scale: \[1.2, 0.9\]; 0 < low ≤ high is needed"),
        (lambda: affine(probability=2), r"affine\.probability"),
        (lambda: flip(vertical=-1), "flip: horizontal 0.5, vertical -1"),
        (lambda: elastic(sigma=0), "elastic: alpha 34, sigma 0"),
        (lambda: erase(size=(0.5, 1.5)), r"erase\.size: .* ≤ 1 is needed"),
        (lambda: crop(scale=(0, 1)), r"crop\.scale"),
        (lambda: crop(ratio=(2, 1)), r"crop\.ratio"),
        (lambda: jitter(contrast=1.5), "jitter: .*contrast 1.5"),
        (lambda: jitter(hue=0.6), r"jitter\.hue: 0.6; it lies between 0 and 0.5"),
        (lambda: centre_crop(share=0), r"centre_crop\.share: 0"),
    ],
)
def test_options_that_cannot_be(build, says):
    with pytest.raises(UserError, match=says):
        build()
