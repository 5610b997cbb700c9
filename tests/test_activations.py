"""Rows of activations: computed once, never stale, whole again after any damage, and missed by nobody where there is no room."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_exact import WAVLM, Watching
from tiny import SOUND_ONLY, tiny

import crossfade
from crossfade import activations as activations_file
from crossfade import build, judge
from crossfade.activations import Activations, cuts, with_files
from crossfade.data import streams as streams_file
from crossfade.data.stored import Draws, Stored
from crossfade.training import rates
from crossfade.training.frozen import frozen
from crossfade.training.loop import Interrupted

CLIPS = 32
FROZEN: dict[str, float | None] = {"encoders.audio[-1:]": 1.0, "encoders": None, "*": 1.0}


class Bench:
    """A recipe's model, three stages of its ear and all of its eye frozen, and its clips; it counts what goes through the encoders."""

    def __init__(self, recipe: crossfade.Recipe, *, without: dict[str, str] | None = None):
        corpus = build.corpus(recipe)
        lacks = (without or {}).get
        clips = [replace(clip, media={kind: path for kind, path in clip.media.items() if kind != lacks(clip.id)}) for clip in corpus.clips]
        self.recipe, self.screen = recipe, Watching()
        self.desk = judge.open_desk(recipe, corpus.classes, torch.device("cpu"))
        self.intake = self.desk.intake(clips, lambda: None)
        self.clips = self.intake.clips
        torch.manual_seed(0)
        self.model = build.model(recipe, corpus.classes)
        self.freeze(FROZEN)
        self.computed = Counter(dict.fromkeys(self.model.encoders, 0))
        for name, encoder in self.model.encoders.items():
            encoder.begin = self._counting(name, encoder.begin)

    def _counting(self, name: str, begin: Callable) -> Callable:
        def counted(x, mask):
            self.computed[name] += len(x)
            return begin(x, mask)

        return counted

    def freeze(self, table: dict[str, float | None]) -> None:
        rates.freeze(self.model, rates.resolve(self.model, table))
        self.model.eval()

    def cuts(self, *, whole: bool = False):
        return cuts(self.desk, self.model, frozen(self.model), whole=whole)

    def activations(self, **options) -> Activations:
        return Activations(self.desk, self.intake, self.screen, **{"stop": lambda: None, **options})

    def stored(self, sees: str | None = None, draws: Draws | None = None, **options) -> dict[str, Stored | None]:
        made = self.activations(**options)
        return {cut.streams[0]: made.stored(cut, self.clips, sees, draws) for cut in self.cuts()}

    def states(self, *given, **options) -> dict[str, torch.Tensor]:
        """Of all clips in order, by what the model calls them."""
        rows = torch.arange(len(self.clips))
        found = [each.states(rows, ()) for each in self.stored(*given, **options).values() if each]
        return {name: tensor for states in found for name, tensor in states.items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(scope="module")
def filled(place: Path, demo_clips: Path, tmp_path_factory) -> Path:
    """A store that holds what the tiny recipe's bench computes."""
    root = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFADE_STORE", str(root))
        bench = Bench(tiny(place, demo_clips))
        bench.stored()
        bench.stored("augmented", Draws(2, seed=0))
    assert bench.computed == {"audio": 3 * CLIPS, "video": 3 * CLIPS}
    return root


@pytest.fixture
def again(filled: Path, store: Path) -> Path:
    """A copy of it, to add to and to damage."""
    shutil.copytree(filled, store)
    return store


# ---- computed once


def test_rows_are_what_the_model_makes_of_the_clips_and_are_computed_once(place: Path, demo_clips: Path):
    bench = Bench(tiny(place, demo_clips))
    found = bench.states()
    assert bench.computed == {"audio": CLIPS, "video": CLIPS}
    assert found.keys() == {"audio[3:].x", "audio[3:].mask", "video[4:].x", "video[4:].mask"}
    expected = [bench.model.states(batch, {"audio": 3, "video": 4}) for batch in bench.desk.loader(bench.clips, bench.intake).in_order()]
    assert all(torch.equal(found[name], torch.cat([states[name] for states in expected])) for name in found)
    later = Bench(tiny(place, demo_clips))
    assert same(later.states(), found) and not sum(later.computed.values())
    assert all("32 computed now" in text for text in bench.screen.stored) and len(bench.screen.stored) == 2 and not later.screen.said


def test_a_clip_more_is_a_row_more(place: Path, demo_clips: Path):
    bench = Bench(tiny(place, demo_clips))
    whole = bench.clips
    bench.clips = whole[:20]
    bench.stored()
    bench.clips = whole[::-1]
    found = bench.states()
    assert bench.computed == {"audio": CLIPS, "video": CLIPS}
    (batch, *_) = bench.desk.loader(bench.clips, bench.intake).in_order()
    for name, expected in bench.model.states(batch, {"audio": 3, "video": 4}).items():
        torch.testing.assert_close(found[name][:8], expected)


def flip(tensor: torch.Tensor) -> None:
    flat = tensor.data.view(-1)[-1:].view(torch.uint8)
    flat[0] ^= 1


def stage(bench: Bench, stream: str, number: int) -> torch.nn.Module:
    return bench.model.encoders[stream].stages[number]


NOISY = "data.degrade={audio: [{use: noise_at_snr, probability: 1}]}"
LATER = {"encoders.audio[-2:]": 1.0, "encoders.video[-1:]": 1.0, "encoders": None, "*": 1.0}
CHANGED = {  # of the model -> how many rows of ear and eye are computed anew
    "a weight": (lambda bench: flip(next(stage(bench, "audio", 2).parameters())), (CLIPS, 0)),
    "a buffer": (lambda bench: flip(next(stage(bench, "video", 0).buffers())), (0, CLIPS)),
    "what follows the cut": (lambda bench: flip(next(stage(bench, "audio", 3).parameters())), (0, 0)),
    "where it is cut": (lambda bench: bench.freeze(LATER), (CLIPS, CLIPS)),
}
OVERRIDDEN = {  # of the recipe -> the same
    "nothing": ((), (0, 0)),
    "what does not matter": (("data.batch=5", "data.workers=1", "name=other", "phases.all.epochs=9", "phases.all.sees=null"), (0, 0)),
    "the fusion": (("model.merge.dim=8", "model.drop_stream=0", "seed=1"), (0, 0)),
    "an option of an encoder": (("model.encoders.video.width=8",), (0, CLIPS)),
    "an option of a stream": (("data.streams.audio.scale=slaney",), (CLIPS, 0)),
    "another option of a stream": (("data.streams.video.count=3",), (0, CLIPS)),
    "tokens instead of their mean": (("model.mix=[{use: cross_attention, dim: 16}]", "model.merge.project=false"), (0, CLIPS)),
    "a condition of the test": ((NOISY,), (CLIPS, 0)),
    "half the room": (("store.dtype=bfloat16",), (CLIPS + 4, CLIPS + 4)),  # and a few for the error that is said
}


@pytest.mark.parametrize("change", [*CHANGED, *OVERRIDDEN])
def test_what_shapes_a_row_computes_it_anew_and_nothing_else_does(place: Path, demo_clips: Path, again: Path, change: str):
    overrides, expected = OVERRIDDEN.get(change, ((), None))
    bench = Bench(tiny(place, demo_clips, *overrides))
    alter, expected = CHANGED.get(change, (lambda bench: None, expected))
    alter(bench)
    bench.stored()
    assert (bench.computed["audio"], bench.computed["video"]) == expected


def test_precision_belongs_to_the_name(place: Path, demo_clips: Path, again: Path):
    bench = Bench(tiny(place, demo_clips))
    bench.stored(precision="bf16")
    assert bench.computed == {"audio": CLIPS, "video": CLIPS}


@pytest.mark.parametrize("file", [activations_file, streams_file], ids=["of what runs", "of what decodes"])
def test_so_do_versions(place: Path, demo_clips: Path, again: Path, monkeypatch, file):
    found = file.versions
    for name in ("numpy", "torch"):
        with monkeypatch.context() as patch:
            patch.setattr(file, "versions", lambda *names, name=name: found(*names) | ({name: "next"} if name in names else {}))
            bench = Bench(tiny(place, demo_clips))
            bench.stored()
        expected = CLIPS if (name, file) != ("torch", streams_file) else 0  # sound is decoded without it
        assert bench.computed == {"audio": expected, "video": CLIPS}


def test_an_option_that_moves_no_weight_belongs_to_the_name(place: Path, demo_clips: Path):
    """WavLM with and without `normalize` has the same weights, and other activations."""
    pytest.importorskip("transformers")
    wavlm = (*SOUND_ONLY, "data.streams.audio={use: waveform, seconds: 0.5}", f"model.encoders.audio={{use: wavlm, config: {WAVLM}}}")
    plain, other = Bench(tiny(place, demo_clips, *wavlm)), Bench(tiny(place, demo_clips, *wavlm, "model.encoders.audio.normalize=true"))
    assert not same(plain.states(), other.states()) and plain.computed == other.computed == {"audio": CLIPS}
    assert plain.cuts()[0].made_by["weights"] == other.cuts()[0].made_by["weights"]


# ---- clips


def test_a_clip_that_changes_is_the_only_one_computed_and_a_corpus_may_move(place: Path, demo_clips: Path, again: Path, tmp_path: Path):
    before = Bench(tiny(place, demo_clips)).states()
    shutil.copytree(demo_clips, tmp_path / "moved")
    moved = Bench(tiny(place, tmp_path / "moved"))
    assert same(moved.states(), before) and not sum(moved.computed.values())
    sounds = sorted((tmp_path / "moved").rglob("03-*.wav"))
    sounds[5].write_bytes(sounds[20].read_bytes())
    edited = Bench(tiny(place, tmp_path / "moved"))
    after = edited.states()
    assert edited.computed == {"audio": 1, "video": 0}
    row = [clip.media["audio"] for clip in edited.clips].index(sounds[5])
    rest = [number for number in range(CLIPS) if number != row]
    assert torch.equal(after["audio[3:].x"][rest], before["audio[3:].x"][rest])
    assert not torch.equal(after["audio[3:].x"][row], before["audio[3:].x"][row])
    (other,) = [number for number, clip in enumerate(edited.clips) if clip.media["audio"] == sounds[20]]
    torch.testing.assert_close(after["audio[3:].x"][row], after["audio[3:].x"][other])


def test_a_span_of_a_file_is_a_clip_of_its_own(place: Path, demo_clips: Path):
    bench = Bench(tiny(place, demo_clips))
    clip = bench.clips[0]
    halves = [replace(clip, id=f"{clip.id}@{start}", span=(start, start + 0.25)) for start in (0.0, 0.25)]
    bench.intake = replace(bench.intake, streams={half.id: ("audio", "video") for half in halves})
    bench.clips = halves
    found = bench.states()
    assert bench.computed == {"audio": 2, "video": 2} and not torch.equal(found["audio[3:].x"][0], found["audio[3:].x"][1])


def test_two_clips_of_one_file_share_its_row_unless_they_are_degraded(place: Path, demo_clips: Path):
    for overrides, alike in (((), True), ((NOISY,), False)):
        bench = Bench(tiny(place, demo_clips, *overrides))
        clip = bench.clips[0]
        bench.clips = [clip, replace(clip, id="again")]
        bench.intake = replace(bench.intake, streams={each.id: ("audio", "video") for each in bench.clips})
        found = bench.states()["audio[3:].x"]
        assert torch.equal(found[0], found[1]) == alike


def test_clips_without_a_stream_have_no_row_and_get_none(place: Path, demo_clips: Path):
    names = [clip.id for clip in build.corpus(tiny(place, demo_clips)).clips]
    bench = Bench(tiny(place, demo_clips), without=dict.fromkeys(names[::3], "video"))
    found = bench.stored()["video"]
    assert found and bench.computed == {"audio": CLIPS, "video": CLIPS - 11}
    assert list(found.has) == [number % 3 > 0 for number in range(CLIPS)]
    assert found.states(torch.tensor([0, 3]), ()) == {} and len(found.states(torch.tensor([1, 2]), ())["video[4:].x"]) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stream_that_no_clip_of_a_split_has(place: Path, demo_clips: Path, dtype: str):
    recipe = tiny(place, demo_clips, f"store.dtype={dtype}")
    bench = Bench(recipe, without={clip.id: "video" for clip in build.corpus(recipe).clips})
    found = bench.activations().stored(bench.cuts()[1], bench.clips, of="val ")
    assert found is None or (not any(found.has) and found.states(torch.tensor([0, 3]), ()) == {})
    assert bench.computed["video"] == 0 and not bench.screen.warned


# ---- views


def seen(bench: Bench, count: int) -> dict[str, list[np.ndarray]]:
    """Every draw's rows, by stream."""
    rows = {}
    for name, stored in bench.stored("augmented", Draws(count, 0)).items():
        assert stored
        rows[name] = [next(iter(table.take(np.arange(CLIPS)).values())) for table in stored.tables]
    return rows


def test_each_draw_is_stored_once_and_one_more_is_one_more(place: Path, demo_clips: Path, again: Path):
    bench = Bench(tiny(place, demo_clips, "data.views.augmented.audio.0.probability=0.5"))
    two = seen(bench, 2)
    assert not sum(bench.computed.values())
    three = seen(bench, 3)
    assert bench.computed == {"audio": CLIPS, "video": CLIPS}
    for name in ("audio", "video"):
        assert all((one == other).all() for one, other in zip(two[name], three[name], strict=False))
        assert not (three[name][0] == three[name][1]).all() and not (three[name][1] == three[name][2]).all()


REDRAWN = {  # overrides, the view, the seed of its draws -> how many rows of ear and eye are computed anew
    "nothing": ((), "augmented", 0, (0, 0)),
    "its name": (("data.views.other={audio: [{use: noise_at_snr}], video: [{use: darken}]}",), "other", 0, (0, 0)),
    "the seed": ((), "augmented", 1, (2 * CLIPS, 2 * CLIPS)),
    "an option": (("data.views.augmented.audio.0.probability=1",), "augmented", 0, (2 * CLIPS, 0)),
    "another option": (("data.views.augmented.video.0.low=0.1",), "augmented", 0, (0, 2 * CLIPS)),
    "one more": (("data.views.augmented.video=[{use: darken}, {use: blur}]",), "augmented", 0, (0, 2 * CLIPS)),
    "a condition of the test": ((NOISY,), "augmented", 0, (2 * CLIPS, 0)),
}


@pytest.mark.parametrize("change", REDRAWN)
def test_what_shapes_a_view_draws_it_anew_and_nothing_else_does(place: Path, demo_clips: Path, again: Path, change: str):
    overrides, view, seed, expected = REDRAWN[change]
    bench = Bench(tiny(place, demo_clips, *overrides))
    bench.stored(view, Draws(2, seed))
    assert (bench.computed["audio"], bench.computed["video"]) == expected


@pytest.mark.parametrize("kind", ["view", "degrade"])
def test_what_is_in_a_noise_file_belongs_to_the_name(place: Path, demo_clips: Path, tmp_path: Path, kind: str):
    sounds = sorted(demo_clips.rglob("03-*.wav"))
    noise = tmp_path / "noise.wav"
    spec = f"{{audio: [{{use: noise_at_snr, probability: 1, file: {noise}}}]}}"
    override = {"view": f"data.views.augmented={spec}", "degrade": f"data.degrade={spec}"}[kind]
    found = []
    for sound in (sounds[0], sounds[0], sounds[-1]):
        if not noise.exists() or noise.read_bytes() != sound.read_bytes():
            noise.write_bytes(sound.read_bytes())
        bench = Bench(tiny(place, demo_clips, override))
        bench.stored(*(["augmented", Draws(1, 0)] if kind == "view" else []))
        found.append(bench.computed["audio"])
    assert found == [CLIPS, 0, CLIPS]


def test_files_in_specs_are_named_by_what_is_in_them(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(b"one")
    specs = [{"use": "noise_at_snr", "file": str(tmp_path / "a.wav"), "snr": [3.0]}, {"use": "blur"}]
    first = with_files(specs)
    assert first[1] == {"use": "blur"} and first[0].items() > specs[0].items() and with_files(specs) == first
    (tmp_path / "a.wav").write_bytes(b"two, and longer")
    assert with_files(specs) != first


# ---- no room, half the room


def test_without_room_it_says_so_once_and_gives_none(place: Path, demo_clips: Path, store: Path):
    bench = Bench(tiny(place, demo_clips, "store.limit=2"))
    assert bench.stored() == {"audio": None, "video": None}
    assert len(bench.screen.warned) == 2 and not bench.screen.said
    for text, what in zip(bench.screen.warned, ("audio encoder, stages 1 to 3 of 4", "video encoder"), strict=True):
        assert text.endswith(f"the frozen part ({what}) runs anew in every epoch") and "limit" in text and str(store) in text
    assert not list(store.rglob("seg-*"))


def test_what_has_no_room_any_more_is_still_read(place: Path, demo_clips: Path, again: Path):
    bench = Bench(tiny(place, demo_clips, "store.limit=2"))
    assert all(bench.stored().values()) and not sum(bench.computed.values()) and not bench.screen.warned


def test_bfloat16_takes_half_the_room_and_says_what_it_moves(place: Path, demo_clips: Path, again: Path):
    exact = Bench(tiny(place, demo_clips)).states()
    bench = Bench(tiny(place, demo_clips, "store.dtype=bfloat16"))
    found = bench.states()
    rounded = {name: tensor.bfloat16().float() if name.endswith(".x") else tensor for name, tensor in exact.items()}
    assert same(found, rounded) and {tensor.dtype for tensor in found.values()} == {torch.float32, torch.bool}
    for text, name in zip(bench.screen.stored, ("audio[3:].x", "video[4:].x"), strict=True):
        few = exact[name][: activations_file.CHECKED]
        moved = (found[name][: len(few)] - few).norm() / few.norm()
        said = float(text.partition("bfloat16 moves them by ")[2].partition("%")[0]) / 100
        assert said == pytest.approx(float(moved), abs=6e-5) and 0.001 < said < 0.003


# ---- several processes, and an end before the end


def test_processes_share_the_work_and_all_have_all_of_it(place: Path, demo_clips: Path, again: Path):
    alone = Bench(tiny(place, demo_clips)).states()
    shutil.rmtree(again)
    barrier = threading.Barrier(3, timeout=30)
    benches, found = [Bench(tiny(place, demo_clips)) for _ in range(3)], {}

    def work_off(rank: int) -> None:
        found[rank] = benches[rank].states(rank=rank, world=3, meet=barrier.wait)

    threads = [threading.Thread(target=work_off, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [bench.computed["audio"] for bench in benches] == [11, 11, 10] == [bench.computed["video"] for bench in benches]
    assert same(found[0], found[1]) and same(found[0], found[2])
    for name in alone:
        torch.testing.assert_close(found[0][name], alone[name], rtol=1e-5, atol=1e-5)


def test_a_signal_ends_it_and_what_was_computed_stays(place: Path, demo_clips: Path):
    bench = Bench(tiny(place, demo_clips))
    with pytest.raises(Interrupted) as stopped:
        bench.stored(stop=lambda: 15 if bench.computed["audio"] >= 16 else None)
    assert stopped.value.signal == 15 and bench.computed == {"audio": 16, "video": 0}
    bench.stored()
    assert bench.computed == {"audio": CLIPS, "video": CLIPS}


def test_a_whole_model_up_to_the_heads_is_one_cut(place: Path, demo_clips: Path):
    bench = Bench(tiny(place, demo_clips, "model.drop_stream=0"))
    rates.freeze(bench.model, rates.resolve(bench.model, {"heads": 1.0, "*": None}))
    assert [cut.streams for cut in bench.cuts()] == [("audio",), ("video",)]
    (cut,) = bench.cuts(whole=True)
    found = bench.activations().stored(cut, bench.clips)
    enters = {"heads[:]", *(f"heads[:].{name}" for name in ("joint", "gate", "audio", "video"))}
    assert found and found.states(torch.tensor([3, 0]), ()).keys() == enters
    flip(next(bench.model.merge.parameters()))
    assert bench.cuts(whole=True)[0].made_by["weights"] != cut.made_by["weights"]
