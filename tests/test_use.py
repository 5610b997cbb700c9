"""`use: name`: a function's signature is the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from crossfade import data, models, training, use
from crossfade.clip import UserError


def brew(
    cup: str,
    *,
    grams: float = 18.0,
    shots: int = 1,
    milk: Literal["oat", "cow"] | None = None,
    notes: tuple[str, ...] = (),
    file: Path | None = None,
):
    return cup, grams, shots, milk, notes, file


def pour(*, cup: str):
    return cup


TABLE = {"brew": brew, "pour": pour}


def refusal(call, *given) -> str:
    with pytest.raises(UserError) as caught:
        call(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_alone_gets_every_default():
    written = {"use": "brew", "grams": 18.0, "shots": 1, "milk": None, "notes": [], "file": None}
    assert use.check(TABLE, "brew", "drink") == written == use.check(TABLE, written, "drink")


def test_checked_options_are_plain_and_calls_get_what_they_declare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = use.check(TABLE, {"use": "brew", "grams": "1e1", "notes": ["a"], "file": "beans.txt"}, "drink")
    assert plain["grams"] == 10.0 and plain["notes"] == ["a"] and plain["file"] == str(tmp_path / "beans.txt")
    assert use.make(TABLE, plain, "mug") == ("mug", 10.0, 1, None, ("a",), tmp_path / "beans.txt")
    assert use.make(TABLE, plain, "mug", shots=3)[2] == 3


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("brw", "drink.use: found 'brw', nearest is 'brew' (one of brew, pour)"),
        ({"use": ["brew"]}, "drink.use: found ['brew'], nearest"),
        ({"use": None}, "drink.use: found None"),
        ({"grams": 3}, "it needs `use:` with one of brew, pour"),
        (3, "drink: found 3"),
        (None, "drink: found None"),
        ({"use": "brew", "gram": 3}, "drink.gram: brew has no such key; nearest is 'grams'"),
        ({"use": "brew", 3: 3}, "drink.3: brew has no such key"),
        ({"use": "brew", "shots": 1.5}, "drink.shots: found 1.5; input should be a valid integer"),
        ({"use": "brew", "shots": None}, "drink.shots: found None"),
        ({"use": "brew", "milk": "soy"}, "drink.milk: found 'soy'; input should be 'oat' or 'cow'"),
        ("pour", "drink.cup: missing"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(spec, says):
    assert says in refusal(use.check, TABLE, spec, "drink")


def test_options_that_are_no_mapping():
    assert refusal(use.options, pour, [1], "data.split") == "data.split: found [1]; it needs keys from cup"
    assert "data.split.cop: there is no such key; nearest is 'cup'" in refusal(use.options, pour, {"cop": 1}, "data.split")


def test_accepts():
    assert use.accepts(brew, "grams") and not use.accepts(brew, "cup") and not use.accepts(brew, "sugar")


TABLES = (data.CORPORA, data.STREAMS, data.AUGMENTATIONS, models.ENCODERS, models.MIXERS, models.MERGERS, models.HEADS)
TABLES += (training.TERMS, training.OPTIMIZERS, training.SCHEDULES)
REQUIRED = {"root": "somewhere", "path": "table.csv", "target": "emotion", "name": "resnet18", "graph": "net.param"}


@pytest.mark.parametrize(("table", "name"), [pytest.param(table, name, id=name) for table in TABLES for name in table])
def test_every_entry_of_every_table_has_a_schema_whose_defaults_pass_it(table, name):
    needed = {key: value for key, value in REQUIRED.items() if use.accepts(table[name], key)}
    plain = use.check(table, {"use": name, **needed}, "here")
    assert use.check(table, plain, "here") == plain
