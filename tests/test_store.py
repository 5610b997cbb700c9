"""Arrays on disk: whole or absent, named by what made them, within a limit, and cleared without touching anything else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny import bound_by_modes

from crossfade import store as store_file
from crossfade.store import Store, default_root, fingerprint, key, limit_text, shelves, size_text, versions

ARRAY = np.arange(1000, dtype=np.float32).reshape(10, 100)
MADE_BY = {"stream": {"rate": 16000, "face": None}, "tuple": (1, 2), 3: Path("n.wav")}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def shelf(store):
    return store.shelf(MADE_BY, what="decoded sound", recipe="tiny")


def never():
    raise AssertionError("computed again")


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and path.name != "about.json"]


def test_an_array_is_computed_once_and_then_read(shelf):
    first = shelf.get("abcd", lambda: ARRAY)
    second = shelf.get("abcd", never)
    assert np.array_equal(first, ARRAY) and np.array_equal(second, ARRAY) and second.dtype == np.float32
    assert files(shelf.folder) == [shelf.folder / "ab" / "abcd.npy"]
    assert np.array_equal(np.load(shelf.folder / "ab" / "abcd.npy"), ARRAY), "a plain .npy that anybody can read"
    with pytest.raises(ValueError, match="read-only"):
        second[0] = 1


@pytest.mark.parametrize("array", [np.zeros((0, 3), np.uint8), np.float32(3), np.ones((2, 3), order="F"), np.ones(3, bool)])
def test_odd_arrays(shelf, array):
    shelf.get("k1", lambda: array)
    found = shelf.get("k1", never)
    assert np.array_equal(found, array) and found.shape == np.shape(array)


@pytest.mark.parametrize("keep", [0, 1, 5, 8, 60, 128, 129, 2000, -9, -8, -4, -1])
def test_a_truncated_file_is_computed_again(shelf, keep):
    shelf.get("abcd", lambda: ARRAY)
    path = files(shelf.folder)[0]
    path.write_bytes(path.read_bytes()[:keep])
    assert np.array_equal(shelf.get("abcd", lambda: ARRAY), ARRAY)
    assert np.array_equal(shelf.get("abcd", never), ARRAY)


@pytest.mark.parametrize("content", [b"", b"\x00" * 4128, b"\x00" * 8, b"text\n" * 100, b"PK\x03\x04" + b"\x00" * 200, b"\x80\x04N."])
def test_a_file_that_is_no_array_is_computed_again(shelf, content):
    shelf.get("abcd", lambda: ARRAY)
    files(shelf.folder)[0].write_bytes(content)
    assert np.array_equal(shelf.get("abcd", lambda: ARRAY), ARRAY)
    assert np.array_equal(shelf.get("abcd", never), ARRAY)


def test_any_flipped_bit_is_found(shelf):
    shelf.get("abcd", lambda: ARRAY)
    path = files(shelf.folder)[0]
    whole = path.read_bytes()
    places = [*range(0, 160, 3), *np.random.default_rng(0).integers(0, len(whole), 60), *range(len(whole) - 8, len(whole))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert np.array_equal(shelf.get("abcd", lambda: ARRAY), ARRAY), place
        assert path.read_bytes() == whole, place


def test_a_failed_write_leaves_nothing_behind(shelf, monkeypatch):
    def half(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    shelf.get("other", lambda: ARRAY)
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        shelf.get("abcd", lambda: ARRAY)
    assert [path.name for path in files(shelf.folder)] == ["other.npy"]


def test_a_half_written_temporary_of_a_killed_process_is_never_read(shelf):
    shelf.get("abcd", lambda: ARRAY)
    files(shelf.folder)[0].rename(shelf.folder / "0123.tmp")
    (shelf.folder / "ab" / "abcd.tmp").write_bytes(b"half")
    assert np.array_equal(shelf.get("abcd", lambda: ARRAY + 1), ARRAY + 1)


def test_an_error_while_computing_stores_nothing(shelf):
    with pytest.raises(ZeroDivisionError):
        shelf.get("abcd", lambda: np.array(1 / 0))
    assert files(shelf.store.root) == [] and not shelf.store.full


def test_without_keep_nothing_is_read_or_written(shelf, tmp_path):
    shelf.get("abcd", lambda: ARRAY)
    off = Store(shelf.store.root, keep=False).shelf(MADE_BY, what="decoded sound", recipe="other")
    assert np.array_equal(off.get("abcd", lambda: ARRAY + 1), ARRAY + 1) and not off.store.full and not off.store.has_room(1)
    assert json.loads((shelf.folder / "about.json").read_text())["recipes"] == ["tiny"]
    Store(tmp_path / "new", keep=False).shelf(MADE_BY, what="").get("a", lambda: ARRAY)
    assert not (tmp_path / "new").exists()


# ---- keys, versions


def test_other_options_or_content_give_another_key():
    keys = [key(print_, made_by) for print_ in ("a", "b") for made_by in ({"rate": 1}, {"rate": 2}, {"rate": 1, "span": (0.0, None)})]
    assert len(set(keys)) == 6 and key("a", {"x": 1, "y": 2}) == key("a", {"y": 2, "x": 1})
    assert key("a", {"file": Path("n.wav")}) == key("a", {"file": "n.wav"})


def test_another_computation_stands_on_another_shelf(store):
    first = store.shelf({"rate": 1, "code": "1"}, what="x")
    first.get("abcd", lambda: ARRAY)
    for made_by in ({"rate": 2, "code": "1"}, {"rate": 1, "code": "2"}, {"rate": 1}):
        assert np.array_equal(store.shelf(made_by, what="x").get("abcd", lambda: ARRAY + 1), ARRAY + 1)
    assert np.array_equal(store.shelf({"code": "1", "rate": 1}, what="called differently").get("abcd", never), ARRAY)


def test_a_version_is_the_source_or_what_is_installed(tmp_path, monkeypatch):
    found = versions("crossfade.store", "crossfade.data", "numpy", "no-such-package")
    assert found["numpy"] == np.__version__ and found["no-such-package"] == ""
    assert len({found["crossfade.store"], found["crossfade.data"], versions("crossfade")["crossfade"]}) == 3
    with pytest.raises(FileNotFoundError):
        versions("crossfade.data.sond")

    package = tmp_path / "crossfade"
    shutil.copytree(store_file.OURS / "data", package / "data", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(store_file.OURS / "store.py", package)
    monkeypatch.setattr(store_file, "OURS", package)
    names = ("crossfade.store", "crossfade.data", "crossfade.data.sound")

    def now():
        store_file._version.cache_clear()
        return versions(*names)

    before = now()
    assert {name: before[name] for name in names[:2]} == {name: found[name] for name in names[:2]}, "the same source anywhere"
    (package / "data" / "sound.py").write_text((package / "data" / "sound.py").read_text() + "\n")
    edited = now()
    (package / "data" / "new.py").write_text("")
    added = now()
    store_file._version.cache_clear()
    assert [name for name in names if edited[name] != before[name]] == ["crossfade.data", "crossfade.data.sound"]
    assert [name for name in names if added[name] != edited[name]] == ["crossfade.data"]


def test_versions_of_ours_import_nothing():
    code = "import sys; from crossfade.store import versions; versions('crossfade.data', 'crossfade.models.wavlm', 'torch', 'av')\n"
    code += "print([name for name in ('torch', 'av', 'crossfade.data', 'crossfade.models') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


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


# ---- what a shelf says of itself


def test_a_shelf_says_what_made_it_and_who_used_it(store, shelf):
    assert not store.root.exists(), "nothing is made before there is something to keep"
    shelf.get("abcd", lambda: ARRAY)
    about = json.loads((shelf.folder / "about.json").read_text())
    assert about["what"] == "decoded sound" and about["recipes"] == ["tiny"]
    assert about["made_by"] == {"stream": {"rate": 16000, "face": None}, "tuple": [1, 2], "3": "n.wav"}
    for recipe in ("other", "tiny", "", "other"):
        store.shelf(MADE_BY, what="decoded sound", recipe=recipe)
    assert [about["recipes"] for _, about in shelves(store.root)] == [["tiny", "other"]]


def test_using_a_shelf_touches_it(store, shelf):
    shelf.get("abcd", lambda: ARRAY)
    os.utime(shelf.folder / "about.json", (1000, 1000))
    store.shelf(MADE_BY, what="")
    assert (shelf.folder / "about.json").stat().st_mtime > 1e9


@pytest.mark.parametrize("damage", [b"", b"\0" * 200, b"[]", b'{"made_by": 1}'])
def test_a_damaged_about_is_written_anew_when_the_shelf_is_used(store, shelf, damage):
    shelf.get("abcd", lambda: ARRAY)
    (shelf.folder / "about.json").write_bytes(damage)
    assert list(shelves(store.root)) == []
    again = store.shelf(MADE_BY, what="decoded sound", recipe="tiny")
    assert [(folder, about["recipes"]) for folder, about in shelves(store.root)] == [(shelf.folder, ["tiny"])]
    assert np.array_equal(again.get("abcd", never), ARRAY)


# ---- places, other processes, limits, full disks


def test_where_it_lies(monkeypatch):
    monkeypatch.setenv("CROSSFADE_STORE", "/somewhere")
    assert default_root() == Path("/somewhere") == Store().root
    monkeypatch.delenv("CROSSFADE_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_root() == Path("/cache/crossfade/store")


@pytest.mark.parametrize("cleared", ["", "ab"], ids=["the shelf", "a folder on it"])
def test_a_folder_cleared_as_it_is_found_is_made_again(store, monkeypatch, cleared):
    """Another process makes the folder just before this one does, and takes it away just after."""
    shelf = store.shelf(MADE_BY, what="decoded sound")
    make, late = os.mkdir, [shelf.folder / cleared]

    def found_there(path, *rest):
        if late == [Path(path)]:
            late.clear()
            raise FileExistsError(17, "File exists", str(path))
        make(path, *rest)

    monkeypatch.setattr(os, "mkdir", found_there)
    shelf.get("abcd", lambda: ARRAY)
    assert not store.trouble and not late
    assert np.array_equal(shelf.get("abcd", never), ARRAY)


HAMMER = """
import sys, numpy as np
from pathlib import Path
from crossfade.stock import clear
from crossfade.store import Store
store = Store(Path(sys.argv[1]))
shelf = store.shelf({"a": 1}, what="x", recipe=sys.argv[2])
for number in range(300):
    name = f"{number % 7:02d}key"
    found = shelf.get(name, lambda: np.full(20_000, number % 7, np.float32))
    assert found.shape == (20_000,) and (found == number % 7).all(), number
    if sys.argv[2] == "clears" and number % 10 == 0:
        clear(store.root)
        assert (found == number % 7).all(), "what is read stays readable"
    elif number % 5 == 0:
        (shelf.folder / name[:2] / f"{name}.npy").unlink(missing_ok=True)
assert not store.full, store.trouble
"""


@pytest.mark.parametrize("roles", [("a", "b"), ("a", "clears")], ids=" ".join)
def test_several_processes_at_once_only_ever_see_whole_arrays(tmp_path, roles):
    runs = [subprocess.Popen([sys.executable, "-c", HAMMER, str(tmp_path), role], stderr=subprocess.PIPE) for role in roles]
    assert [(run.communicate()[1].decode()[-300:], run.returncode) for run in runs] == [("", 0)] * 2
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("*.cleared"))


Usage = namedtuple("Usage", "total used free")


def disk_of(monkeypatch, total: float, free: float) -> None:
    monkeypatch.setattr(store_file.shutil, "disk_usage", lambda path: Usage(total, total - free, free))


@pytest.mark.parametrize(
    ("total", "free", "full"), [(100e9, 4e9, True), (100e9, 6e9, False), (2e12, 5e9, False), (2e12, 3e9, True), (1e9, 40e6, True)]
)
def test_a_disk_that_is_nearly_full_is_left_alone(shelf, monkeypatch, total, free, full):
    disk_of(monkeypatch, total, free)
    assert np.array_equal(shelf.get("abcd", lambda: ARRAY), ARRAY)
    assert shelf.store.full is full and bool(files(shelf.store.root)) is not full
    assert ("GB free on this disk" in shelf.store.trouble or "MB free on this disk" in shelf.store.trouble) is full


def test_a_limit_as_a_fraction_is_of_what_was_free_at_first(store, monkeypatch):
    store.limit = 0.25
    disk_of(monkeypatch, 100e9, 40e9)
    assert store.room() == 10e9
    disk_of(monkeypatch, 100e9, 32e9)
    assert store.room() == 2e9 and store.has_room(2e9)
    disk_of(monkeypatch, 100e9, 30e9)
    assert not store.has_room(1)
    assert store.trouble == f"{store.root}: 0 B left of the store's limit, 25 % of the free disk, and 1 B more are needed"


def test_a_limit_in_bytes_is_for_the_whole_store(tmp_path):
    size = 4000 + 128 + 8
    for _ in range(2):  # what another run has left there counts
        store = Store(tmp_path, limit=5 * size + 1000)
        shelf = store.shelf({}, what="x")
        for number in range(8):
            assert np.array_equal(shelf.get(f"{number:02d}", lambda number=number: ARRAY + number), ARRAY + number)
        assert len(list(tmp_path.rglob("*.npy"))) == 5
        assert "left of the store's limit, 21.7 kB, and 4.1 kB more are needed" in store.trouble
    (tmp_path / "a person's own").write_bytes(bytes(100_000))
    assert Store(tmp_path, limit=6 * size + 1000).has_room(size)


def test_two_processes_keep_to_one_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(store_file, "COUNT_AGAIN_BYTES", 0)
    stores = [Store(tmp_path, limit=400_000) for _ in range(2)]
    for number in range(100):
        for who, store in enumerate(stores):
            store.shelf({}, what="x").get(f"{who}{number:03d}", lambda: ARRAY)
    assert all(store.full for store in stores)
    assert 340_000 < sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 450_000


def test_a_write_that_fails_goes_on_and_says_why(shelf, monkeypatch):
    def refuse(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert np.array_equal(shelf.get("abcd", lambda: ARRAY), ARRAY)
    assert shelf.store.full and shelf.store.trouble == f"{shelf.store.root}: No space left on device"
    monkeypatch.undo()
    assert np.array_equal(shelf.get("abcd", lambda: ARRAY), ARRAY) and files(shelf.store.root) == []


def test_a_root_that_is_a_file_goes_on_and_says_why(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file")
    shelf = store.shelf({}, what="x", recipe="r")
    assert np.array_equal(shelf.get("abcd", lambda: ARRAY), ARRAY) and store.full and "file" in store.trouble


def test_a_store_that_may_only_be_read_is_read(tmp_path):
    Store(tmp_path).shelf({}, what="x").get("abcd", lambda: ARRAY)
    folders = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    with bound_by_modes():
        shelf = Store(tmp_path).shelf({}, what="x", recipe="another")
        assert np.array_equal(shelf.get("abcd", never), ARRAY) and not shelf.store.full
        assert np.array_equal(shelf.get("new", lambda: ARRAY), ARRAY) and "Permission denied" in shelf.store.trouble
    for path in folders:
        path.chmod(0o755)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (999.7, "1.0 kB"), (4_400_000, "4.4 MB"), (999_960, "1.0 MB"), (1.25e9, "1.2 GB"), (3e15, "3000.0 TB")],
)
def test_sizes_for_a_person(size, text):
    assert size_text(size) == text
    assert limit_text(0.125) == "12.5 % of the free disk" and limit_text(5e10) == "50.0 GB"


def test_only_one_thread_at_a_time_reads_a_header(shelf, monkeypatch):
    """NumPy parses it with `ast`, which in Python 3.11.7 fails now and then where two threads do so at once."""
    inside, most, read_header = [0], [0], np.lib.format.read_array_header_1_0

    def watched(file):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.002)
        found = read_header(file)
        inside[0] -= 1
        return found

    names = {f"{number:02}ab": 900 + number for number in range(8)}  # each of its own length, so that no header is known already
    for name, length in names.items():
        shelf.get(name, lambda length=length: np.arange(length))
    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", watched)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: len(shelf.get(name, dict)), names))
    assert found == list(names.values()) and most == [1]
