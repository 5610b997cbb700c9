"""Labels of the target domain are gone before anything can look at them, and back for the test."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest

from crossfade.clip import Clip, UserError
from crossfade.data.domains import Domains, split_across
from crossfade.data.split import Splits, split

DOMAINS = Domains(("phone",), ("app",))


def clip(number: int, domain: str, label: str, group: str = "") -> Clip:
    return Clip(f"{domain}/{number:03}", {}, {"label": label}, group or f"{domain}{number}", domain)


CLIPS = [clip(number, domain, "cough" if number % 5 == 0 else "other") for domain in ("phone", "app", "car") for number in range(100)]


def made(clips: list[Clip] = CLIPS, domains: Domains = DOMAINS, seed: int = 3) -> Splits:
    return split_across(clips, domains, partial(split, target="label", seed=seed))


def names(clips: list[Clip]) -> list[str]:
    return [each.id for each in clips]


def test_target_labels_are_in_test_alone():
    found = made()
    for side in (found.train, found.val):
        assert {each.domain for each in side} == {"phone", "app"}, "a third domain is nobody's"
        assert all(bool(each.labels) is (each.domain == "phone") for each in side)
    assert {each.domain for each in found.test} == {"app"} and all(each.labels for each in found.test)
    assert {each.domain for each in found.aside} == {"phone"} and all(each.labels for each in found.aside)
    target = [each for side in (found.train, found.val, found.test) for each in side if each.domain == "app"]
    assert sorted(names(target)) == sorted(each.id for each in CLIPS if each.domain == "app")


def test_permuting_target_labels_moves_nothing_but_the_test_labels():
    labels = [each.labels for each in CLIPS if each.domain == "app"]
    random.Random(1).shuffle(labels)
    permuted = [replace(each, labels=labels.pop()) if each.domain == "app" else each for each in CLIPS]
    ours, theirs = made(), made(permuted)
    assert (ours.train, ours.val, ours.aside) == (theirs.train, theirs.val, theirs.aside) and names(ours.test) == names(theirs.test)
    assert ours.test != theirs.test


def test_the_labelled_part_is_fixed_and_grows():
    shown = {}
    for share in (0.0, 0.3, 0.6, 1.0):
        found = made(domains=replace(DOMAINS, labelled=share))
        shown[share] = {each.id for each in found.train if each.domain == "app" and each.labels}
        assert all(not each.labels for each in found.val if each.domain == "app")
    assert not shown[0.0] and shown[0.3] < shown[0.6] < shown[1.0] and len(shown[1.0]) == 70
    assert 10 < len(shown[0.3]) < 32


def test_a_group_in_both_domains_is_said():
    clips = [replace(each, group=f"person {each.id[-2:]}") for each in CLIPS]
    assert any("speakers in test were heard in training, in the other domain" in warning for warning in made(clips).warnings)
    assert made().warnings == []


@pytest.mark.parametrize(
    ("domains", "said"),
    [
        (Domains(("phone",), ("web",)), r"data.domains.target: found 'web'; the corpus has the domains 'app', 'car', 'phone'"),
        (Domains((), ("app",)), r"data.domains.source: found nothing"),
        (Domains(("app",), ("app",)), r"'app' is a source and a target at once"),
    ],
)
def test_domains_that_are_not_there(domains, said):
    with pytest.raises(UserError, match=said):
        made(domains=domains)
