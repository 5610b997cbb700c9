"""A stored phase as a whole run lives it: again, damaged, killed, without room, at once with another, in two processes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from test_activations import CLIPS, Bench, same
from test_exact import ALL, LAST, TOP, Trained, Watching, assert_close, assert_same, history, hurry, phases, seeing, train
from test_processes import PRELOAD, free_port
from tiny import metrics_of, same_bytes, tiny

import crossfade
from crossfade import run as verbs
from crossfade.explanation import Explainer
from crossfade.models.encoder import Encoder
from crossfade.training.loop import Interrupted

PHASES = phases(ALL, TOP, seeing(LAST, 2))
NUMBERS = ("metrics.json", "predictions.csv", "model.safetensors")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(scope="module")
def recipe(place: Path, demo_clips: Path):
    """The tiny recipe in three phases: all of it, the top over frozen encoders, their last stages on two views."""
    return partial(tiny, place, demo_clips, PHASES, "data.batch=6")


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> Trained:
    """Nobody disturbed it; its store is beside it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFADE_STORE", str(folder / "store"))
        return train(recipe(), folder / "run")


@pytest.fixture
def again(whole: Trained, store: Path) -> Path:
    """A copy of the store that the undisturbed run has filled."""
    shutil.copytree(whole.folder.parent / "store", store)
    return store


def same_numbers(ours: Trained, theirs: Trained) -> bool:
    return same_bytes(ours.folder, theirs.folder, *NUMBERS) and ours.history == theirs.history


# ---- again


@pytest.fixture
def ran(monkeypatch) -> Counter:
    """First stage asked for -> how often an encoder ran from there."""
    starts, run = Counter(), Encoder.run

    def counted(self, state, start=0, stop=None):
        starts[start] += 1
        return run(self, state, start, stop)

    monkeypatch.setattr(Encoder, "run", counted)
    return starts


def test_from_a_filled_store_the_bits_are_the_same(recipe, whole: Trained, again: Path, tmp_path: Path):
    later = train(recipe(), tmp_path / "later")
    assert same_numbers(later, whole) and later.losses == whole.losses
    assert len(whole.screen.stored) == 8 + 2 and all("computed now" in text for text in whole.screen.stored), (
        "train and val of two phases; test"
    )
    assert len(later.screen.stored) == 8 and all("all there already" in text for text in later.screen.stored)


@pytest.fixture
def _nothing_explained(monkeypatch):
    """The few clips that a report explains go through the whole model, for its maps."""
    monkeypatch.setattr(Explainer, "few", lambda self, clips, seed: [])


@pytest.mark.usefixtures("_nothing_explained")
def test_from_a_filled_store_nothing_frozen_is_computed(place: Path, demo_clips: Path, tmp_path: Path, ran: Counter):
    recipe = tiny(place, demo_clips, phases(TOP), "data.batch=6")
    train(recipe, tmp_path / "first")
    assert ran[0] and ran[4]
    ran.clear()
    train(recipe, tmp_path / "second")
    assert set(ran) == {4}, "every encoder begins after its last stage: in training, on val and on test"


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) - 7] ^= 1
    path.write_bytes(bytes(content))


DAMAGE: dict[str, tuple[Callable[[Path], object], int]] = {  # of every segment -> rows computed anew of each
    "a bit of the last row": (lambda folder: spoil(folder / "0.npy"), 1),
    "a truncated array": (lambda folder: (folder / "0.npy").write_bytes((folder / "0.npy").read_bytes()[:-200]), CLIPS),
    "an empty array": (lambda folder: (folder / "0.npy").write_bytes(b""), CLIPS),
    "a bit of a key": (lambda folder: spoil(folder / "keys.npy"), 1),
    "a bit of a checksum": (lambda folder: spoil(folder / "crc.npy"), 1),
    "no checksums": (lambda folder: (folder / "crc.npy").unlink(), CLIPS),
    "no list of fields": (lambda folder: (folder / "about.json").write_text("{"), CLIPS),
    "no segment": (shutil.rmtree, CLIPS),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_rows_are_computed_again(recipe, store: Path, damage: str):
    before = Bench(recipe()).states()
    spoils, rows = DAMAGE[damage]
    for folder in sorted(store.rglob("seg-*")):
        spoils(folder)
    bench = Bench(recipe())
    found = bench.states()
    assert bench.computed == {"audio": rows, "video": rows} and found.keys() == before.keys()
    for name in found:
        torch.testing.assert_close(found[name], before[name], rtol=1e-5, atol=1e-5)
    whole = Bench(recipe())
    assert same(whole.states(), found) and not sum(whole.computed.values()), "and it is whole again"


@pytest.mark.parametrize("damage", [spoil, lambda path: path.write_bytes(path.read_bytes()[:100])], ids=["a bit", "truncated"])
def test_from_a_damaged_store_the_numbers_are_the_same(recipe, whole: Trained, again: Path, tmp_path: Path, damage):
    for path in (*again.rglob("seg-*/0.npy"), *again.rglob("??/*.npy")):
        damage(path)
    later = train(recipe(), tmp_path / "later")
    assert_same(later, whole)
    assert all("computed now" in text for text in later.screen.stored[:8])


# ---- killed


class Killed(BaseException):
    """Power gone."""


class Dying(Watching):
    """Ends the run at its n-th batch that is `storing`, or at its n-th training `step`."""

    def __init__(self, when: str, number: int, end):
        super().__init__()
        self.when, self.left, self.end = when, number, end

    @contextlib.contextmanager
    def counting(self, title: str, total: int):
        yield lambda count=1: self._tick(title.split()[0])

    def fed(self) -> None:
        self._tick("step")

    def _tick(self, when: str) -> None:
        self.left -= when == self.when
        if not self.left:
            self.left = -1
            self.end()


def power_gone() -> None:
    raise Killed


def asked() -> None:
    signal.raise_signal(signal.SIGTERM)


ENDS = [("storing", 1, asked), ("storing", 8, power_gone), ("storing", 18, asked), ("storing", 28, power_gone)]
ENDS += [("step", 1, power_gone), ("step", 5, asked), ("step", 9, power_gone), ("step", 12, asked)]


@pytest.mark.parametrize(("when", "number", "end"), ENDS)
def test_a_run_ended_anywhere_goes_on_to_the_same_bits(recipe, whole: Trained, tmp_path: Path, when: str, number: int, end):
    screen = Dying(when, number, end)
    with pytest.raises((Killed, Interrupted)):
        train(recipe(), tmp_path / "run", screen=screen, saving=True)
    assert screen.left == -1
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        verbs.resume(tmp_path / "run", screen=Watching())
    assert same_numbers(Trained(tmp_path / "run"), whole)


# ---- without room, with half of it


def test_without_room_the_numbers_are_the_same_and_every_cut_says_so_once(recipe, whole: Trained, store: Path, tmp_path: Path):
    full = train(recipe("store.limit=2"), tmp_path / "run")
    assert_same(full, whole)
    said = [text for text in full.screen.warned if "frozen part" in text]
    assert said and not full.screen.stored and not any(full.kinds) and not list(store.rglob("*.npy"))
    assert Counter(text.partition("frozen part ")[2] for text in said).most_common(1)[0][1] == 1, said


def test_in_bfloat16_it_trains_and_says_how_far_that_is(recipe, whole: Trained, tmp_path: Path):
    half = train(recipe("store.dtype=bfloat16"), tmp_path / "run")
    errors = [float(text.rpartition("bfloat16 moves them by ")[2].split("%")[0]) for text in half.screen.stored]
    assert len(errors) == 10 and all(0.1 <= error <= 0.3 for error in errors)
    moved = (torch.tensor(half.losses) - torch.tensor(whole.losses)).abs()
    assert not moved[:3].any(), "where nothing is frozen nothing is rounded"
    assert 0 < moved[3:].max() < 0.05
    floats = next(kinds for kinds in half.batches if kinds[0] == "top")[2]
    assert {tensor.dtype for name, tensor in floats.items() if name.endswith(".x")} == {torch.float32}


# ---- at once


def environment(rank: int, world: int, port: str) -> dict[str, str]:
    ranks = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": world,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return {name: str(value) for name, value in ranks.items()}


class Meeting(Watching):
    """Waits, before anything is stored, until the other run is as far."""

    def __init__(self, barrier):
        super().__init__()
        self.barrier = barrier

    @contextlib.contextmanager
    def counting(self, title: str, total: int):
        with contextlib.suppress(threading.BrokenBarrierError):  # the other has found all of it stored by now
            if title.startswith("storing"):
                self.barrier.wait(2)
        yield lambda count=1: None


def child(recipe: crossfade.Recipe, folder: Path, variables: dict[str, str], barrier, report: Path) -> None:
    """What one process does, and writes down."""
    os.environ |= variables
    torch.set_num_threads(1)
    run = train(recipe, folder, screen=Meeting(barrier) if barrier else None)
    rows = [[phase, epoch, batch["index"].tolist()] for phase, epoch, batch in run.batches]
    found = {"losses": run.losses, "rows": rows, "stored": run.screen.stored, "warned": run.screen.warned}
    report.write_text(json.dumps(found))
    os._exit(0)


def side_by_side(runs: list[tuple]) -> list[dict]:
    """What each process reports; an error of one is on its standard error, which pytest shows."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "crossfade.run", "crossfade.work"])
    barrier = context.Barrier(len(runs))
    processes = [context.Process(target=child, args=(*given[:3], barrier if given[3] else None, given[4])) for given in runs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * len(runs)
    return [json.loads(given[4].read_text()) for given in runs]


forks = pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no forkserver on this system")


@forks
def test_two_runs_at_once_on_one_store_are_both_right(recipe, whole: Trained, store: Path, tmp_path: Path):
    variables = {"CROSSFADE_STORE": str(store)}
    runs = [(recipe(), tmp_path / str(number), variables, True, tmp_path / f"{number}.json") for number in range(2)]
    found = side_by_side(runs)
    assert any("computed now" in text for each in found for text in each["stored"])
    for number, each in enumerate(found):
        assert each["losses"] == whole.losses and not each["warned"]
        assert same_numbers(Trained(tmp_path / str(number)), whole)


@forks
def test_two_processes_of_one_run_get_the_same_with_the_store_and_without(recipe, whole: Trained, store: Path, tmp_path: Path):
    found = {}
    for keep in ("on", "off"):
        variables = [environment(rank, 2, free_port()) | {"CROSSFADE_STORE": str(store)} for rank in range(2)]
        variables = [each | {"MASTER_PORT": variables[0]["MASTER_PORT"]} for each in variables]
        given = recipe("device=cpu", f"store={keep}", "data.batch=3")
        runs = [(given, tmp_path / keep, each, False, tmp_path / f"{keep}-{rank}.json") for rank, each in enumerate(variables)]
        found[keep] = side_by_side(runs)
    for ours, theirs in zip(found["on"], found["off"], strict=True):
        assert ours["rows"] == theirs["rows"] and ours["losses"] == pytest.approx(theirs["losses"], abs=1e-5)
    assert found["on"][0]["rows"] != found["on"][1]["rows"] and found["on"][0]["stored"] and not found["off"][0]["stored"]
    assert_close(history(tmp_path / "on"), history(tmp_path / "off"))
    assert_close(metrics_of(tmp_path / "on"), metrics_of(tmp_path / "off"))


# ---- two phases of one view


@pytest.mark.usefixtures("_nothing_explained")
def test_one_pass_serves_the_phase_that_freezes_less_too(place: Path, demo_clips: Path, tmp_path: Path, monkeypatch):
    """What the last stages begin from is stored on the way to what the heads begin from, and the numbers are those without the store."""
    recipe = partial(tiny, place, demo_clips, phases(seeing(TOP, 2), seeing(LAST, 2)), "data.batch=6")
    begun, run = Counter(), Encoder.run

    def counted(self, state, start=0, stop=None):
        begun["clips"] += len(state["x"]) if not start else 0
        return run(self, state, start, stop)

    monkeypatch.setattr(Encoder, "run", counted)
    stored = train(recipe(), tmp_path / "stored")
    counts = {split: sum(per.values()) for split, per in json.loads((stored.folder / "notes.json").read_text())["counts"].items()}
    assert begun["clips"] == 2 * (2 * counts["train"] + counts["val"] + counts["test"]), "two streams, two views; val and test are clean"
    plain = train(recipe("store=off"), tmp_path / "plain")
    assert_same(stored, plain)
    assert len(stored.screen.stored) == 4 + 4 + 4 + 2, "on the way, of the first phase, of the second (all there already), of test"


def test_a_cut_run_from_an_earlier_one_is_the_same(place: Path, demo_clips: Path):
    bench = Bench(tiny(place, demo_clips))
    bench.freeze({"encoders": None, "*": 1.0})
    plain = {cut.streams[0]: bench.activations().stored(cut, bench.clips) for cut in bench.cuts()}
    rows = torch.arange(len(bench.clips))
    expected = {name: tensor for stored in plain.values() if stored for name, tensor in stored.states(rows, ()).items()}
    shutil.rmtree(bench.desk.reader.store.root)
    again = Bench(tiny(place, demo_clips))
    below = {cut.streams: cut for cut in again.cuts() if "stages" in cut.what}
    again.freeze({"encoders": None, "*": 1.0})
    made = [again.activations().stored(cut, again.clips, below=below.get(cut.streams)) for cut in again.cuts()]
    found = {name: tensor for stored in made if stored for name, tensor in stored.states(rows, ()).items()}
    assert same(found, expected) and again.computed == {"audio": CLIPS, "video": CLIPS}
    assert len(again.screen.stored) == 3, "the ear's first stages, the ear, the eye"
