"""Stored states join a batch by row: each from the draw that its turn picks, in the order asked for, with no clip touched on the way."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from crossfade.clip import Clip
from crossfade.data.augment import noise_at_snr
from crossfade.data.intake import Reader, take_in
from crossfade.data.loader import Loader, Samples, label_indices
from crossfade.data.ravdess import ravdess
from crossfade.data.stored import Draws, Stored, array_of, tensor_of
from crossfade.data.streams import frames, waveform
from crossfade.store import Store

# ---- tensors and arrays


TENSORS = {
    "float32": torch.randn(3, 5),
    "bfloat16": torch.randn(3, 5).bfloat16(),
    "float16": torch.randn(3, 5).half(),
    "bool": torch.rand(3, 5) > 0.5,
    "int64": torch.randint(-(2**40), 2**40, (3,)),
    "extremes": torch.tensor([[float("inf"), -float("inf"), -0.0, 1e-45, 3.4e38]]),
    "not contiguous": torch.randn(5, 3).T,
    "expanded": torch.randn(1, 4).expand(3, 4),
    "nothing": torch.zeros(0, 4),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_back_as_it_was(name: str):
    given = TENSORS[name]
    array = array_of(given)
    assert isinstance(array, np.ndarray) and array.dtype == (np.uint16 if name == "bfloat16" else given.numpy().dtype)
    found = tensor_of(array.copy())
    assert found.dtype == given.dtype and torch.equal(found, given)


def test_one_that_learns_or_was_made_for_inference_comes_back_plain():
    with torch.inference_mode():
        made = torch.ones(2, 3)
    for given in (made, torch.ones(2, 3, requires_grad=True)):
        found = tensor_of(array_of(given).copy())
        assert not found.requires_grad and not found.is_inference() and torch.equal(found, torch.ones(2, 3))


def test_narrowing_rounds_float32_alone_and_widening_gives_it_back():
    given = torch.randn(1000)
    narrow = array_of(given, narrow=True)
    assert narrow.dtype == np.uint16 and narrow.nbytes == 2000
    assert torch.equal(tensor_of(narrow), given.bfloat16())
    wide = tensor_of(narrow, widen=True)
    assert wide.dtype == torch.float32 and torch.equal(wide, given.bfloat16().float())
    assert ((wide - given).abs() <= given.abs() * 2**-8).all() and not torch.equal(wide, given)
    for name in ("bool", "int64", "float16", "bfloat16"):
        assert torch.equal(tensor_of(array_of(TENSORS[name], narrow=True).copy()), TENSORS[name])
    assert tensor_of(array_of(TENSORS["bool"], narrow=True), widen=True).dtype == torch.bool


# ---- draws


def test_every_epoch_picks_anew_and_every_draw_comes_up():
    draws = Draws(4, seed=0)
    picks = {epoch: [draws.pick("audio", (0, "train", epoch), row) for row in range(400)] for epoch in range(3)}
    assert all(min(Counter(each).values()) > 60 and set(each) == {0, 1, 2, 3} for each in picks.values())
    for one, other in pairwise(picks.values()):
        assert 0.15 < np.mean(np.array(one) == np.array(other)) < 0.35, "a quarter by chance"
    assert picks[1] == [draws.pick("audio", (0, "train", 1), row) for row in range(400)]
    assert picks[1] != [draws.pick("video", (0, "train", 1), row) for row in range(400)]


def test_while_it_is_stored_one_draw_comes_at_every_turn():
    assert {Draws(4, 0, only=only).pick("audio", ("any", epoch), row) for only in (2,) for epoch in range(5) for row in range(9)} == {2}


def test_a_draw_has_a_seed_of_its_own():
    """By run, stream, clip and number: nothing of the phase, so that phases share what is stored."""
    draws = Draws(4, seed=0)
    others = [draws.seed_for("audio", "a", 1), draws.seed_for("audio", "b", 0), draws.seed_for("video", "a", 0)]
    others += [Draws(4, seed=1).seed_for("audio", "a", 0), draws.seed_for("audio", "a", 0)]
    assert len(set(others)) == 5 and others[-1] == Draws(9, seed=0, only=3).seed_for("audio", "a", 0)


# ---- rows


class Table:
    """Rows in memory, as `rows.Table` hands them out."""

    def __init__(self, number: int, rows: int = 20):
        generator = np.random.default_rng(number)
        self.x = generator.normal(size=(rows, 2, 3)).astype(np.float32)
        self.mask = generator.random((rows, 2)) > 0.5

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {"audio[1:].x": self.x[indices], "audio[1:].mask": self.mask[indices]}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_row_comes_from_its_own_draw_in_the_order_asked_for(count: int):
    tables, draws, tag = [Table(number) for number in range(count)], Draws(count, seed=3), (3, "train", 7)
    stored = Stored(("audio", "ear"), [True] * 20, tables, draws)
    for rows in (torch.randperm(20), torch.tensor([5]), torch.tensor([7, 3, 3, 19, 0, 7])):
        found = stored.states(rows, tag)
        assert found.keys() == {"audio[1:].x", "audio[1:].mask"}
        for place, row in enumerate(rows.tolist()):  # the plain loop
            table = tables[draws.pick("audio", tag, row)]
            assert torch.equal(found["audio[1:].x"][place], torch.from_numpy(table.x[row]))
            assert torch.equal(found["audio[1:].mask"][place], torch.from_numpy(table.mask[row]))


def test_clean_rows_come_from_the_only_table():
    table = Table(0)
    found = Stored(("audio",), [True] * 20, [table]).states(torch.tensor([4, 1]), ("any",))
    assert torch.equal(found["audio[1:].x"], torch.from_numpy(table.x[[4, 1]]))


def test_clips_without_the_stream_get_nothing():
    has = [row % 2 == 0 for row in range(20)]
    assert Stored(("audio",), has, [Table(0)]).states(torch.tensor([3, 5]), ()) == {}
    assert Stored(("audio",), has, [Table(0)]).states(torch.tensor([2, 4]), ())


# ---- in a loader


NOISE = noise_at_snr(probability=1.0)
STATE = "audio[0:].x"  # what enters the first stage, so the stream itself


@pytest.fixture(scope="module")
def samples(demo_clips: Path, tmp_path_factory) -> Samples:
    """Of every four clips one has no sound."""
    clips = [
        replace(clip, media={kind: path for kind, path in clip.media.items() if kind != "audio" or index % 4})
        for index, clip in enumerate(ravdess(root=demo_clips).clips)
    ]
    streams = {"audio": replace(waveform(rate=16000, seconds=0.2), reads=("audio",)), "video": frames(count=2, size=16)}
    reader = Reader(streams, Store(tmp_path_factory.mktemp("arrays")))
    return Samples(clips, take_in(clips, reader).streams, reader)


class Memory:
    """A table of what a loader without a store makes of each clip."""

    def __init__(self, samples: Samples):
        self.rows: dict[int, torch.Tensor] = {}
        for batch in Loader(samples, {}, 1).in_order():
            self.rows |= {int(batch["index"]): batch["audio"][0]} if "audio" in batch else {}

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {STATE: np.stack([self.rows[row].numpy() for row in indices.tolist()])}


def stored_of(samples: Samples, draws: Draws | None = None) -> Stored:
    turns = [None] if draws is None else [replace(draws, only=number) for number in range(draws.count)]
    tables = [Memory(replace(samples, draws={"audio": turn} if turn else {})) for turn in turns]
    return Stored(("audio",), ["audio" in samples.streams[clip.id] for clip in samples.clips], tables, draws)


def make(samples: Samples, **options) -> Loader:
    classes = sorted({clip.labels["emotion"] for clip in samples.clips})
    return Loader(samples, {"emotion": label_indices(samples.clips, "emotion", classes)}, 3, **options)


def assert_equal(served, fresh) -> None:
    """The batches with states in place of the sound are those with the sound."""
    served, fresh = list(served), list(fresh)
    assert len(served) == len(fresh) > 3
    for ours, theirs in zip(served, fresh, strict=True):
        assert "audio" not in ours and "audio.mask" not in ours and (STATE in ours) == ("audio" in theirs)
        given = {"audio" if name == STATE else name: value for name, value in ours.items()}
        assert given.keys() == theirs.keys() - {"audio.mask"}
        assert all(torch.equal(value, theirs[name]) for name, value in given.items())


ORDERS = {
    "an epoch": lambda loader: loader.shuffled(0, "train", 1),
    "the rest of an epoch": lambda loader: loader.shuffled(0, "train", 1, start=3, limit=9),
    "a process's share": lambda loader: replace(loader, rank=1, world=2).shuffled(0, "train", 1),
    "in order": lambda loader: loader.in_order(),
}


@pytest.mark.parametrize("draws", [None, Draws(3, seed=5)], ids=["clean", "views"])
@pytest.mark.parametrize("order", ORDERS)
def test_batches_are_those_of_fresh_streams(samples: Samples, order: str, draws: Draws | None):
    seen = replace(samples, view={"audio": [NOISE]} if draws else {}, draws={"audio": draws} if draws else {})
    stored = stored_of(seen, draws)
    without = replace(seen, without=frozenset({"audio"}))
    assert_equal(ORDERS[order](make(without, stored=[stored])), ORDERS[order](make(seen)))


def test_views_with_a_number_repeat_and_no_others_come(samples: Samples):
    seen = replace(samples, view={"audio": [NOISE]}, draws={"audio": Draws(3, seed=5)})
    sounds: dict[int, set[bytes]] = {}
    for epoch in range(12):
        for batch in make(seen).shuffled(0, "train", epoch):
            for row, sound in zip(batch["index"].tolist(), batch.get("audio", ()), strict=False):
                sounds.setdefault(row, set()).add(sound.numpy().tobytes())
    assert {len(each) for each in sounds.values()} == {3}
    assert len(set.union(*sounds.values())) == 3 * len(sounds)


def test_where_all_is_stored_no_clip_is_read_and_nothing_is_collated(samples: Samples, monkeypatch):
    clips = [clip for clip in samples.clips if samples.streams[clip.id] == ("audio", "video")]
    stored = stored_of(replace(samples, clips=clips))
    alone = replace(samples, clips=clips, without=frozenset({"audio", "video"}))
    loader = make(alone, stored=[stored], workers=2)
    monkeypatch.setattr(Reader, "read", lambda *_: pytest.fail("a clip was read"))
    monkeypatch.setattr(Samples, "__getitem__", lambda *_: pytest.fail("a clip was made"))
    served = loader.shuffled(0, "train", 1)
    assert served.made is None and len(served) == len(list(served)) == 8
    assert {name for batch in served for name in batch} == {"index", "emotion", STATE}


def test_only_what_is_not_stored_goes_through_the_workers(samples: Samples):
    stored = stored_of(samples)
    without = replace(samples, without=frozenset({"audio"}))
    two = make(without, stored=[stored], workers=2)
    for epoch in range(3):
        assert_equal(two.shuffled(0, "train", epoch), make(samples).shuffled(0, "train", epoch))
    made = two.shuffled(0, "train", 0).made
    assert made is not None and {name for batch in made for name in batch} <= {"video", "video.mask"}


def test_an_unfinished_epoch_leaves_nothing_behind_for_the_next(samples: Samples):
    """A signal or an error ends a loop in the middle; what workers had made ahead must not come later."""
    without = replace(samples, without=frozenset({"audio"}))
    for workers in (0, 1):
        loader = make(without, stored=[stored_of(samples)], workers=workers)
        for number, _ in enumerate(loader.shuffled(0, "train", 0)):
            if number == 1:
                break
        assert_equal(loader.shuffled(0, "train", 1), make(samples).shuffled(0, "train", 1))


def test_clips_of_one_file_in_two_spans_are_two_clips(samples: Samples):
    """Rows are told apart by place, not by file."""
    clip = next(clip for clip in samples.clips if "audio" in samples.streams[clip.id])
    halves = [replace(clip, id=f"{clip.id}@{start}", span=(start, start + 0.1)) for start in (0.0, 0.1)]
    both = Samples(halves, {half.id: ("audio",) for half in halves}, samples.reader)
    found = next(iter(Loader(replace(both, without=frozenset({"audio"})), {}, 2, stored=[stored_of(both)]).in_order()))
    assert not torch.equal(found[STATE][0], found[STATE][1]) and isinstance(halves[0], Clip)
