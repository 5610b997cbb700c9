"""Following one face through scripted detections: whom, how smoothly, and which pictures are dropped for what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossfade.clip import UserError
from crossfade.data.face import track as tracking
from crossfade.data.face.prepared import Stretch
from crossfade.data.face.track import CROWDED, GONE, JUMPS, OUTSIDE, SMALL, Face, Rules, stretches, track

PLAIN = Rules(smooth=0, smooth_side=0)


def face(left: float = 200, top: float = 100, width: float = 100, height: float = 140) -> Face:
    return Face(left, top, width, height, top + 0.4 * height)


@pytest.fixture
def scripted(monkeypatch):
    """`scripted(faces of each picture, …)` -> the track, and `looked`: which pictures the detector was shown."""
    looked: list[int] = []

    def run(script: list[list[Face]], rules: Rules = PLAIN, size: tuple[int, int] = (480, 640)):
        def faces_in(find, picture):
            number = int(picture[0, 0, 0])
            looked.append(number)
            return sorted(script[number])

        monkeypatch.setattr(tracking, "load", lambda path: None)
        monkeypatch.setattr(tracking, "faces_in", faces_in)
        frames = (np.full((*size, 3), number, np.uint8) for number in range(len(script)))
        return track(frames, Path("a.onnx"), rules=rules)

    run.looked = looked
    return run


def test_the_box_around_a_face(scripted):
    """eyes 156, chin 240: top = 156 + 0.096 · 84 = 164.064; side = max(1.056 · 100, (240 − 164.064) / 0.9 = 84.4) = 105.6."""
    found = scripted([[face()]] * 3)
    assert found.boxes.dtype == np.float32 and found.kept.tolist() == [True] * 3 and not found.dropped
    assert found.boxes[0].tolist() == pytest.approx([250 - 52.8, 164.064, 250 + 52.8, 164.064 + 105.6], abs=1e-3)
    long = scripted([[face(width=70, height=210)]]).boxes[0]  # eyes 184, chin 310: top 196.096, side (310 − 196.096) / 0.9
    assert long[3] - long[1] == pytest.approx(126.56, abs=1e-2) and long[1] + 0.9 * 126.56 == pytest.approx(310, abs=1e-2)


def test_the_largest_of_the_first_picture_and_never_another(scripted):
    """A larger face comes later, and stays when the one that is followed leaves."""
    mine, other = face(width=120, height=160), face(left=400, width=80)
    script = [[], [mine, other], *[[mine, other]] * 8, *[[mine, face(left=400, width=200, height=250)]] * 10, *[[other]] * 10]
    found = scripted(script)
    assert found.kept.tolist() == [False] + [True] * 19 + [False] * 10
    assert np.ptp(found.boxes, axis=0).max() < 1e-3, "and the box stays where the face was"
    assert found.dropped == [Stretch(0, 0, GONE), Stretch(20, 29, GONE)]
    assert found.notes == ["2 faces in 19 of 30 pictures; followed the largest"]


def test_short_gaps_are_interpolated_and_long_ones_dropped(scripted):
    moving = [[face(left=200 + 4 * number)] for number in range(30)]
    script = [*moving[:6], [], [], [], *moving[9:15], [], [], [], [], *moving[19:]]
    found = scripted(script)
    assert found.dropped == [Stretch(15, 18, GONE)]
    assert np.diff(found.boxes[:15, 0]).tolist() == pytest.approx([4] * 14, abs=1e-3)
    assert found.boxes[15:19, 0].tolist() == pytest.approx([found.boxes[0, 0] + 4 * number for number in range(15, 19)], abs=1e-3)


def test_a_jump_is_dropped_and_nothing_is_smoothed_across_it(scripted):
    """27 pixels are more than a quarter of 105.6, 26 are not."""
    found = scripted([[face()]] * 10 + [[face(left=227)]] * 10, Rules())
    assert found.dropped == [Stretch(10, 10, JUMPS)]
    assert np.ptp(found.boxes[:10, 0]) < 1e-3 and np.ptp(found.boxes[10:, 0]) < 1e-3
    assert found.boxes[10, 0] - found.boxes[9, 0] == pytest.approx(27, abs=1e-3)
    assert not scripted([[face()]] * 10 + [[face(left=226)]] * 10).dropped


def test_small_outside_and_crowded(scripted):
    assert scripted([[face(width=63)]] * 4).dropped == [Stretch(0, 3, SMALL)]
    assert not scripted([[face(width=63)]] * 4, Rules(min_size=60)).dropped
    sliding = scripted([[face(left=200 - 8 * number)] for number in range(40)], PLAIN)  # x0 = 197.2 − 8 n; −10.56 is the tenth
    assert sliding.dropped == [Stretch(26, 39, OUTSIDE)]
    low = [face(top=345)], [face(top=355)]  # chins at 485 and 495 of 480 rows: 5 and 15 pixels outside
    assert scripted([low[0]] * 3).kept.all() and not scripted([low[1]] * 3).kept.any()
    assert scripted([low[0]] * 3).notes == ["the picture ends below the chin in 3 pictures; up to 33% of a crop repeats its edge"]
    assert scripted([[face(), face(left=280)]] * 4).dropped == [Stretch(0, 3, CROWDED)]
    assert scripted([[face(), face(left=320)]] * 4).kept.all()


def test_a_face_at_the_edge_is_as_large_as_it_was(scripted):
    """Detections end where the picture does: 60 of 100 pixels are seen, so 40 are outside, and the middle of the box is at 60 − 50."""
    found = scripted([[face(left=6)]] * 3 + [[face(left=0, width=80)]] * 2 + [[face(left=0, width=60)]] * 3)
    assert found.boxes[-1].tolist() == pytest.approx([10 - 52.8, 164.064, 10 + 52.8, 164.064 + 105.6], abs=1e-3)
    assert found.dropped == [Stretch(3, 7, OUTSIDE)]
    right = scripted([[face(left=520)]] * 3 + [[face(left=560, width=80)]] * 3).boxes[-1]
    assert (right[0] + right[2]) / 2 == pytest.approx(610, abs=1e-3)
    low = scripted([[face(top=320)]] * 3 + [[Face(200, 350, 100, 130, 406)]] * 3).boxes[-1]  # the chin at 490, not 480
    assert low[1] == pytest.approx(406 + 0.096 * 84, abs=1e-3)


def test_smoothing_is_a_centred_average(scripted):
    """0.12 s are 3 pictures to each side, of which there are fewer at the ends."""
    lefts = 200 + np.random.default_rng(0).normal(0, 2, 31)
    found = scripted([[face(left=left)] for left in lefts], Rules())
    padded = [lefts[max(k - 3, 0) : k + 4].mean() + 50 for k in range(31)]
    looked = np.array([(a + b) / 2 for a, b in found.boxes[:, [0, 2]]])
    assert np.abs(looked - padded).max() < 1.5, "every second picture is looked at, so not to the bit"
    shaken = 11.0 * (np.arange(31) // 2 % 2)  # more than a tenth of the width: all are looked at
    exact = scripted([[face(left=200 + moved)] for moved in shaken], Rules()).boxes
    wanted = [250 + shaken[max(k - 3, 0) : k + 4].mean() for k in range(31)]
    assert ((exact[:, 0] + exact[:, 2]) / 2).tolist() == pytest.approx(wanted, abs=1e-3)


def test_calm_pictures_are_not_looked_at(scripted):
    scripted([[face(left=200 + number)] for number in range(21)])
    assert scripted.looked == list(range(0, 21, 2))
    scripted.looked.clear()
    found = scripted([[face()]] * 4 + [[face(left=215)]] * 4)
    assert sorted(scripted.looked) == [0, 2, 3, 4, 6, 7], "where it moved, and the last"
    assert found.boxes[3, 0] == pytest.approx(found.boxes[0, 0]) and found.boxes[4, 0] == pytest.approx(found.boxes[0, 0] + 15)


def test_no_face_and_no_detector(scripted, tmp_path):
    with pytest.raises(UserError, match="no face in any of 5 pictures"):
        scripted([[]] * 5)
    with pytest.raises(UserError, match="no face in any of 0 pictures"):
        scripted([])


def test_a_detector_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"^--detector: .*none\.onnx: no such file; give a YuNet face detector"):
        track([], tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    pytest.importorskip("cv2")
    with pytest.raises(UserError, match=r"^--detector: .*bad\.onnx is not a YuNet detector"):
        track([], tmp_path / "bad.onnx")


def test_stretches():
    assert stretches(["", "a", "a", "b", "", "a"]) == [Stretch(1, 2, "a"), Stretch(3, 3, "b"), Stretch(5, 5, "a")]
