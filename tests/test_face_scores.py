"""Numbers of a talking face: against scipy and loops, by hand, and with intervals over groups."""

import json
import math

import numpy as np
import pytest
from scipy.ndimage import correlate

from crossfade.clip import UserError
from crossfade.evaluation.face import MEASURES, pictures
from crossfade.evaluation.face.scores import FrameScores, by_clip, by_group, by_shift, compare, concatenate, score, sensitivity, summary
from crossfade.evaluation.intervals import bounds


def faces(count=4, size=96, seed=0, noise=0.3):
    """Smooth pictures and the same with noise: (T, 3, S, S) twice, −1 … 1."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(6 * x + t) * np.cos(5 * y - channel) for t in range(count) for channel in range(3)]
    target = np.stack(waves).reshape(count, 3, size, size)
    output = np.clip(target + noise * generator.normal(size=target.shape), -1, 1)
    return output.astype(np.float32), target.astype(np.float32)


def slow_ssim(x, y):
    """Two channels (H, W) of 0 … 1 by the formula of Wang et al. 2004, the window laid over every place inside."""
    places = np.arange(11) - 5
    window = np.exp(-(places[:, None] ** 2 + places**2) / 4.5)
    window /= window.sum()

    def blur(values):
        return correlate(values, window)[5:-5, 5:-5]

    mx, my = blur(x), blur(y)
    vx, vy, both = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    return ((2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean()


def test_ssim_is_the_papers():
    output, target = faces()
    x, y = ((picture.astype(np.float64) + 1) / 2 for picture in (output, target))
    slow = [np.mean([slow_ssim(x[t, c], y[t, c]) for c in range(3)]) for t in range(4)]
    assert pictures.ssim(output, target) == pytest.approx(slow, abs=1e-5)
    rows, columns = pictures.mouth(96)
    slow = [np.mean([slow_ssim(x[t, c, rows, columns], y[t, c, rows, columns]) for c in range(3)]) for t in range(4)]
    assert pictures.ssim(output, target, pictures.mouth(96)) == pytest.approx(slow, abs=1e-5)


def test_equal_and_flat_pictures_by_hand():
    _, target = faces(2)
    assert pictures.ssim(target, target) == pytest.approx([1, 1])
    assert pictures.psnr(target, target).tolist() == [100, 100]
    dark, light = np.full((1, 3, 32, 32), -0.6, np.float32), np.full((1, 3, 32, 32), 0.4, np.float32)  # 0.2 and 0.7 of 1
    assert pictures.mae(light, dark) == pytest.approx([0.5])
    assert pictures.psnr(light, dark) == pytest.approx([-10 * math.log10(0.25)])
    assert pictures.ssim(light, dark) == pytest.approx([(2 * 0.2 * 0.7 + 1e-4) / (0.04 + 0.49 + 1e-4)], abs=1e-4)


@pytest.mark.parametrize(("size", "rows", "columns"), [(160, (44, 116), (32, 128)), (96, (26, 70), (19, 77)), (128, (35, 93), (26, 102))])
def test_the_mouth_is_in_proportion(size, rows, columns):
    assert pictures.mouth(size) == (slice(*rows), slice(*columns))


def test_only_the_mouth_counts_in_the_mouth():
    _, target = faces(1, 160)
    output = target.copy()
    output[:, :, 44:116, 32:128] += 0.5
    found = score(output, target, np.array([0]))
    assert found["mouth_mae"] == pytest.approx([0.25], abs=1e-6)
    assert found["mae"] == pytest.approx([0.25 * 72 * 96 / 160**2], abs=1e-6)
    assert found["mouth_psnr"] == pytest.approx([-20 * math.log10(0.25)], abs=1e-4)
    assert list(found) == list(MEASURES)[:8]


def test_movement_against_loops():
    output, target = faces(5)
    frames = np.array([3, 4, 6, 7, 8])
    found = pictures.temporal(output, target, frames)
    assert np.isnan(found).tolist() == [True, False, True, False, False]
    for t in (1, 3, 4):
        moved = (output[t].astype(float) - output[t - 1]) - (target[t].astype(float) - target[t - 1])
        assert found[t] == pytest.approx(np.abs(moved).mean() / 2, abs=1e-6)
    still = pictures.temporal(target + 0.1, target, frames, pictures.mouth(96))
    assert still[[1, 3, 4]] == pytest.approx([0, 0, 0], abs=1e-6), "a face that is wrong alike in every frame moves rightly"


def test_many_frames_are_the_frames_one_by_one():
    output, target = faces(70, 32)
    one_by_one = [score(output[t : t + 1], target[t : t + 1], np.array([t])) for t in range(70)]
    found = score(output, target, np.arange(70))
    for name in ("psnr", "ssim", "mae", "mouth_psnr", "mouth_ssim", "mouth_mae"):
        assert found[name] == pytest.approx(np.concatenate([one[name] for one in one_by_one]), rel=1e-5)
    assert np.isnan(found["temporal"]).sum() == 1


def test_pictures_that_do_not_belong_together_are_refused():
    output, target = faces(2, 32)
    with pytest.raises(UserError, match="shapes"):
        pictures.psnr(output[:1], target)
    with pytest.raises(UserError, match="window of 11"):
        pictures.ssim(output, target, (slice(0, 8), slice(0, 32)))


def test_sound_that_is_used_is_missed_when_shifted():
    output, target = faces(3, 32, noise=0.0)
    worse = output + 0.2
    assert sensitivity(output, worse, target) == pytest.approx([0.1] * 3, abs=1e-6)
    assert sensitivity(output, output, target).tolist() == [0, 0, 0]
    curve = by_shift({5: np.array([0.3, 0.1]), -5: np.array([0.4, 0.4]), 0: np.array([0.1, 0.1])})
    assert curve.shifts == [-5, 0, 5] and curve.best == 0
    assert curve.errors == pytest.approx([0.4, 0.1, 0.2])


def table(clips=6, frames=5, seed=0, group=lambda i: f"g{i}", split="test", **values):
    generator = np.random.default_rng(seed)
    count = clips * frames
    names = [f"clip <{i}>, \n片" for i in range(clips) for _ in range(frames)]
    groups = [group(i) for i in range(clips) for _ in range(frames)]
    columns = {"mouth_psnr": generator.normal(25, 2, count), "temporal": generator.random(count)} | values
    columns["temporal"][::frames] = np.nan
    return FrameScores(names, groups, [split] * count, np.tile(np.arange(frames), clips), columns)


def test_a_table_is_read_back_exactly(tmp_path):
    made = concatenate([table(), table(split="val", group=lambda i: f"v{i}").select(np.arange(0))])
    made.write(tmp_path / "predictions.csv")
    read = FrameScores.read(tmp_path / "predictions.csv")
    assert (read.clip, read.group, read.split, read.frame.tolist()) == (made.clip, made.group, made.split, made.frame.tolist())
    for name, column in made.values.items():
        np.testing.assert_array_equal(read.values[name], column)
    assert (tmp_path / "predictions.csv").read_text().startswith('"clip","group","split","frame","mouth_psnr","temporal"\n')
    assert len(made.where("test")) == 30 and len(made.where("val")) == 0


def test_a_broken_table_says_where(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("clip,group,split,frame,psnr\na,g,test,0,1.5\na,g,test,x,2\n")
    with pytest.raises(UserError, match=r"predictions.csv line 3: .*'x'"):
        FrameScores.read(path)
    path.write_text("clip,true\n")
    with pytest.raises(UserError, match="expected clip, group, split, frame"):
        FrameScores.read(path)
    path.write_text("")
    with pytest.raises(UserError, match="cannot be read"):
        FrameScores.read(path)
    with pytest.raises(UserError, match="there twice"):
        concatenate([table(), table()])
    with pytest.raises(UserError, match="3 entries in psnr"):
        FrameScores(["a"], ["a"], ["test"], np.array([0]), {"psnr": np.zeros(3)})


def test_means_go_over_frames_then_clips_then_groups():
    made = FrameScores(
        ["a", "a", "a", "b", "c"],
        ["x", "x", "x", "x", "y"],
        ["test"] * 5,
        np.array([0, 1, 2, 0, 0]),
        {"psnr": np.array([1.0, 2, np.nan, 5, 10])},
    )
    assert by_clip(made, "psnr") == {"a": 1.5, "b": 5, "c": 10}
    assert by_group(made, "psnr") == {"x": 3.25, "y": 10}
    found = summary(made)
    assert found["psnr"] == 6.625
    assert (found["n_frames"], found["n_clips"], found["n_groups"]) == (5, 3, 2)
    assert "2 groups" in found["notes"][0]


def test_intervals_are_the_expanded_bootstrap_over_groups():
    made = table(clips=24, group=lambda i: f"g{i // 2}", seed=3)
    values = np.array(list(by_group(made, "mouth_psnr").values()))
    generator = np.random.default_rng(99)
    drawn = np.array([generator.choice(values, 12).mean() for _ in range(4000)])
    found = summary(made)
    assert found["intervals"]["mouth_psnr"] == pytest.approx(bounds(drawn, 12), abs=0.12)
    assert found["intervals"]["mouth_psnr"][0] < found["mouth_psnr"] < found["intervals"]["mouth_psnr"][1]
    assert json.loads(json.dumps(found)) == found == summary(made), "plain numbers, the same for the same seed"


def test_a_lone_group_has_no_interval_and_what_is_nowhere_defined_no_number():
    found = summary(table(clips=2, group=lambda i: "g", sync_distance=np.full(10, np.nan)))
    assert found["intervals"]["mouth_psnr"] is None
    assert found["sync_distance"] is None and found["intervals"]["sync_distance"] is None
    with pytest.raises(UserError, match="no frame was scored"):
        summary(table().where("val"))


def test_comparison_is_paired_on_what_both_have():
    a = table(clips=12)
    better = {name: column + 0.5 for name, column in a.values.items()}
    b = FrameScores(a.clip, a.group, a.split, a.frame, better).select(np.arange(len(a))[5:][::-1])
    found = compare(b, a, "mouth_psnr", names=("with sound", "without"))
    assert (found.difference, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (found.n_clips, found.n_groups, found.verdict) == (11, 11, "with sound is better")
    assert found.value_a - found.value_b == pytest.approx(0.5)
    assert compare(b, a, "temporal", names=("with sound", "without")).verdict == "without is better", "of an error less is better"
    assert compare(a, a, "mouth_psnr").verdict == "no difference the data can show"


def test_comparison_refuses_other_frames_and_groups():
    a = table()
    with pytest.raises(UserError, match="no frame was judged"):
        compare(a, FrameScores(["z"], ["z"], ["test"], np.array([0]), {"mouth_psnr": np.ones(1)}), "mouth_psnr")
    with pytest.raises(UserError, match="the groups must agree"):
        compare(a, table(group=lambda i: "other"), "mouth_psnr")
    with pytest.raises(UserError, match="no number 'lpips'"):
        compare(a, a, "lpips")


def test_a_clip_may_have_frames_of_several_groups():
    """The held-out stretch of one long clip is judged in pieces of 3 s."""
    table = FrameScores(
        ["talk"] * 4 + ["other"],
        ["talk 0", "talk 0", "talk 75", "talk 75", "talk 75"],
        ["test"] * 5,
        [73, 74, 75, 76, 75],
        {"psnr": [1, 3, 5, 9, 1]},
    )
    assert by_group(table, "psnr") == {"talk 0": 2, "talk 75": 4}
    found = summary(table)
    assert (found["psnr"], found["n_clips"], found["n_groups"]) == (3, 2, 2)
