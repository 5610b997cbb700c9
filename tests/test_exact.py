"""The store changes nothing but the time: with it and with `store: off` a run has the same batches, losses, scores and answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import metrics_of, tiny, write_recipe

import crossfade
from crossfade import recipe as recipes
from crossfade import work
from crossfade.evaluation.tables import read as tables_read
from crossfade.feed import Feed
from crossfade.screen import Terminal
from crossfade.training import tally
from crossfade.training.checkpoint import Checkpoints
from crossfade.training.terms import Objective

TOLERANCE = 1e-5
WITHOUT_GRADIENT = ("in_proj_bias", "k_proj.bias")  # of attention's keys: softmax cancels it, so Adam follows the rounding of a zero
WAVLM = (
    "{hidden_size: 16, num_hidden_layers: 3, num_attention_heads: 2, intermediate_size: 24, mask_time_length: 2, "
    "conv_dim: [8, 8, 8, 8, 8, 8, 8], num_conv_pos_embeddings: 8, num_conv_pos_embedding_groups: 2}"
)
SMALL: dict[str, dict[str, Any]] = {  # of every stream, augmentation and encoder of a packaged recipe
    "waveform": {"seconds": 0.5},
    "log_mel": {"seconds": 0.5},
    "frames": {"count": 2, "size": 32},
    "spectrogram_masks": {"time": 5},
    "wavlm": {"weights": "null", "config": WAVLM},
    "image": {"size": 32},
    "resnet18": {"weights": "null"},
    "mobilenet_v2": {"weights": "null"},
    "picture_cnn": {"width": 4},
    "audio_resnet18": {"width": 16},
    "videomae": {"weights": "null", "frames": 2, "size": 32, "layers": 3, "dim": 16, "heads": 2, "mlp": 32},
    "stored_frames": {"count": 2, "size": 32},
    "stored_mel": {"mels": 16, "columns": 16},
}
LEARNS = "terms: {label: {use: cross_entropy, target: emotion, smoothing: 0.05}}, schedule: cosine"
ALL = f"{{name: all, epochs: 1, rates: {{'*': 1e-3}}, {LEARNS}}}"
TOP = f"{{name: top, epochs: 2, rates: {{encoders: null, '*': 1e-2}}, {LEARNS}}}"
HEADS = f"{{name: heads, epochs: 2, rates: {{heads: 1e-2, '*': null}}, {LEARNS}}}"
PARTLY = "{'encoders.audio[-1:]': 1e-3, 'encoders.video[-2:]': 1e-3, encoders: null, '*': 1e-2}"
LAST = f"{{name: last, epochs: 2, rates: {PARTLY}, {LEARNS}}}"


class Watching(Terminal):
    """A quiet screen that remembers what it was told."""

    def __init__(self):
        super().__init__(quiet=True)
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)

    def fed(self) -> None:
        """A batch was handed out for a step."""

    @property
    def stored(self) -> list[str]:
        return [text for text in self.said if text.startswith("stored: ")]


@dataclass
class Noted:
    """Batches, each written down as it is handed out."""

    served: Any
    note: Any

    def __len__(self) -> int:
        return len(self.served)

    def __iter__(self):
        for batch in self.served:
            self.note(batch)
            yield batch


@dataclass
class Trained:
    """A run and what it was fed."""

    folder: Path
    screen: Watching = field(default_factory=Watching)
    batches: list[tuple[str, int, dict[str, torch.Tensor]]] = field(default_factory=list)  # (phase, epoch, batch)
    losses: list[float] = field(default_factory=list)  # of every step

    @property
    def history(self) -> list[dict]:
        return history(self.folder)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        files = sorted(self.folder.rglob("model.safetensors"))
        return {f"{file.relative_to(self.folder)} {name}": value for file in files for name, value in load_file(file).items()}

    @property
    def kinds(self) -> list[set[str]]:
        """Of each batch, the entries that came from the store."""
        return [{name for name in batch if "[" in name} for _, _, batch in self.batches]


def history(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl but for the time they took."""
    rows = [json.loads(line) for path in sorted(folder.rglob("metrics.jsonl")) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of a tiny run's time and none of its numbers: sweeps of memory, waits for the disk, counts, the report."""
    patch.setattr(work, "multiply_adds", lambda *_: 0)
    patch.setattr("gc.collect", lambda *_: 0)
    patch.setattr("os.fsync", lambda *_: None)
    patch.setattr(work, "write_report", lambda *_: None)


def train(recipe: crossfade.Recipe, folder: Path, *, screen: Watching | None = None, saving: bool = False) -> Trained:
    """Train with every batch written down; `saving`: with checkpoints, so that it can be resumed."""
    run, serve, judge = Trained(folder, screen or Watching()), Feed.batches, Objective.__call__

    def noted(feed: Feed, phase, epoch: int, start: int) -> Noted:
        def note(batch) -> None:
            run.batches.append((phase.name, epoch, dict(batch)))
            run.screen.fed()

        return Noted(serve(feed, phase, epoch, start), note)

    def judged(objective: Objective, *given):
        loss, means = judge(objective, *given)
        run.losses.append(loss.item())
        return loss, means

    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        patch.setattr(Feed, "batches", noted)
        patch.setattr(Objective, "__call__", judged)
        if not saving:
            patch.setattr(Checkpoints, "save", lambda *_: None)
        crossfade.train(recipe, folder, screen=run.screen)
    return run


def assert_same(on: Trained, off: Trained) -> None:
    """Batch by batch, step by step, epoch by epoch, clip by clip."""
    assert [(phase, epoch) for phase, epoch, _ in on.batches] == [(phase, epoch) for phase, epoch, _ in off.batches]
    for (_, _, ours), (_, _, theirs) in zip(on.batches, off.batches, strict=True):
        shared = ours.keys() & theirs.keys()
        assert "index" in shared and all(torch.equal(ours[name], theirs[name]) for name in shared if "[" not in name)
        assert all(torch.allclose(ours[name], theirs[name], rtol=TOLERANCE, atol=TOLERANCE) for name in shared if "[" in name)
    assert on.losses and on.losses == pytest.approx(off.losses, rel=0, abs=TOLERANCE)
    assert_close(on.history, off.history)
    assert_close(metrics_of(on.folder), metrics_of(off.folder))
    ours, theirs = on.weights, off.weights
    learnt = [name for name in ours if not name.endswith(WITHOUT_GRADIENT)]
    assert ours.keys() == theirs.keys() and all(torch.allclose(ours[name], theirs[name], rtol=0, atol=TOLERANCE) for name in learnt)
    tables = sorted(path.relative_to(on.folder) for path in on.folder.rglob("predictions*.csv"))
    assert tables == sorted(path.relative_to(off.folder) for path in off.folder.rglob("predictions*.csv")) and tables
    for name in tables:
        ours, theirs = tables_read(on.folder / name), tables_read(off.folder / name)
        assert (ours.clip, ours.split) == (theirs.clip, theirs.split) and (ours.true == theirs.true).all()
        assert abs(ours.probability - theirs.probability).max() <= TOLERANCE


def assert_close(ours: Any, theirs: Any, where: str = "") -> None:
    """Plain data, equal but for the last digits of its numbers."""
    if isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for name in ours:
            assert_close(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(one, other, f"{where}.{number}")
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=TOLERANCE), where
    else:
        assert ours == theirs, where


# ---- every packaged recipe


def small(name: str, source: Any) -> list[str]:
    """Overrides that make a packaged recipe tiny; `source` gives the folder of a finished run that it starts from."""
    raw = recipes.find(name)[1]
    media = f"data.corpus.media=[{', '.join(raw['data']['streams'])}]"
    own = of_pictures(raw) or of_domains(raw) or of_animals(raw)
    found = ["data.batch=6", "data.workers=0", *([] if own else ["data.corpus.use=ravdess", media])]
    found += ["data.corpus={use: wildlife}"] if of_animals(raw) else []
    for kind, owner in (("data.streams", raw["data"]), ("model.encoders", raw["model"])):
        found += [
            f"{kind}.{stream}.{key}={value}"
            for stream, spec in owner[kind.split(".")[1]].items()
            for key, value in SMALL.get(spec["use"], {}).items()
        ]
    for view, streams in raw["data"].get("views", {}).items():
        found += [
            f"data.views.{view}.{stream}.{index}.{key}={value}"
            for stream, specs in streams.items()
            for index, spec in enumerate(specs)
            for key, value in SMALL.get(spec["use"], {}).items()
        ]
    found += ["store.dtype=float32"]
    found += [f"phases.{phase['name']}.epochs={1 + (None in phase['rates'].values())}" for phase in raw["phases"]]
    return [*found, *(f"model.init.'{part}'={source(path)}" for part, path in raw["model"].get("init", {}).items())]


def of_pictures(raw: Any) -> bool:
    return "image" in raw["data"]["streams"]


def of_domains(raw: Any) -> bool:
    return "domains" in raw["data"]


def of_animals(raw: Any) -> bool:
    return "species" in raw["model"]["heads"]


@pytest.fixture(scope="module")
def animals(tmp_path_factory, demo_clips: Path) -> Path:
    """24 clips as the wildlife original lays them out, as videos with sound files and as stored tensors."""
    root, values = tmp_path_factory.mktemp("animals"), np.random.default_rng(0)
    videos, sounds = sorted(demo_clips.rglob("02-*.mp4")), sorted(demo_clips.rglob("03-*.wav"))
    for folder in ("videos", "audios", "video_frames", "mel_spectrograms", "metadata"):
        (root / folder).mkdir()
    lists: dict[str, list[str]] = {split: ["video_path,species,activity,action"] for split in ("train", "val", "test")}
    for number, (video, sound) in enumerate(zip(videos[:24], sounds[:24], strict=True)):
        name = f"S1_C1_E{number}_V1_ID1_T1_c0"
        (root / "videos" / f"{name}.mp4").write_bytes(video.read_bytes())
        (root / "audios" / f"{name}.wav").write_bytes(sound.read_bytes())
        torch.save(torch.from_numpy(values.standard_normal((3, 2, 32, 32), np.float32)), root / "video_frames" / f"{name}.pt")
        np.save(root / "mel_spectrograms" / f"{name}.npy", values.random((16, 16), np.float32))
        said = (
            ("wolf", "hare", "red_deer")[number % 3],
            ("resting", "chasing")[number % 2],
            ("walking|sniffing", "walking", "|")[number % 3],
        )
        lists[("train", "train", "val", "test")[number // 6]].append(f"{name}.mp4,{','.join(said)}")
    for split, rows in lists.items():
        (root / "metadata" / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def coughs(tmp_path_factory, demo_clips: Path) -> Path:
    """Twelve sounds of each of two classes in each of two domains."""
    root, sounds = tmp_path_factory.mktemp("coughs"), iter(sorted(demo_clips.rglob("03-*.wav")) * 2)
    for folder in (root / zone / kind for zone in ("cold_zone", "hot_zone_fine") for kind in ("cough", "non-cough")):
        folder.mkdir(parents=True)
        for number in range(12):
            (folder / f"{number}.wav").write_bytes(next(sounds).read_bytes())
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Twelve little pictures of each of two classes."""
    root, values = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for kind, level in (("dark", 60), ("light", 180)):
        (root / kind).mkdir()
        for number in range(12):
            Image.fromarray(values.integers(level - 60, level + 60, (40, 40, 3), dtype=np.uint8)).save(root / kind / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    write_recipe(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _a_store_of_its_own(place: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFADE_STORE", str(place / "store"))
        patch.setattr(tally, "LOOK_EVERY", -1.0)  # so that the screen hears of every step
        yield


def next_run(place: Path) -> Path:
    return place / f"run-{len(list(place.iterdir()))}"


@pytest.fixture(scope="module")
def packaged(place: Path, demo_clips: Path, pictures: Path, coughs: Path, animals: Path):
    """A packaged recipe, tiny, trained once with these overrides; what it starts from is trained with the store."""

    @cache
    def run(name: str, *overrides: str) -> Trained:
        shrunk = small(name, lambda path: run(path.replace("/runs/", "-").removeprefix("runs/")).folder)
        raw = recipes.find(name)[1]
        places = {of_pictures: pictures, of_domains: coughs, of_animals: animals}
        found = [corpus for holds, corpus in places.items() if holds(raw)]
        given = {"corpus": found[0]} if found else {"corpus": demo_clips, "target": "emotion"}
        return train(crossfade.load(name, [*shrunk, *overrides], **given), next_run(place))

    return run


@pytest.mark.parametrize("name", recipes.names())
def test_a_packaged_recipe(packaged, name: str):
    on, off = packaged(name), packaged(name, "store=off")
    assert_same(on, off)
    assert not off.screen.stored and not any(off.kinds)
    frozen = [row["phase"] for row in on.history if row["phase"] in frozen_and_clean(name)]
    assert {phase for (phase, _, _), kinds in zip(on.batches, on.kinds, strict=True) if kinds} >= set(frozen)


def test_rounded_states_serve_two_phases(packaged):
    """One pass stores what two phases begin from; the second goes on from the first's states, whose bfloat16 must be widened again."""
    exact, rounded = packaged("wildlife"), packaged("wildlife", "store.dtype=bfloat16")
    assert len(rounded.losses) == len(exact.losses)
    assert rounded.losses == pytest.approx(exact.losses, rel=0.05) and rounded.losses != exact.losses


def frozen_and_clean(name: str) -> set[str]:
    """Phases that freeze an encoder's beginning and see nothing random before it, or a number of draws of that."""
    phases = crossfade.load(name).phases
    return {phase.name for phase in phases if None in phase.rates.values() and (phase.views or not phase.sees)}


def test_batches_of_one_size_give_the_same_bits(packaged, tmp_path: Path, monkeypatch):
    """16 clips by 4: the frozen part ran on as many clips at a time, and so did all its sums."""
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path))
    on, off = packaged("emotion-wavlm", "data.batch=4"), packaged("emotion-wavlm", "data.batch=4", "store=off")
    assert on.screen.stored and on.losses == off.losses and on.history == off.history
    assert all(torch.equal(value, off.weights[name]) for name, value in on.weights.items())
    assert (on.folder / "predictions.csv").read_bytes() == (off.folder / "predictions.csv").read_bytes()


# ---- what recipes may say besides


@dataclass(frozen=True)
class Variant:
    """Overrides of the tiny recipe, and how what is said to be stored must begin, in order and up to the last phase."""

    overrides: tuple[str, ...]
    stored: tuple[str, ...]
    gaps: bool = False  # whether some clips lack a stream, and some their label


def phases(*texts: str) -> str:
    return f"phases=[{', '.join(texts)}]"


def seeing(phase: str, views: int | None = None) -> str:
    return phase.replace("epochs", f"sees: augmented, {f'views: {views}, ' if views else ''}epochs")


BOTH = ("audio encoder, 16 train", "video encoder, 16 train", "audio encoder, 8 val", "video encoder, 8 val")
AUDIO, VIDEO = "audio encoder, stages 1 to 3 of 4", "video encoder, stages 1 to 2 of 4"
PARTS = (f"{AUDIO}, 16 train", f"{VIDEO}, 16 train", f"{AUDIO}, 8 val", f"{VIDEO}, 8 val")
STEPS = tuple(text for pair in zip(PARTS, BOTH, strict=True) for text in pair)  # on the way to what the first phase needs, and that
MIX = ("model.mix=[{use: cross_attention, dim: 16, heads: 2}]", "model.merge={use: gated, project: false}")
WHOLE = ("everything before the heads, 16 train", "everything before the heads, 8 val")
VARIANTS = {
    "streams dropped": Variant((phases(TOP, LAST), "model.drop_stream=0.5"), (*STEPS, *PARTS)),
    "streams that are degraded": Variant(
        (phases(TOP, LAST), "data.degrade={audio: [{use: noise_at_snr, probability: 1}], video: [{use: darken}]}"), (*STEPS, *PARTS)
    ),
    "two views": Variant(
        (phases(seeing(TOP, 2), seeing(LAST, 3)),),
        tuple(text.replace("train", f"train clips in {2 if number < 4 else 3} views") for number, text in enumerate((*BOTH, *PARTS))),
    ),
    "a view that is drawn anew": Variant((phases(seeing(TOP)),), BOTH[2:]),
    "a view of one stream": Variant((phases(seeing(TOP)), "data.views.augmented.video=null"), BOTH[1:]),
    "a view that leaves a stream as it is": Variant((phases(seeing(TOP)), "data.views.augmented.video=[]"), BOTH[1:]),
    "two views of one stream": Variant(
        (phases(seeing(TOP, 2)), "data.views.augmented.video=null"), ("audio encoder, 16 train clips in 2 views", *BOTH[1:])
    ),
    "a fusion that stands still": Variant((phases(ALL, HEADS), *MIX, "model.drop_stream=0"), WHOLE),
    "a fusion that stands still, and degraded streams": Variant(
        (phases(HEADS), "model.drop_stream=0", "data.degrade={audio: [{use: noise_at_snr, probability: 1}]}"), WHOLE
    ),
    "a fusion that stands still, with a view": Variant(
        (phases(seeing(HEADS, 2)), "model.drop_stream=0"),
        ("audio encoder, 16 train clips in 2 views", "video encoder, 16 train clips in 2 views", *BOTH[2:]),
    ),
    "a fusion that stands still, but drops streams": Variant((phases(HEADS), *MIX), BOTH),
    "tokens for the fusion": Variant((phases(TOP, LAST), *MIX, "model.encoders.audio.tokens=4"), (*STEPS, *PARTS)),
    "MobileNetV2 but for its last stages": Variant(
        (phases(LAST.replace("-2:", "-4:")), "model.encoders.video=mobilenet_v2", "model.drop_stream=0"),
        (f"{AUDIO}, 16 train", "video encoder, stages 1 to 15 of 19, 16 train"),
    ),
    "late fusion": Variant((phases(TOP, LAST), "model.merge=each"), (*STEPS, *PARTS)),
    "heads on several embeddings": Variant(
        (phases(HEADS), "model.drop_stream=0", "model.heads.emotion={joint: linear, audio: mlp}"), WHOLE
    ),
    "half precision": Variant((phases(TOP, LAST), "precision=bf16"), (*STEPS, *PARTS)),
    "accumulation, clipping, few steps": Variant(
        (phases(TOP), "phases.top.accumulate=2", "phases.top.clip_norm=0.1", "phases.top.steps=3", "phases.top.patience=1"), BOTH
    ),
    "a worker": Variant(
        (phases(seeing(LAST, 2)), "data.views.augmented.video=null", "data.workers=1"), (PARTS[0] + " clips in 2 views", *PARTS[1:])
    ),
    "clips without a stream": Variant(
        (phases(TOP, seeing(LAST, 2)), *MIX), ("audio encoder, 12 train", "video encoder, 12 train"), gaps=True
    ),
    "clips without a stream before a fusion that stands still": Variant(
        (phases(HEADS), "model.drop_stream=0"), ("audio encoder, 12 train", "video encoder, 12 train"), gaps=True
    ),
}


@pytest.fixture(scope="module")
def gaps(place: Path, demo_clips: Path) -> Path:
    """A table in which of every four clips one has no picture, one no sound and one no label."""
    rows = ["audio,video,emotion,group"]
    for number, sound in enumerate(sorted(demo_clips.rglob("03-*.wav"))):
        picture = sound.with_name(f"02{sound.stem[2:]}.mp4")
        files = [str(file) if number % 4 != lacking else "" for file, lacking in ((sound, 0), (picture, 1))]
        rows.append(",".join([*files, sound.stem[6:8] if number % 4 != 2 else "", sound.stem[-2:]]))
    (place / "gaps.csv").write_text("\n".join(rows))
    return place / "gaps.csv"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant(place: Path, demo_clips: Path, gaps: Path, name: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path / "store"))
    variant = VARIANTS[name]
    recipe = tiny(place, gaps if variant.gaps else demo_clips, "data.batch=6", *variant.overrides)
    on, off = (train(replaced(recipe, keep), next_run(place)) for keep in (True, False))
    assert_same(on, off)
    found = [text.removeprefix("stored: ") for text in on.screen.stored]
    assert len(found) >= len(variant.stored)
    assert [text[: len(start)] for text, start in zip(found, variant.stored, strict=False)] == list(variant.stored)
    assert not off.screen.stored and not any(off.kinds)


def replaced(recipe: crossfade.Recipe, keep: bool) -> crossfade.Recipe:
    return recipe.model_copy(update={"store": recipe.store.model_copy(update={"keep": keep})})


def test_every_fold(place: Path, demo_clips: Path):
    recipe = tiny(place, demo_clips, phases(TOP), "data.batch=6", "data.split.folds=3")
    on, off = (train(replaced(recipe, keep), next_run(place)) for keep in (True, False))
    assert_same(on, off)
    assert len(on.history) == 6 and len([text for text in on.screen.stored if "train" in text]) == 6
