"""Events are matched one to one, by onset or by overlap, and the picture shows each where it is."""

import re
from itertools import permutations
from xml.etree import ElementTree

import numpy as np
import pytest

from crossfade.evaluation.events import MATCHING, Event, by_onset, by_overlap, intersection_over_union, matches
from crossfade.evaluation.timeline import Track, envelope, row_seconds, timeline


def coughs(*spans):
    return [Event(start, end, "cough") for start, end in spans]


TRUE = [*coughs((1.0, 1.5), (3.0, 3.6), (7.0, 7.4)), Event(9.0, 9.5, "throat")]
FOUND = [*coughs((1.1, 1.6), (3.19, 3.5), (5.0, 5.5), (9.0, 9.5)), Event(7.0, 7.4, "throat")]


def test_by_hand():
    """By onset 1.1 and 3.19 are right; 5.0 is nothing, 9.0 and 7.0 are of the other class. By overlap 0.4/0.6 and 0.31/0.6."""
    onset, overlap = by_onset(FOUND, TRUE), by_overlap(FOUND, TRUE)
    assert (onset.matched, onset.predicted, onset.true) == (2, 5, 4)
    assert (onset.precision, onset.recall, onset.f1) == pytest.approx((2 / 5, 2 / 4, 4 / 9))
    assert onset.per_class["cough"].f1 == pytest.approx(4 / 7) and onset.per_class["throat"].f1 == 0
    assert overlap.matched == 2 and by_overlap(FOUND, TRUE, overlap=0.6).matched == 1
    assert by_onset(FOUND, TRUE, collar=0.15).matched == 1
    assert (onset.by, overlap.by) == ("onsets within 0.2 s", "intersection over union ≥ 0.5")
    assert set(MATCHING) == {"onset", "overlap"}


def test_overlap_of_two_events():
    (a, b), (c,) = coughs((0, 2), (1, 4)), coughs((5, 6))
    assert intersection_over_union(a, b) == pytest.approx(1 / 4)
    assert intersection_over_union(a, c) == 0 and intersection_over_union(a, a) == 1


def test_an_event_belongs_to_one_pair_only():
    assert by_onset(coughs((1, 2), (1.05, 2), (1.1, 2)), coughs((1, 2))).matched == 1
    # the first could take either; taken greedily it would leave the second without one
    assert by_onset(coughs((1.15, 2), (1.3, 2)), coughs((1.0, 2), (1.3, 2))).matched == 2
    assert by_onset(coughs((1.15, 2), (0.9, 2)), coughs((1.0, 2), (1.3, 2))).matched == 2


def test_the_most_pairs_as_by_trying_all():
    generator = np.random.default_rng(0)
    for _ in range(40):
        found, real = (coughs(*((at, at + 0.5) for at in generator.uniform(0, 1.5, generator.integers(1, 6)))) for _ in range(2))

        def same(a, b):
            return abs(a.start - b.start) <= 0.2

        few, many = sorted((found, real), key=len)
        best = max(sum(same(a, b) for a, b in zip(few, order, strict=False)) for order in permutations(many))
        assert matches(found, real, same) == best


def test_nothing_found_and_nothing_there():
    assert (by_onset([], TRUE).recall, by_onset(FOUND, []).precision, by_onset([], []).f1) == (0, 0, 0)
    assert by_onset([], TRUE).true == 4


def test_the_envelope_holds_every_peak():
    samples = np.random.default_rng(0).normal(size=1003)
    found = envelope(samples, 10)
    assert found.shape == (2, 10)
    assert (found[0].min(), found[1].max()) == (samples.min(), samples.max())
    assert envelope(samples[:3], 10).tolist() == [samples[:3].tolist()] * 2
    assert envelope(np.zeros(0), 10).shape == (2, 0)


@pytest.mark.parametrize(("seconds", "expected"), [(4.0, 4.0), (100, 10), (600, 60), (3600, 300), (40_000, 3600), (50_000, 4167)])
def test_at_most_twelve_rows(seconds, expected):
    assert row_seconds(seconds) == expected


def test_the_picture_has_every_event_where_it_is():
    sound = envelope(np.sin(np.arange(8000)), 500)
    events = [Event(10.0, 12.0, "咳 <b>", 0.9), Event(58.0, 62.0, "cough", 0.7)]
    track = Track([0.0, 0.5, 1.0, 20.0, 20.5], [0.1, 1.0, 0.2, 0.3, 0.4], "cough", threshold=0.5)
    drawn = timeline(sound, 600.0, events, track=track, skipped=[(5.0, 9.0)], title="night & day.wav")
    root = ElementTree.fromstring(drawn)
    assert root.tag.endswith("svg") and "<b>" not in drawn and "night &amp; day.wav" in drawn
    boxes = [node for node in root.iter() if node.get("class") == "event"]
    assert len(boxes) == 3  # the second goes over the end of a row of 60 s
    unit = (1200 - 64 - 16) / 60
    assert float(boxes[0].get("x", 0)) == pytest.approx(64 + 10 * unit, abs=0.01)
    assert [float(box.get("width", 0)) for box in boxes] == pytest.approx([2 * unit] * 3, abs=0.01)
    assert "咳 <b> 10.00 – 12.00 s, 90%" in [node.text for node in root.iter() if node.tag.endswith("title")]
    lines = [node.get("d") for node in root.iter() if node.get("class") == "track"]
    assert len(lines) == 10 and re.findall("[ML]", lines[0] or "") == list("MLLML")  # broken where nothing was listened to
    assert "10:00" in drawn


@pytest.mark.parametrize("seconds", [0.0, 0.64])
def test_a_picture_of_very_little(seconds):
    ElementTree.fromstring(timeline(envelope(np.zeros(int(seconds * 100)), 50), seconds, []))
