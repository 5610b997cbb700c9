"""Batches: the same whatever the workers, the start or the share; one set of streams each; random numbers per clip."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from crossfade.clip import UNKNOWN, Clip
from crossfade.data import loader as loader_file
from crossfade.data.augment import noise_at_snr
from crossfade.data.intake import Reader, take_in
from crossfade.data.loader import Loader, Samples, auto_workers, label_indices
from crossfade.data.ravdess import ravdess
from crossfade.data.streams import frames, waveform
from crossfade.store import Store

NOISE = noise_at_snr(probability=1.0)


@pytest.fixture(scope="module")
def clips(demo_clips) -> list[Clip]:
    """Of every four clips one has no picture and one no sound."""
    found = ravdess(root=demo_clips).clips
    without = {1: "video", 3: "audio"}
    return [
        replace(clip, media={kind: path for kind, path in clip.media.items() if kind != without.get(index % 4)})
        for index, clip in enumerate(found)
    ]


@pytest.fixture(scope="module")
def samples(clips, tmp_path_factory) -> Samples:
    streams = {"audio": replace(waveform(rate=16000, seconds=0.2), reads=("audio",)), "video": frames(count=2, size=16)}
    reader = Reader(streams, Store(tmp_path_factory.mktemp("arrays")))
    return Samples(clips, take_in(clips, reader).streams, reader, view={"audio": [NOISE]})


def make(samples, **options) -> Loader:
    classes = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
    return Loader(samples, {"emotion": label_indices(samples.clips, "emotion", classes)}, 3, **options)


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(first, second, strict=True)
    )


@pytest.fixture(scope="module")
def epoch(samples):
    return list(make(samples).shuffled(0, "train", 1))


def test_every_clip_comes_once_and_every_batch_has_one_set_of_streams(samples, epoch):
    assert sorted(row for batch in epoch for row in batch["index"].tolist()) == list(range(32))
    kinds = set()
    for batch in epoch:
        (streams,) = {samples.streams[samples.clips[row].id] for row in batch["index"].tolist()}
        assert set(batch) == {"index", "emotion", *streams, *(f"{name}.mask" for name in streams)}
        kinds.add(streams)
        assert all(len(tensor) == len(batch["index"]) <= 3 for tensor in batch.values())
    assert kinds == {("audio", "video"), ("audio",), ("video",)}


def test_shapes_and_types(epoch):
    batch = next(batch for batch in epoch if "audio" in batch and "video" in batch and len(batch["index"]) == 3)
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()}
    assert found == {
        "index": ((3,), torch.int64),
        "emotion": ((3,), torch.int64),
        "audio": ((3, 3200), torch.float32),
        "audio.mask": ((3, 3200), torch.bool),
        "video": ((3, 2, 3, 16, 16), torch.float32),
        "video.mask": ((3, 2), torch.bool),
    }


def test_workers_change_nothing_epoch_after_epoch(samples, epoch):
    two = make(samples, workers=2)
    assert same(list(two.shuffled(0, "train", 1)), epoch)
    assert same(list(two.shuffled(0, "train", 2, start=4)), list(make(samples).shuffled(0, "train", 2))[4:])
    assert same(list(two.in_order()), list(make(samples).in_order()))


@pytest.mark.parametrize("start", [0, 1, 5, 11, 12, 99])
def test_from_a_start_on_it_continues_exactly(samples, epoch, start):
    rest = make(samples).shuffled(0, "train", 1, start=start)
    assert len(rest) == max(len(epoch) - start, 0) and same(list(rest), epoch[start:])


def test_a_limit_counts_from_the_start_of_the_epoch(samples, epoch):
    assert same(list(make(samples).shuffled(0, "train", 1, limit=5)), epoch[:5])
    assert same(list(make(samples).shuffled(0, "train", 1, start=3, limit=5)), epoch[3:5])


@pytest.mark.parametrize("world", [2, 3, 5])
def test_shares_are_equally_many_and_partition_the_epoch(samples, epoch, world):
    shares = [list(make(samples, rank=rank, world=world).shuffled(0, "train", 1)) for rank in range(world)]
    assert {len(share) for share in shares} == {len(epoch) // world}
    rows = [row for share in shares for batch in share for row in batch["index"].tolist()]
    assert len(rows) == len(set(rows)) and len(epoch) * 3 - len(rows) < world * 3 + 12
    assert all(any(same([batch], [other]) for other in epoch) for share in shares for batch in share)


def test_more_processes_than_batches_all_get_one(samples):
    few = replace(samples, clips=samples.clips[:1])
    shares = [list(replace(make(few), rank=rank, world=3).shuffled(0)) for rank in range(3)]
    assert [len(share) for share in shares] == [1, 1, 1]
    assert list(replace(make(replace(samples, clips=[])), world=2).shuffled(0)) == []


def test_orders_differ_by_tag(samples, epoch):
    def order(*tag):
        return [row for batch in make(replace(samples, view={})).shuffled(*tag) for row in batch["index"].tolist()]

    assert order(0, "train", 1) == [row for batch in epoch for row in batch["index"].tolist()]
    assert len({tuple(order(*tag)) for tag in [(0, "train", 1), (0, "train", 2), (1, "train", 1), (0, "fine", 1)]}) == 4


def sound_by_row(batches) -> dict[int, torch.Tensor]:
    return {row: sound for batch in batches if "audio" in batch for row, sound in zip(batch["index"].tolist(), batch["audio"], strict=True)}


def test_views_differ_by_epoch_and_by_clip_and_are_equal_for_equal_seeds(samples, epoch):
    first, again, other = (
        sound_by_row(epoch),
        sound_by_row(make(samples).shuffled(0, "train", 1)),
        sound_by_row(make(samples).shuffled(0, "train", 2)),
    )
    clean = sound_by_row(make(replace(samples, view={})).in_order())
    assert all(torch.equal(first[row], again[row]) for row in first)
    assert not any(torch.equal(first[row], other[row]) or torch.equal(first[row], clean[row]) for row in first)
    noise = [(first[row] - clean[row])[:50] for row in sorted(first)[:2]]
    assert abs(float(torch.corrcoef(torch.stack(noise))[0, 1])) < 0.6


def test_a_clip_s_view_does_not_depend_on_the_batch_size(samples, epoch):
    one = sound_by_row(replace(make(samples), batch=1).shuffled(0, "train", 1))
    assert all(torch.equal(sound, one[row]) for row, sound in sound_by_row(epoch).items())


def test_a_degraded_clip_is_the_same_in_every_epoch_split_and_seed(samples):
    spoiled = replace(samples, view={}, degrade={"audio": [NOISE]})
    first = sound_by_row(make(spoiled).shuffled(0, "train", 1))
    clean = sound_by_row(make(replace(samples, view={})).in_order())
    for batches in (make(spoiled).shuffled(5, "train", 2), make(spoiled).in_order(), make(spoiled, workers=2).in_order()):
        found = sound_by_row(batches)
        assert all(torch.equal(first[row], found[row]) and not torch.equal(clean[row], found[row]) for row in first)


def test_a_degraded_clip_keeps_its_own_noise_under_a_view(samples):
    both = replace(samples, degrade={"audio": [NOISE]})
    alone = sound_by_row(make(replace(both, view={})).in_order())
    first, second = (sound_by_row(make(both).shuffled(0, "train", number)) for number in (1, 2))
    assert not any(torch.equal(first[row], second[row]) or torch.equal(first[row], alone[row]) for row in first)


def test_labels_by_name_and_unknown_ones():
    clips = [Clip(str(index), {}, labels, "g") for index, labels in enumerate([{"a": "x"}, {}, {"a": "z"}, {"b": "x"}, {"a": "y"}])]
    assert label_indices(clips, "a", ["x", "y"]).tolist() == [0, UNKNOWN, UNKNOWN, UNKNOWN, 1]


@pytest.mark.parametrize(
    ("platform", "release", "media", "cores", "expected"),
    [
        ("win32", None, None, 16, 0),
        ("linux", "5.15.90.1-microsoft-standard-WSL2", "/mnt/c/data/a.wav", 16, 0),
        ("linux", "5.15.90.1-Microsoft-standard-WSL2", "/home/me/a.wav", 16, 2),
        ("linux", "5.15.90.1-microsoft-standard-WSL2", "/mnter/a.wav", 16, 2),
        ("linux", "5.15.90.1-microsoft-standard-WSL2", None, 16, 2),
        ("linux", "6.8.0-generic", "/mnt/c/a.wav", 16, 8),
        ("linux", "6.8.0-generic", None, 64, 8),
        ("linux", "6.8.0-generic", None, 6, 3),
        ("linux", "6.8.0-generic", None, 1, 2),
        ("linux", "6.8.0-generic", None, None, 2),
        ("darwin", "23.1.0", None, 8, 4),
    ],
)
def test_automatic_workers(monkeypatch, platform, release, media, cores, expected):
    def uname():
        assert release, "Windows has no uname"
        return SimpleNamespace(release=release)

    monkeypatch.setattr(loader_file.sys, "platform", platform)
    monkeypatch.setattr(loader_file.os, "uname", uname, raising=False)
    monkeypatch.setattr(loader_file.os, "cpu_count", lambda: cores)
    assert auto_workers(-1, Path(media) if media else None) == expected
    assert auto_workers(3) == 3 and auto_workers(0) == 0


def test_workers_end_with_their_loader_and_at_once(samples):
    two = make(samples, workers=2)
    list(two.in_order())
    workers = two._live._iterator._workers
    started = time.perf_counter()
    del two
    assert not any(worker.is_alive() for worker in workers) and time.perf_counter() - started < 8  # where the sweep ends them it takes 10 s


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals go to a group of processes where there is fork")
def test_a_signal_does_not_end_a_worker_that_is_just_starting(samples, epoch, monkeypatch):
    """PyTorch lets SIGTERM end its workers, and imports for milliseconds before it asks us what they are to do."""
    set_by_torch = signal_handling._set_worker_signal_handlers

    def asked_to_end():
        set_by_torch()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", asked_to_end)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert same(list(make(samples, workers=1).shuffled(0, "train", 1)), epoch)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_persistent_workers_and_prefetch_only_above_nought(samples):
    made = make(samples, workers=2).in_order().made
    assert isinstance(made, DataLoader) and made.persistent_workers and made.prefetch_factor == 2 and made.num_workers == 2
    alone = make(samples).in_order().made
    assert isinstance(alone, DataLoader) and alone.num_workers == 0 and not alone.persistent_workers


def test_stored_arrays_are_not_written_into(samples):
    before = {path: path.read_bytes() for path in samples.reader.store.root.rglob("*.npy")}
    list(make(replace(samples, degrade={"audio": [NOISE]})).shuffled(3))
    assert len(before) == 48 and before == {path: path.read_bytes() for path in samples.reader.store.root.rglob("*.npy")}
    assert not samples.reader.read(samples.clips[0], "audio").flags.writeable


def test_a_teacher_sees_each_stream_in_its_own_view(samples):
    def first(**changes) -> dict[str, torch.Tensor]:
        return next(batch for batch in make(replace(samples, **changes)).shuffled(3) if "audio" in batch)

    clean, batch = first(view={}), first(view={"audio": [NOISE]}, teacher={})
    own = [name for name in clean if name.split(".")[0] in ("audio", "video")]
    assert set(batch) - set(clean) == {name.replace("audio", "audio@teacher").replace("video", "video@teacher") for name in own}
    assert torch.equal(batch["audio@teacher"], clean["audio"]) and torch.equal(batch["audio@teacher.mask"], clean["audio.mask"])
    assert not torch.equal(batch["audio"], clean["audio"])
    both = first(view={"audio": [NOISE]}, teacher={"audio": [NOISE]})
    assert torch.equal(both["audio"], batch["audio"]) and not torch.equal(both["audio"], both["audio@teacher"]), "another draw"


def test_an_order_of_its_own(samples):
    alike = [row for row, clip in enumerate(samples.clips) if samples.streams[clip.id] == samples.streams[samples.clips[0].id]]
    wanted = [[alike[0], alike[0], alike[2]], [alike[1]]]
    made = make(samples, order=lambda generator: [torch.tensor(rows) for rows in wanted])
    assert sorted(sorted(rows.tolist()) for rows in made.shuffled(3).plan) == sorted(sorted(rows) for rows in wanted)
    assert sum(len(rows) for rows in made.in_order().plan) == len(samples), "judging sees every clip once"
