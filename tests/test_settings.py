"""YAML as people mean it, and overrides."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from crossfade import settings
from crossfade.clip import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(word, word) for word in ("on", "off", "yes", "no", "NO", "y", "n", "On")],
        *[(word, word) for word in ("007", "-007", "1_000", "0x1f", "0o7", "1:30", "2026-01-01", "=", "1e", "e5", "1.2.3", "+", ".")],
        *[("true", True), ("False", False), ("null", None), ("~", None), ("", None)],
        *[("7", 7), ("-3", -3), ("+4", 4), ("0", 0)],
        *[("1e-3", 0.001), ("3E4", 3e4), ("1.", 1.0), (".5", 0.5), ("-2.5e+3", -2500.0), (".inf", math.inf), ("-.inf", -math.inf)],
    ],
)
def test_words_and_numbers_are_what_they_look_like(text, value):
    found = settings.read(text, "x")
    assert found == value and type(found) is type(value)


def test_not_a_number_is_a_number():
    assert math.isnan(settings.read(".nan", "x"))


def test_a_key_that_is_a_word_stays_one():
    assert settings.read("on: {no: yes}", "x") == {"on": {"no": "yes"}}


def test_anchors_and_merges_work():
    assert settings.read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "x") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def one_line(call, *given) -> str:
    with pytest.raises(UserError) as caught:
        call(*given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) > 10
    return str(caught.value)


def test_a_key_written_twice_is_an_error_that_names_the_line():
    message = one_line(settings.read, "a: 1\nb:\n  c: 1\n  c: 2\n", "my.yaml")
    assert message.startswith("my.yaml line 3") and "'c' is written twice" in message


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\x00", "{a: 1", "a\n b: 1", "!!python/object:os.system x", "*nowhere", "'open"])
def test_broken_yaml_is_one_line(text):
    assert one_line(settings.read, text, "my.yaml").startswith("my.yaml")


def test_files_with_bom_windows_line_ends_and_any_script(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes("﻿name: 情绪\r\nabout: no\r\n".encode())
    assert settings.read_file(path) == {"name": "情绪", "about": "no"}


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    assert "latin.yaml" in one_line(settings.read_file, tmp_path / "latin.yaml")
    assert "none.yaml" in one_line(settings.read_file, tmp_path / "none.yaml")
    one_line(settings.read_file, Path(tmp_path))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"), max_size=20)
WORDS = st.sampled_from(
    ["on", "no", "007", "1e-3", "=", "<<", "~", "null", "true", ".inf", "1_0", "0x1", "- a", "#", "a: b", "'", "encoders.audio[-1:]"]
)
DATA = st.recursive(
    PLAIN | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | WORDS, inner, max_size=4),
    max_leaves=12,
)


def same(a, b) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@examples(max_examples=150, deadline=None)
@given(DATA)
def test_what_is_written_is_read_back(data):
    assert same(settings.read(settings.write(data), "x"), data)


def test_written_lists_of_plain_values_take_one_line_and_shared_parts_are_written_twice():
    shared = {"ratios": [0.7, 0.15, 0.15]}
    assert settings.write({"a": shared, "b": shared}) == "a:\n  ratios: [0.7, 0.15, 0.15]\nb:\n  ratios: [0.7, 0.15, 0.15]\n"


# ---- overrides


@pytest.fixture
def tree():
    return {
        "data": {"batch": 16, "views": {"strong": {"audio": [{"use": "noise_at_snr"}, "spectrogram_masks"]}}},
        "model": {"merge": "gated", "encoders": {"audio": {"use": "wavlm", "weights": "x"}}, "init": {"encoders.audio": "runs/a"}},
        "phases": [
            {
                "name": "fusion",
                "epochs": 5,
                "rates": {"encoders.audio[-1:]": 1.0, "encoders": None, "*": 3e-4},
                "schedule": {"use": "cosine"},
            },
            {"name": "unfreeze", "epochs": 25, "rates": {"*": 1e-3}},
        ],
    }


def changed(tree, *overrides):
    settings.override(tree, overrides)
    return tree


def test_phases_are_found_by_name_and_by_number(tree):
    changed(tree, "phases.unfreeze.epochs=10", "phases.0.epochs=1", "data.batch=8", "seed=3")
    assert [phase["epochs"] for phase in tree["phases"]] == [1, 10] and tree["data"]["batch"] == 8 and tree["seed"] == 3


def test_list_entries_are_found_by_what_they_use(tree):
    changed(tree, "data.views.strong.audio.noise_at_snr.probability=1", "data.views.strong.audio.spectrogram_masks.count=1")
    assert tree["data"]["views"]["strong"]["audio"] == [
        {"use": "noise_at_snr", "probability": 1},
        {"use": "spectrogram_masks", "count": 1},
    ]


@pytest.mark.parametrize("path", ["'encoders.audio[-1:]'", '"encoders.audio[-1:]"', "encoders.audio[-1:]"])
def test_a_rates_pattern_holds_dots_quoted_or_not(tree, path):
    changed(tree, f"phases.fusion.rates.{path}=1e-4")
    assert tree["phases"][0]["rates"] == {"encoders.audio[-1:]": 1e-4, "encoders": None, "*": 3e-4}
    assert list(tree["phases"][0]["rates"]) == ["encoders.audio[-1:]", "encoders", "*"]


@pytest.mark.parametrize("path", ["'encoders.audio[-2:]'", "encoders.audio[-2:]"])
def test_a_new_rates_pattern_goes_first_where_it_decides_something(tree, path):
    changed(tree, f"phases.unfreeze.rates.{path}=1e-5", "phases.unfreeze.rates.*=2e-3", "phases.unfreeze.rates.encoders=null")
    assert list(tree["phases"][1]["rates"].items()) == [("encoders", None), ("encoders.audio[-2:]", 1e-5), ("*", 2e-3)]


def test_keys_with_dots_elsewhere_are_found_when_they_exist(tree):
    changed(tree, "model.init.encoders.audio=runs/b", "model.init.'encoders.video'=runs/v")
    assert tree["model"]["init"] == {"encoders.audio": "runs/b", "encoders.video": "runs/v"}


def test_use_starts_anew_and_the_short_form_grows(tree):
    changed(
        tree, "model.encoders.audio.use=light_cnn", "model.merge.dim=64", "phases.unfreeze.schedule.use=cosine", "phases.1.schedule.floor=0"
    )
    assert tree["model"]["encoders"]["audio"] == {"use": "light_cnn"}
    assert tree["model"]["merge"] == {"use": "gated", "dim": 64}
    assert tree["phases"][1]["schedule"] == {"use": "cosine", "floor": 0}


def test_a_value_may_hold_equals_signs_lists_and_mappings(tree):
    changed(tree, "about=a=b", "model.merge={use: concat, dim: 8}", "data.split.ratios=[0.8, 0.1, 0.1]", "model.init={}", "note=")
    assert (
        tree["about"] == "a=b"
        and tree["model"]["merge"] == {"use": "concat", "dim": 8}
        and tree["data"]["split"]["ratios"] == [0.8, 0.1, 0.1]
    )
    assert tree["model"]["init"] == {} and tree["note"] is None


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.batch", "key=value"),
        ("=3", "names no key"),
        ("...=3", "names no key"),
        ("phases.fusoin.epochs=3", "nearest is 'fusion' (one of fusion, unfreeze)"),
        ("phases.7.epochs=3", "nearest is"),
        ("phases.².epochs=3", "nearest is"),
        ("data.batch.size=3", "16 has no keys"),
        ("data.batch=[1", "data.batch=[1"),
        ("data.views.strong.audio.blurr=1", "one of noise_at_snr, spectrogram_masks"),
    ],
)
def test_every_bad_override_is_one_line(tree, override, says):
    assert says in one_line(settings.override, tree, [override])


def test_nearest():
    assert settings.nearest("gatd", ["each", "gated"]) == "nearest is 'gated' (one of each, gated)"
    assert settings.nearest("", ["a"]) == "nearest is 'a' (one of a)" and "nothing" in settings.nearest("x", [])
