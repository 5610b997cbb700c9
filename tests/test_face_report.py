"""The page of a talking face: one file, honest sentences, strips that show the right pixels, also before anything is judged."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from test_report import Page

from crossfade.evaluation.face import MEASURES, words
from crossfade.evaluation.face.report import Baseline, FaceReport, Strip, render_report, write_report
from crossfade.evaluation.face.scores import FrameScores, by_shift, compare, summary
from crossfade.evaluation.face.strips import LETTERS, encoded, film_strip, strip, worst_and_best
from crossfade.evaluation.intervals import Comparison

NAMES = ("with sound", "without sound")


def table(offset=0.0, noise=0.3, seed=0, clips=12, frames=6):
    generator = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(clips) for _ in range(frames)]
    level = np.repeat(np.random.default_rng(5).normal(25, 2, clips), frames) + offset + noise * generator.normal(size=clips * frames)
    values = {
        "mouth_psnr": level,
        "mouth_ssim": level / 40,
        "mouth_mae": 1 / level,
        "sensitivity": 0.002 + 0.001 * generator.random(len(level)),
    }
    return FrameScores(names, list(names), ["test"] * len(names), np.tile(np.arange(frames), clips), values)


def full(**changes):
    run, silent = table(), table(-0.5, seed=1)
    baseline = Baseline("without sound", summary(silent), [compare(run, silent, "mouth_psnr", names=NAMES)], "trained with <silence>")
    history = [{"phase": "face", "epoch": e, "train": {"loss": 1 / e}, "val": {"mouth_psnr": 20.0 + e}, "best": e == 2} for e in (1, 2, 3)]
    values = {
        "title": "Grid <b>讲话</b>",
        "warnings": ["one <i>speaker</i> only"],
        "metrics": {"test": summary(run), "val": summary(silent)},
        "history": history,
        "strips": [Strip("Worst <mouths>", encoded(film_strip(*[np.zeros((2, 3, 32, 32))] * 2, [0, 1]), "PNG"))],
        "baselines": [baseline],
        "curve": by_shift({shift: np.array([0.01 + 0.001 * abs(shift)]) for shift in range(-5, 6)}),
        "parameters": {"face": 7_506_139},
        "recipe": "model: <face_unet>",
        "command": "crossfade train face",
        "notes": ["12 frames were dropped"],
        "group_name": "sentence",
        "name": "with sound",
    }
    return FaceReport(**values | changes)


def test_the_page_is_whole_escaped_and_needs_nothing_else(tmp_path):
    path = write_report(tmp_path / "report.html", full())
    page = Page(path.read_text(encoding="utf-8"))
    assert "script" not in page.tags and "link" not in page.tags
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")
    for text in (
        "Grid <b>讲话</b>",
        "one <i>speaker</i> only",
        "trained with <silence>",
        "Worst <mouths>",
        "model: <face_unet>",
        "7,506,139",
    ):
        assert text in page.text
    assert "Judged on 72 frames of 12 sentences" in page.text
    assert words.CONSENT in page.text


def test_the_page_says_what_the_intervals_allow():
    text = Page(render_report(full())).text
    found = compare(table(), table(-0.5, seed=1), "mouth_psnr", names=NAMES)
    assert found.low is not None and found.low > 0
    assert f"“with sound” beats “without sound” in PSNR, mouth: with sound − without sound is +{found.difference:.2f} dB" in text
    assert "over 12 sentences" in text
    assert "The mouth follows the sound: shifted by five frames" in text
    assert "The error is least where picture and sound are as they were in training" in text
    assert "LPIPS was not computed" in text and "SyncNet's distance and confidence were not computed" in text


def test_an_unfinished_run_has_a_page():
    text = Page(render_report(full(metrics={}, baselines=[], curve=None))).text
    assert words.UNFINISHED in text and words.CONSENT in text
    assert "Learning" in text and "Frames" in text and "What these numbers mean" not in text
    assert "Judged" not in text
    assert words.UNFINISHED in Page(render_report(FaceReport("begun"))).text


def test_validation_alone_is_called_so():
    assert "of validation" in Page(render_report(full(metrics={"val": summary(table())}))).text


def test_claims_by_hand():
    def said(metric, low, high, verdict="no difference the data can show"):
        middle = None if low is None else (low + high) / 2
        return words.claim(Comparison(metric, "a", "b", 2.0, 1.0, middle or 1.0, low, high, 48, 48, verdict, "One group."), "sentence")

    assert (
        said("mouth_psnr", 0.2, 0.6, "a is better") == "“a” beats “b” in PSNR, mouth: a − b is +0.40 dB [+0.20, +0.60] over 48 sentences."
    )
    assert said("mouth_mae", 0.002, 0.006, "b is better").startswith("“b” beats “a” in mean error, mouth: a − b is +0.0040 [")
    assert "no difference that these clips can show (+0.10 dB [−0.10, +0.30]" in said("psnr", -0.1, 0.3)
    assert said("psnr", None, None).endswith("cannot be said: One group.")


@pytest.mark.parametrize(
    ("ends", "start"),
    [([0.001, 0.003], "The mouth follows"), ([-0.001, 0.003], "This does not show"), (None, "Sound shifted by five frames changes")],
)
def test_sensitivity_is_claimed_only_above_zero(ends, start):
    assert words.reading({"sensitivity": 0.002, "intervals": {"sensitivity": ends}})[0].startswith(start)


def test_sound_out_of_step_is_said():
    curve = by_shift({shift: np.array([abs(shift + 2.0)]) for shift in range(-5, 6)})
    assert "the sound comes −2 frames late (−80 ms)" in words.in_step(curve)


def test_every_measure_has_a_meaning():
    assert all(words.meaning(name) for name in MEASURES)


def flat(value):
    return np.full((3, 32, 32), value, dtype=np.float32)


def pixel(image, row, column, rows):
    """The middle of a picture of a sheet, counted from its right lower corner, as labels stand left and above."""
    width, height = image.size
    return image.getpixel((width - 16 - 35 * (1 - column), height - 16 - 35 * (rows - 1 - row)))


def test_a_strip_shows_each_picture_in_its_row():
    image = strip([("frame 1", flat(0.0), flat(-1.0), flat(0.1)), ("frame 2", flat(1.0), flat(0.5), flat(-1.0))])
    assert [pixel(image, row, 0, 4)[0] for row in range(4)] == [128, 0, 140, 51], "a difference of 0.05 of 1 is shown as 0.2"
    assert [pixel(image, row, 1, 4)[0] for row in range(4)] == [255, 191, 0, 255]
    assert image.size[1] == LETTERS + 8 + 4 * 35 - 3


def test_a_film_strip_and_its_files():
    target, output = np.stack([flat(-1.0), flat(0.0), flat(1.0)]), np.stack([flat(1.0), flat(0.0), flat(-1.0)])
    image = film_strip(target, output, [0, 2])
    assert [[pixel(image, row, column, 2)[0] for column in (0, 1)] for row in (0, 1)] == [[0, 255], [255, 0]]
    for kind in ("JPEG", "PNG"):
        assert Image.open(io.BytesIO(encoded(image, kind))).size == image.size


def test_worst_and_best_come_from_different_clips():
    made = FrameScores(
        list("aabbcc"), list("aabbcc"), ["test"] * 6, np.array([0, 1] * 3), {"mouth_mae": np.array([0.1, 0.9, 0.2, 0.3, np.nan, 0.5])}
    )
    worst, best = worst_and_best(made, 2)
    assert [(one.clip, one.frame, one.value) for one in worst] == [("a", 1, 0.9), ("c", 1, 0.5)]
    assert [(one.clip, one.frame, one.value) for one in best] == [("b", 0, 0.2)]


def test_curves_of_the_page_are_drawn_by_epoch():
    html = render_report(full())
    assert len(re.findall(r'aria-label="[^"]* by epoch"', html)) == 2, "loss and PSNR; what is not in the history has no chart"
    assert html.count('class="ring"') == 3, "the kept epoch in both, and the best shift"


def test_what_is_too_small_or_rests_on_too_few_is_not_claimed():
    """After six steps of training a network drew noise, and the page said that its mouth followed the sound."""
    ends = {"sensitivity": [1e-6, 2e-6]}
    assert words.reading({"sensitivity": 1.5e-6, "mouth_mae": 0.1, "n_groups": 58, "intervals": ends})[1].startswith("This does not show")
    few = {"sensitivity": 0.01, "mouth_mae": 0.1, "n_groups": 2, "intervals": {"sensitivity": [0.009, 0.011]}}
    assert words.reading(few)[1].startswith("This does not show")
    tiny = Comparison("mouth_psnr", "a", "b", 2.0, 2.0, 0.001, 0.0005, 0.002, 48, 48, "a is better", "")
    assert "no difference that these clips can show" in words.claim(tiny)
    rough = Comparison("mouth_psnr", "a", "b", 3.0, 2.0, 1.0, 0.9, 1.1, 2, 2, "a is better", "")
    said = words.claim(rough, "stretch of 3 s")
    assert "2 stretches of 3 s are too few to say (+1.00 dB" in said
    level = by_shift({shift: np.array([0.1 + 1e-6 * shift]) for shift in range(-5, 6)})
    assert "hardly depends on when the sound comes" in words.in_step(level)
