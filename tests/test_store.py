"""Arrays on disk: whole or absent, named by what made them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from crossfade import store as store_file
from crossfade.store import Store, default_root, fingerprint, key

ARRAY = np.arange(1000, dtype=np.float32).reshape(10, 100)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def never():
    raise AssertionError("computed again")


def test_an_array_is_computed_once_and_then_mapped(store):
    first = store.get("abcd", lambda: ARRAY)
    second = store.get("abcd", never)
    assert np.array_equal(first, ARRAY) and np.array_equal(second, ARRAY) and isinstance(second, np.memmap) and second.dtype == np.float32
    assert store.has("abcd") and not store.has("abce") and store.path("abcd") == store.root / "ab" / "abcd.npy"
    with pytest.raises(ValueError, match="read-only"):
        second[0] = 1


@pytest.mark.parametrize("array", [np.zeros((0, 3), np.uint8), np.float32(3), np.ones((2, 3), order="F"), np.ones(3, bool)])
def test_odd_arrays(store, array):
    store.get("k1", lambda: array)
    assert np.array_equal(store.get("k1", never), array)


@pytest.mark.parametrize("keep", [0, 5, 60, 128, 129, 2000, -1])
def test_a_truncated_file_is_computed_again(store, keep):
    store.get("abcd", lambda: ARRAY)
    path = store.path("abcd")
    path.write_bytes(path.read_bytes()[:keep])
    assert np.array_equal(store.get("abcd", lambda: ARRAY), ARRAY)
    assert np.array_equal(store.get("abcd", never), ARRAY)


@pytest.mark.parametrize("content", [b"\x00" * 4128, b"text\n" * 100, b"PK\x03\x04" + b"\x00" * 200, b"\x80\x04N."])
def test_a_file_that_is_no_array_is_computed_again(store, content):
    store.get("abcd", lambda: ARRAY)
    store.path("abcd").write_bytes(content)
    assert np.array_equal(store.get("abcd", lambda: ARRAY), ARRAY)


def test_a_failed_write_leaves_nothing_behind(store, monkeypatch):
    def half(file, array, allow_pickle):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(store_file.np, "save", half)
    with pytest.raises(KeyboardInterrupt):
        store.get("abcd", lambda: ARRAY)
    assert [path for path in store.root.rglob("*") if path.is_file()] == [] and not store.has("abcd")


def test_an_error_while_computing_stores_nothing(store):
    with pytest.raises(ZeroDivisionError):
        store.get("abcd", lambda: np.array(1 / 0))
    assert not store.has("abcd") and not store.full


# ---- keys


def test_other_options_or_content_give_another_key():
    keys = [key(print_, made_by) for print_ in ("a", "b") for made_by in ({"rate": 1}, {"rate": 2}, {"rate": 1, "span": (0.0, None)})]
    assert len(set(keys)) == 6 and key("a", {"x": 1, "y": 2}) == key("a", {"y": 2, "x": 1})
    assert key("a", {"file": Path("n.wav")}) == key("a", {"file": "n.wav"})


@pytest.mark.parametrize(
    "size", [0, 10, store_file.EDGE_BYTES, store_file.EDGE_BYTES + 1, 2 * store_file.EDGE_BYTES, 3 * store_file.EDGE_BYTES]
)
def test_any_edit_and_a_touch_give_another_fingerprint(tmp_path, size):
    path = tmp_path / "a.bin"
    path.write_bytes(os.urandom(size))
    os.utime(path, (1000, 1000))
    first = fingerprint(path)
    assert fingerprint(path) == first
    os.utime(path, (1000, 1001))
    assert fingerprint(path) != first
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, (1000, 1000))
    assert fingerprint(path) != first


@pytest.mark.parametrize("place", [0, 70_000, 131_071, -1])
def test_an_edit_at_equal_size_and_time_is_seen_at_either_end(tmp_path, place):
    prints = []
    for content in (b"a", b"b"):
        path = tmp_path / f"{content.decode()}.bin"
        data = bytearray(131_072)
        data[place : place + 1 or None] = content
        path.write_bytes(data)
        os.utime(path, (1000, 1000))
        prints.append(fingerprint(path))
    assert prints[0] != prints[1]


def test_equal_files_of_any_name_share_a_fingerprint(tmp_path):
    (tmp_path / "a").write_bytes(b"same")
    shutil.copy2(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "a", ns=(0, 5))
    os.utime(tmp_path / "b", ns=(0, 5))
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


# ---- places, other processes, full disks


def test_where_it_lies(monkeypatch):
    monkeypatch.setenv("CROSSFADE_STORE", "/somewhere")
    assert default_root() == Path("/somewhere") == Store().root
    monkeypatch.delenv("CROSSFADE_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_root() == Path("/cache/crossfade/store")


HAMMER = """
import sys, numpy as np
from crossfade.store import Store
store, seen = Store(sys.argv[1]), 0
for number in range(300):
    name = f"{number % 7:02d}key"
    found = store.get(name, lambda: np.full(20_000, number % 7, np.float32))
    assert found.shape == (20_000,) and (found == number % 7).all(), number
    if number % 5 == 0:
        store.path(name).unlink(missing_ok=True)
assert not store.full, store.trouble
"""


def test_several_processes_at_once_only_ever_see_whole_arrays(tmp_path):
    runs = [subprocess.Popen([sys.executable, "-c", HAMMER, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(2)]
    assert [(run.communicate()[1].decode()[-300:], run.returncode) for run in runs] == [("", 0)] * 2
    assert not list(tmp_path.rglob("*.tmp"))


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("total", "free", "full"), [(100e9, 4e9, True), (100e9, 6e9, False), (2e12, 5e9, False), (2e12, 3e9, True), (1e9, 40e6, True)]
)
def test_a_disk_that_is_nearly_full_is_left_alone(store, monkeypatch, total, free, full):
    monkeypatch.setattr(store_file.shutil, "disk_usage", lambda path: Usage(total, total - free, free))
    assert np.array_equal(store.get("abcd", lambda: ARRAY), ARRAY)
    assert store.full is full and store.has("abcd") is not full and ("GB free on this disk" in store.trouble) is full


def test_a_write_that_fails_goes_on_and_says_why(store, monkeypatch):
    def refuse(file, array, allow_pickle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_file.np, "save", refuse)
    assert np.array_equal(store.get("abcd", lambda: ARRAY), ARRAY)
    assert store.full and store.trouble == f"{store.root}: No space left on device"
    monkeypatch.undo()
    assert np.array_equal(store.get("abcd", lambda: ARRAY), ARRAY) and not store.has("abcd")


def test_a_root_that_is_a_file_goes_on_and_says_why(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file")
    assert np.array_equal(store.get("abcd", lambda: ARRAY), ARRAY) and store.full and "file" in store.trouble
