"""What a store holds is listed and cleared; nothing that is not ours is ever touched."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from crossfade import stock
from crossfade.rows import Rows
from crossfade.stock import DAY, clear, listing
from crossfade.store import Store, folder_size, key, size_text


@pytest.fixture
def store(tmp_path):
    """Three shelves: clips of two recipes, clips of one that were used ten days ago, and rows."""
    store = Store(tmp_path / "store")
    for recipe in ("one", "two"):
        shared = store.shelf({"rate": 1}, what="decoded sound", recipe=recipe)
        for number in range(5):
            shared.get(key(str(number), {}), lambda: np.zeros(1000))
    old = store.shelf({"rate": 2}, what="decoded sound", recipe="one")
    old.get(key("0", {}), lambda: np.zeros(1000))
    os.utime(old.folder / "about.json", (time.time() - 10 * DAY,) * 2)
    rows = Rows(store.shelf({"cut": 3}, what="activations", recipe="two"))
    for start in (0, 10):
        rows.add([key(str(start + number), {}) for number in range(10)], {"x": np.zeros((10, 4), np.float32)})
        rows.flush()
    return store


def named(store: Store) -> dict[str, str]:
    """what made it -> the name in the list."""
    found = {entry.folder: entry.name for entry in listing(store.root)}
    made = {"shared": {"rate": 1}, "old": {"rate": 2}, "rows": {"cut": 3}}
    folders = {what: Store(store.root, keep=False).shelf(made_by, what="").folder for what, made_by in made.items()}
    return {what: found[folder] for what, folder in folders.items() if folder in found}


def test_a_listing_says_what_is_there(store):
    entries = {entry.name: entry for entry in listing(store.root)}
    names = named(store)
    assert {what: entries[name].entries for what, name in names.items()} == {"shared": 5, "old": 1, "rows": 20}
    assert {what: entries[name].recipes for what, name in names.items()} == {"shared": ["one", "two"], "old": ["one"], "rows": ["two"]}
    assert all(entry.bytes == folder_size(entry.folder) for entry in entries.values()) and 8000 < entries[names["old"]].bytes < 8600
    assert list(entries)[-1] == names["old"], "the last used first"
    row = entries[names["shared"]].row()
    assert (
        row["what"] == "decoded sound"
        and row["recipes"] == "one, two"
        and row["size"] == size_text(entries[names["shared"]].bytes)
        and row["entries"] == 5
    )
    assert row["last used"] == time.strftime("%Y-%m-%d %H:%M", time.localtime(entries[names["shared"]].last_used))


def test_there_may_be_nothing(tmp_path):
    assert listing(tmp_path / "none") == [] and clear(tmp_path / "none") == 0 and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ({}, set()),
        ({"recipe": "one"}, {"rows"}),
        ({"recipe": "two"}, {"old"}),
        ({"older_than_days": 5}, {"shared", "rows"}),
        ({"older_than_days": 11}, {"shared", "old", "rows"}),
        ({"older_than_days": 5, "recipe": "two"}, {"shared", "old", "rows"}),
        ({"older_than_days": 0}, set()),
    ],
    ids=str,
)
def test_what_fits_every_choice_is_cleared(store, choice, left):
    before = folder_size(store.root)
    freed = clear(store.root, **choice)
    assert set(named(store)) == left and freed == before - folder_size(store.root)
    assert len(list(store.root.iterdir())) == len(left)


def test_by_name(store):
    names = named(store)
    assert clear(store.root, names=[names["old"], names["rows"]]) > 0 and set(named(store)) == {"shared"}


def test_a_persons_own_files_stay(store, tmp_path):
    own = {
        "note.txt": b"mine",
        "photos/a.jpg": b"jpg",
        "photos/about.json": b'{"what": "x", "made_by": {}, "recipes": []}',
        "ab/c.npy": b"npy",
    }
    for name, content in own.items():
        (store.root / name).parent.mkdir(exist_ok=True)
        (store.root / name).write_bytes(content)
    elsewhere = listing(store.root)[0].folder.rename(tmp_path / "elsewhere")
    shelf = Store(store.root).shelf({"rate": 1}, what="")
    if not shelf.folder.exists():
        shelf.folder.symlink_to(elsewhere)
    clear(store.root)
    assert {name: (store.root / name).read_bytes() for name in own} == own
    assert {path.name for path in store.root.iterdir() if not path.is_symlink()} == {"note.txt", "photos", "ab"}
    assert (elsewhere / "about.json").is_file() and len(list(elsewhere.rglob("*.npy"))) >= 3


def test_what_killed_processes_left_goes_after_a_day(store):
    folder = Store(store.root).shelf({"cut": 3}, what="").folder
    for age, name in ((0, "young"), (2, "old")):
        (folder / f"{name}.tmp").mkdir()
        (folder / f"{name}.tmp" / "0.npy").write_bytes(bytes(700))
        (folder / f"{name}-file.tmp").write_bytes(bytes(50))
        for path in (folder / f"{name}.tmp", folder / f"{name}-file.tmp"):
            os.utime(path, (time.time() - age * DAY,) * 2)
    assert clear(store.root, older_than_days=100) == 750
    assert sorted(path.name for path in folder.glob("*.tmp")) == ["young-file.tmp", "young.tmp"]


def test_a_clearing_that_was_killed_is_finished_by_the_next(store):
    folder = listing(store.root)[0].folder
    folder.rename(Path(f"{folder}.0123.cleared"))
    assert len(listing(store.root)) == 3
    clear(store.root)
    assert list(store.root.iterdir()) == []


def test_what_was_cleared_is_computed_anew_on_the_same_shelf(store):
    shelf = store.shelf({"rate": 1}, what="decoded sound", recipe="one")
    before = shelf.get(key("0", {}), lambda: np.ones(1000))
    clear(store.root)
    assert not before.any(), "what is mapped stays readable"
    assert shelf.get(key("0", {}), lambda: np.ones(1000)).all() and shelf.get(key("0", {}), lambda: np.zeros(1)).all()
    assert [(entry.entries, entry.recipes) for entry in listing(store.root)] == [(1, ["one"])]


def test_a_shelf_that_another_process_clears_while_it_is_listed_is_left_out(store, monkeypatch):
    count, before = stock._count, len(listing(store.root))

    def cleared_meanwhile(part):
        if part.name.startswith("seg-"):
            shutil.rmtree(part.parent)
            list(part.iterdir())
        return count(part)

    monkeypatch.setattr(stock, "_count", cleared_meanwhile)
    assert len(listing(store.root)) == before - 1
    monkeypatch.undo()
    assert clear(store.root) > 0 and not listing(store.root)


@pytest.mark.parametrize("where", ["", "seg-"], ids=["on the shelf", "in a part of it"])
def test_what_a_writer_still_puts_on_a_shelf_that_is_being_cleared_goes_too(store, monkeypatch, where):
    """It looked the folder up before that was set aside."""
    remove, late = os.rmdir, []

    def put_first(path, **more):
        aside = next(iter(store.root.glob("*.cleared")))
        places = list(aside.glob(f"{where}*")) if where else [aside] if Path(path) == aside else []
        if places and not late:
            late.append(places[0] / "late.tmp")
            late[0].touch()
        remove(path, **more)

    monkeypatch.setattr(os, "rmdir", put_first)
    clear(store.root)
    assert late and list(store.root.iterdir()) == []
