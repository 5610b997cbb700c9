"""Labels of the target domain are gone before anything can look at them, and back for the test."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from crossfade import readiness
from crossfade import recipe as recipes
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
        (
            Domains(("cold",), ("hot",)),
            r"says source cold and target hot, but .*'phone'; name them: data.domains={source: \[…\], target",
        ),
        (Domains((), ("app",)), r"data.domains.source: found nothing"),
        (Domains(("app",), ("app",)), r"'app' is a source and a target at once"),
    ],
)
def test_domains_that_are_not_there(domains, said):
    with pytest.raises(UserError, match=said):
        made(domains=domains)


def test_a_folder_without_clips_is_said_to_be_empty_and_a_corpus_may_have_no_domains(tmp_path: Path):
    (tmp_path / "app").mkdir()
    clips = [replace(each, media={"audio": tmp_path / "phone" / "cough" / "1.wav"}) for each in CLIPS if each.domain == "phone"]
    with pytest.raises(UserError, match=r"target: found 'app', a folder without any clip; the corpus has the domains 'phone'"):
        made(clips)
    with pytest.raises(UserError, match=r"the corpus has no domains; they are folders, domain/class/\*, or the column `domain`"):
        made([replace(each, domain="") for each in clips])


def of(domain: str, **counts: int) -> list[Clip]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [clip(number, domain, label) for number, label in enumerate(labels)]


UNKNOWN_THERE = "target (app): label: no clip of test has a label, so how good it is there is not known; what is judged is the source's"


@pytest.mark.parametrize(
    ("clips", "domains", "said"),
    [
        ([*of("phone", cough=20, other=20), *of("app", cough=20, other=20)], DOMAINS, []),
        (
            [*of("phone", cough=20, other=20), *of("app", cough=20, laugh=20, other=20)],
            DOMAINS,
            ["label: no clip of the source is of class laugh, so no training clip teaches it"],
        ),
        ([*of("phone", cough=20, other=20), *of("app", cough=20, laugh=20, other=20)], replace(DOMAINS, labelled=0.5), []),
        (
            [*of("phone", cough=1, other=40), *of("app", cough=20, other=20)],
            DOMAINS,
            ["source (phone): label: no clip of class cough is in test"],
        ),
        (
            [*of("phone", cough=20, other=20), *of("app", other=40)],
            DOMAINS,
            ["target (app): label: no clip of class cough is in test"],
        ),
        ([*of("phone", cough=20, other=20), *(replace(each, labels={}) for each in of("app", other=40))], DOMAINS, [UNKNOWN_THERE]),
    ],
)
def test_absent_classes_are_said_of_the_side_that_lacks_them(clips: list[Clip], domains: Domains, said: list[str]):
    assert split_across(clips, domains, partial(split, target="label", seed=3), "label").warnings == said


def test_a_split_that_cannot_be_made_says_of_which_domain():
    with pytest.raises(UserError, match=r"^target \(app\): split: 2 groups"):
        made([*of("phone", cough=20, other=20), *of("app", cough=1, other=1)])


@pytest.mark.parametrize(("label", "said"), [("other", "have one class only, 'other'"), ("", "no clip of train is labelled")])
def test_a_source_in_which_nothing_can_be_told_apart_is_refused(label: str, said: str):
    two, one = of("app", cough=20, other=20), of("phone", other=40)
    one = one if label else [replace(each, labels={}) for each in one]
    recipe = recipes.load("cough", ["data.domains={source: [phone], target: [app]}"])

    def refuse(domains: Domains) -> None:
        found = split_across([*one, *two], domains, partial(split, target="label", seed=3), "label")
        parts = {"train": found.train, "val": found.val, "test": found.test, "source": found.aside}
        readiness.refuse_empty(parts, recipe, {"label": ["cough", "other"]})

    with pytest.raises(UserError, match=said):
        refuse(DOMAINS)
    if label:
        refuse(replace(DOMAINS, labelled=0.5))  # what the target may show tells them apart


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{source: phone, target: [app]}", "data.domains.source: found 'phone'; it is a list, so write [phone]"),
        (
            "{sources: [phone], target: [app]}",
            "data.domains.sources: there is no such key; nearest is 'source' (one of source, target, labelled)",
        ),
        ("{target: [app]}", "data.domains.source: missing"),
    ],
)
def test_domains_written_otherwise_are_one_line_that_says_how(given: str, said: str):
    with pytest.raises(UserError) as caught:
        recipes.load("cough", [f"data.domains={given}"])
    assert str(caught.value) == said
