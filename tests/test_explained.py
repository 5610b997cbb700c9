"""The page of one clip and the page of robustness: self-contained, escaped, and the heat lies where the relevance is."""

import base64
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from crossfade.clip import UserError
from crossfade.evaluation import explained, overlay, robustness
from crossfade.evaluation.explained import Explained, HeadAnswer, HeardSound, Occlusion, SeenFrames
from tests.test_report import Page


def content(**changes):
    relevance = np.zeros((2, 4, 4))
    relevance[1, 0, 3] = 1.0
    values = {
        "title": "Clip <i>7</i>",
        "clip": "S1_C3_<x>",
        "heads": [
            HeadAnswer("species", "fox", "wolf", {"fox": 0.7, "wolf": 0.3}, {"fox": {"audio": 0.15, "video": 0.3}}, {"fox": 0.25}),
            HeadAnswer("actions", "grazing", "", {"grazing": 0.9}),
        ],
        "frames": [SeenFrames("video", np.full((16, 3, 60, 80), 128, np.uint8), relevance)],
        "sounds": [HeardSound("audio", np.random.default_rng(0).normal(size=(64, 100)), relevance[1], 3.0, wav=b"RIFF")],
        "occlusions": [Occlusion("video", "species", "fox", 0.7, 0.2, np.full(20, 0.65))],
        "command": "crossfade explain RUN CLIP",
    }
    return Explained(**{**values, **changes})


def test_the_page_holds_all_and_needs_nothing_else(tmp_path):
    path = explained.write_page(tmp_path / "clip.html", content())
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    sources = re.findall(r'src="([^"]{11})', html)
    assert len(sources) == 2 * 8 + 2 + 1 and set(sources) == {"data:image/", "data:audio/"} and "http:" not in html and "https:" not in html
    for said in (
        "species: fox",
        "✗ wrong, true is wolf",
        "What is true is not known",
        "S1_C3_<x>",
        "The map points at what the answer rests on",
    ):
        assert said in " ".join(page.text.split()).replace(" ,", ","), said
    assert "fox: 25.0 without any stream, audio +15.0, video +30.0: 70.0 of 100" in page.text
    bare = Page(explained.page(Explained("t", "c", [])))
    assert "Where it looked" not in bare.text and "Does the map" not in bare.text


def pixels(markup):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", markup).group(1)))).convert("RGB")).astype(int)


def test_heat_lies_where_the_relevance_is():
    seen = content().frames[0]
    pictures = overlay.over_frames(seen.frames, seen.relevance)
    assert len(pictures) == 8
    changed = [np.abs(pixels(p["hot"]) - pixels(p["plain"])).sum(2) for p in pictures]
    assert changed[0].shape == (168, 224) and max(c.max() for c in changed[:4]) < 8  # step 0, the first half, has no relevance
    corner, rest = changed[5][:40, 190:], changed[5][90:, :100]
    assert corner.mean() > 60 and rest.max() < 8


def test_low_sounds_and_their_heat_are_at_the_bottom():
    spectrogram, relevance = np.zeros((64, 100)), np.zeros((1, 8, 10))
    spectrogram[:8], relevance[0, 0, :5] = 1.0, 1.0
    shown = overlay.over_spectrogram(spectrogram, relevance)
    plain, hot = pixels(shown["plain"]), pixels(shown["hot"])
    assert plain.shape == (200, 640, 3) and plain[185:].mean() > 200 and plain[:160].mean() < 10
    assert np.abs(hot - plain)[190:, :280].mean() > 20 and np.abs(hot - plain)[:150].mean() < 3


def test_relevance_is_relative_and_none_stays_none():
    assert overlay.relative(np.zeros((1, 2, 2))).max() == 0
    np.testing.assert_allclose(overlay.relative(np.full((1, 2, 2), 3.0)), 1.0)
    grey = np.full((4, 4, 3), 90, np.uint8)
    assert (overlay.blended(grey, np.zeros((4, 4))) == grey).all()


@pytest.mark.parametrize(
    ("relevant", "random", "said"),
    [
        (0.2, [0.65] * 20, "points at what"),
        (0.66, [0.65] * 20, "do not trust"),
        (0.63, [0.65] * 20, "a little better than chance"),
        (0.5, [0.45] * 8 + [0.69] * 12, "a little better than chance"),
    ],
)
def test_a_map_is_believed_only_where_hiding_it_costs_more_than_chance(relevant, random, said):
    assert said in explained.verdict(Occlusion("video", "h", "c", 0.7, relevant, np.array(random)))


CURVES = {
    "audio <b>": [(-10, 0.2, 0.1, 0.3), (0, 0.4, 0.3, 0.5), (20, 0.8, None, None), (math.inf, 0.9, 0.85, 0.95)],
    "video": [(-10, 0.6, 0.5, 0.7), (20, 0.6, 0.5, 0.7)],
}


def test_curves_rise_to_the_right_with_clean_last():
    figure = robustness.figure(CURVES, "Macro-F1", "SNR, dB")
    spots = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', figure)]
    audio, video = spots[:4], spots[4:]
    assert [x for x, _ in audio] == sorted(x for x, _ in audio) and [y for _, y in audio] == sorted((y for _, y in audio), reverse=True)
    assert video[0][0] == audio[0][0] and video[1][0] == audio[2][0] and video[0][1] == pytest.approx(video[1][1])
    assert audio[3][0] - audio[2][0] == pytest.approx((audio[2][0] - audio[0][0]) / 2, abs=0.1)  # as far as levels are apart on average
    assert ">clean</text>" in figure and figure.count("reach-band") == 2 and "<b>" not in figure


def test_the_robustness_page_holds_every_value(tmp_path):
    path = robustness.write_page(tmp_path / "r.html", "Noise", CURVES, "Macro-F1", "SNR, dB", said=["It holds."], basis="240 clips")
    page = Page(path.read_text(encoding="utf-8"))
    for said in ("audio <b>", "20.0%", "10.0% – 30.0%", "no interval", "clean", "It holds.", "240 clips"):
        assert said in page.text, said
    assert page.tags.count("td") == 2 * 4


@pytest.mark.parametrize("curves", [{}, {"a": []}, {"a": [(math.nan, 0.5, None, None)]}])
def test_curves_without_levels_are_refused(curves):
    with pytest.raises(UserError, match="levels"):
        robustness.figure(curves, "Macro-F1", "SNR")


def test_a_single_level_can_be_drawn():
    assert robustness.figure({"a": [(math.inf, 0.5, None, None)]}, "Macro-F1", "SNR").count("<circle") == 1
