"""The square around a face: the reference's constants, resampling against OpenCV and by hand, and what a paste may change."""

from __future__ import annotations

import numpy as np
import pytest

from crossfade.data.face.crop import CROPS, as_picture, as_values, covered, cut, face_input, feather, inner, paste

CROP = CROPS[160]


def noise(height: int = 220, width: int = 260, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(height: int = 240, width: int = 250) -> np.ndarray:
    """Red is the column, green the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8)


def test_the_sizes_are_the_references():
    crop = CROPS[160]
    assert (crop.outer, crop.edge, crop.mask) == (168, 4, (5, 5, 150, 145))
    crop = CROPS[128]
    assert (crop.outer, crop.edge, crop.mask) == (134, 3, (4, 4, 120, 120))
    for size, crop in CROPS.items():
        assert crop.size == size == crop.outer - 2 * crop.edge
        x, y, width, height = crop.mask
        assert x > 0 and y > 0 and x + width < size and y + height < size


@pytest.mark.parametrize("box", [(20, 10, 220, 210), (3, 5, 171, 173), (0, 0, 260, 220)])
def test_whole_pixels_shrink_as_opencv_does_by_area(box):
    cv2 = pytest.importorskip("cv2")
    picture = noise()
    x0, y0, x1, y1 = box
    wanted = cv2.resize(picture[y0:y1, x0:x1], (168, 168), interpolation=cv2.INTER_AREA)
    assert np.abs(cut(picture, box, CROP).astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("box", [(20.25, 30.5, 220.75, 231.0), (60.3, 70.2, 140.3, 150.2), (10.0, 10.0, 178.0, 178.0)])
def test_fractions_of_pixels_count(box):
    """A ramp stays a ramp, shrunk (the first) or enlarged (the second): output pixel i shows the middle of its stretch."""
    made = cut(ramp(), box, CROP)
    step = (box[2] - box[0]) / 168
    columns = box[0] + (np.arange(168) + 0.5) * step - 0.5
    rows = box[1] + (np.arange(168) + 0.5) * (box[3] - box[1]) / 168 - 0.5
    assert np.abs(made[..., 0] - columns[None, :]).max() <= 0.5 + 1e-3
    assert np.abs(made[..., 1] - rows[:, None]).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("box", [(-30.5, -20.25, 150.5, 160.75), (180, 150, 320, 290), (-20, 100, 60, 180), (300, 0, 400, 100)])
def test_beyond_the_picture_its_edges_are_repeated(box):
    picture = noise()
    wide = np.pad(picture, ((200, 200), (200, 200), (0, 0)), mode="edge")
    moved = [value + 200 for value in box]
    assert np.abs(cut(picture, box, CROP).astype(int) - cut(wide, moved, CROP)).max() <= 1


def test_inner_covered_and_values():
    outer = np.stack([noise(168, 168, seed) for seed in range(2)])
    face = inner(outer, CROP)
    assert face.shape == (2, 160, 160, 3) and np.array_equal(face[1], outer[1, 4:164, 4:164])
    before = face.copy()
    black = covered(face, CROP)
    assert np.array_equal(face, before) and not black[:, 5:150, 5:155].any()
    left = np.ones((160, 160), bool)
    left[5:150, 5:155] = False
    assert np.array_equal(black[:, left], face[:, left])
    values = as_values(face)
    assert values.dtype == np.float32 and values.shape == (2, 3, 160, 160) and values.flags.c_contiguous
    assert values[1, 2, 7, 9] == pytest.approx((int(face[1, 7, 9, 2]) - 127.5) / 127.5)
    assert np.array_equal(as_picture(values), face)
    scale = np.array([-1.2, -1.0, 0.5, 1.0, 1.2]).reshape(1, 1, 5).repeat(3, 0)
    assert as_picture(scale)[0, :, 0].tolist() == [0, 0, 191, 255, 255]  # 1.5 · 127.5 = 191.25


def test_what_the_network_is_given():
    reference, target = noise(160, 160, 1), noise(160, 160, 2)
    given = face_input(reference, target, CROP)
    assert given.shape == (6, 160, 160) and given.dtype == np.float32
    assert np.array_equal(given[:3], as_values(reference)) and np.array_equal(given[3:, :5], as_values(target)[:, :5])
    assert (given[3:, 5:150, 5:155] == -1).all()


@pytest.mark.parametrize("size", CROPS)
def test_the_feather_is_soft_and_within_the_mask(size):
    crop = CROPS[size]
    weight = feather(crop)
    x, y, width, height = crop.mask
    assert weight.shape == (size, size) and weight.dtype == np.float32 and weight.min() == 0 and weight.max() == 1
    outside = weight.copy()
    outside[y + 1 : y + height - 1, x + 1 : x + width - 1] = 0
    assert not outside.any()
    middle = weight[size // 2]
    assert (middle[int(0.2 * size) : int(0.8 * size)] == 1).all() and np.abs(np.diff(middle)).max() < 0.16


BOX = (40.4, 30.7, 190.9, 181.2)


def test_a_paste_changes_nothing_where_the_weight_is_nothing():
    picture, before = noise(), noise()
    pasted = paste(picture, BOX, noise(160, 160, 3), CROP)
    assert np.array_equal(picture, before), "in place"
    changed = np.argwhere((pasted != picture).any(axis=2))
    scale = (BOX[2] - BOX[0]) / 168
    left, top = BOX[0] + 9 * scale, BOX[1] + 9 * scale
    assert changed[:, 1].min() >= int(left) and changed[:, 1].max() <= int(left + 150 * scale) + 1
    assert changed[:, 0].min() >= int(top) and changed[:, 0].max() <= int(top + 145 * scale) + 1


@pytest.mark.parametrize("box", [BOX, (10.0, 10.0, 178.0, 178.0), (5.2, 8.1, 230.7, 233.6), (-40.5, -30, 120, 130.5), (150, 120, 300, 270)])
def test_a_face_goes_back_where_it_was_cut(box):
    picture = ramp(240, 250)
    pasted = paste(picture, box, inner(cut(picture, box, CROP), CROP), CROP)
    inside = pasted[1:-1, 1:-1].astype(int) - picture[1:-1, 1:-1]  # where edges are repeated the ramp ends
    assert np.abs(inside).max() <= 1


def test_inside_the_made_face_is_shown_at_its_place():
    """A box of 168 pixels: one to one. The middle is the made face, the blend (1 − w) · old + w · new."""
    picture, made = noise(), noise(160, 160, 4)
    pasted = paste(picture, (20, 30, 188, 198), made, CROP)
    old, weight = picture[34:194, 24:184].astype(float), feather(CROP)[..., None]
    assert np.abs(pasted[34:194, 24:184] - (old * (1 - weight) + made * weight)).max() <= 0.51
    assert np.array_equal(pasted[34 + 60 : 34 + 100, 24 + 60 : 24 + 100], made[60:100, 60:100])


def test_a_face_outside_the_picture_is_dropped():
    picture = noise()
    for box in ((400, 10, 500, 110), (-200, -200, -50, -50)):
        assert np.array_equal(paste(picture, box, noise(160, 160, 5), CROP), picture)
