"""Nothing that a run learnt from is judged as new: not by a run that goes on from it, and not unsaid on another corpus."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import QUIET, metrics_of

import crossfade
from crossfade import build, run
from crossfade.evaluation.predictions import Predictions
from crossfade.screen import Terminal

SMALL = [
    "data.workers=0",
    "data.batch=8",
    "data.streams.audio.mels=16",
    "data.domains={source: [old], target: [new]}",
    "model.encoders.audio.width=16",
    "phases.source.epochs=1",
    "phases.adapt.epochs=1",
]


class Warned(Terminal):
    def __init__(self):
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def corpus(root: Path, seed: int = 0, prefix: str = "") -> Path:
    """20 sounds of two classes in each of two domains, and the table of them."""
    values, rows = np.random.default_rng(seed), []
    root.mkdir()
    for domain in ("old", "new"):
        for number in range(20):
            path = root / f"{prefix}{domain}{number:02}.wav"
            soundfile.write(path, 0.1 * values.standard_normal(8_000), 16_000)
            rows.append(f"{path},{path.stem},{domain},{'hiss' if number % 2 else 'tone'}")
    (root / "all.csv").write_text("\n".join(["audio,id,domain,label", *rows]))
    return root / "all.csv"


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> tuple[Path, Path]:
    """A corpus and a run over its two domains that has been through the first phase."""
    place = tmp_path_factory.mktemp("learnt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFADE_STORE", str(place / "store"))
        given = corpus(place / "sounds")
        crossfade.train(load(given, "phases.adapt.epochs=0"), place / "run", screen=QUIET)
    return given, place / "run"


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path / "store"))


def load(given: Path, *overrides: str, start: Path | None = None):
    return crossfade.load("cough", [*SMALL, *overrides], corpus=given, start=start)


def trained_on(given: Path) -> set[str]:
    recipe = load(given)
    return {clip.id for clip in build.splits(recipe, build.corpus(recipe).clips)[0].train if clip.labels}


def warnings_of(folder: Path) -> list[str]:
    return crossfade.deploy.bundle.read_json(folder / "notes.json")["warnings"]


SWAPPED = "data.domains={source: [new], target: [old]}"


@pytest.mark.parametrize(("other", "remedy"), [("seed=1", "data.split.seed=0"), (SWAPPED, r"data.domains.source=\[old\]")])
def test_going_on_with_another_split_is_refused(begun, tmp_path: Path, other: str, remedy: str):
    given, finished = begun
    recipe = load(given, other, start=finished)
    split = build.splits(recipe, build.corpus(recipe).clips)[0]
    heard = {side: len(trained_on(given) & {clip.id for clip in getattr(split, side)}) for side in ("val", "test", "aside")}
    assert sum(heard.values())
    counts = {name: f"{heard[side]} of {len(getattr(split, side))} {name} clips" for name, side in (("test", "test"), ("source", "aside"))}
    with pytest.raises(crossfade.UserError, match=remedy) as refused:
        crossfade.train(recipe, tmp_path / "next", screen=QUIET)
    assert all((text in str(refused.value)) is bool(heard[side]) for (text, side) in zip(counts.values(), ("test", "aside"), strict=True))
    assert "\n" not in str(refused.value) and not (tmp_path / "next").exists()


def test_another_seed_with_the_same_split_may_go_on(begun, tmp_path: Path):
    given, finished = begun
    crossfade.train(load(given, "seed=1", "data.split.seed=0", start=finished), tmp_path / "next", screen=QUIET)
    assert not [text for text in warnings_of(tmp_path / "next") if str(finished) in text]


def test_a_run_whose_clips_are_gone_is_warned_of(begun, tmp_path: Path):
    _, finished = begun
    moved = shutil.copytree(finished, tmp_path / "moved")
    recipe = (moved / "recipe.yaml").read_text()
    (moved / "recipe.yaml").write_text(recipe.replace(str(begun[0]), "/nowhere/all.csv"))
    other = corpus(tmp_path / "other", seed=1, prefix="x-")
    crossfade.train(load(other, start=moved), tmp_path / "next", screen=QUIET)
    assert [text for text in warnings_of(tmp_path / "next") if "cannot be told" in text]


def test_a_corpus_that_was_moved_is_known_by_its_split(begun, tmp_path: Path):
    given, finished = begun
    moved = shutil.copytree(finished, tmp_path / "moved")
    (moved / "recipe.yaml").write_text((moved / "recipe.yaml").read_text().replace(str(given), "/nowhere/all.csv"))
    with pytest.raises(crossfade.UserError, match="it learnt from"):
        crossfade.train(load(given, "seed=1", start=moved), tmp_path / "next", screen=QUIET)


def test_an_encoder_that_heard_the_test_is_warned_of(begun, tmp_path: Path):
    given, finished = begun
    crossfade.train(load(given, "seed=1", f"model.init.'encoders.audio'={finished}"), tmp_path / "next", screen=QUIET)
    assert [text for text in warnings_of(tmp_path / "next") if text.startswith(f"model.init: {finished} learnt from")]


def test_evaluating_what_was_learnt_is_said(begun, tmp_path: Path):
    given, finished = begun
    screen = Warned()
    _, table = run.evaluate(finished, corpus=given, screen=screen)
    assert len(table) == 40
    assert [text for text in screen.warnings if text.startswith(f"{len(trained_on(given))} of 40 clips were learnt from")]
    screen = Warned()
    run.evaluate(finished, split="val", overrides=["data.split.seed=1"], screen=screen)
    assert [text for text in screen.warnings if "were learnt from" in text]


def test_evaluating_what_is_new_says_nothing(begun, tmp_path: Path):
    screen = Warned()
    run.evaluate(begun[1], corpus=corpus(tmp_path / "other", seed=1), screen=screen)
    run.evaluate(begun[1], screen=screen)
    assert not [text for text in screen.warnings if "learnt" in text]


def test_the_sources_own_test_clips_can_be_judged_again(begun):
    metrics, table = run.evaluate(begun[1], split="source", screen=QUIET)
    then = Predictions.read(begun[1] / "predictions.csv").where(split="source")
    assert table.clip == then.clip and set(table.split) == {"source"}
    assert metrics["source"] == {key: value for key, value in metrics_of(begun[1])["source"].items() if key in metrics["source"]}


def test_without_domains_there_is_no_source(begun, tmp_path: Path):
    phases = 'phases=[{name: one, epochs: 1, rates: {"*": 1.0e-3}, terms: {label: {use: cross_entropy, target: label}}}]'
    small = [
        *(each for each in SMALL if not each.startswith(("phases", "data.domains"))),
        "data.domains=null",
        "data.streams.audio.band=null",
        phases,
    ]
    crossfade.train(crossfade.load("cough", small, corpus=begun[0]), tmp_path / "one", screen=QUIET)
    with pytest.raises(crossfade.UserError, match=r"--split: found 'source'; one of train, val, test$"):
        run.evaluate(tmp_path / "one", split="source", screen=QUIET)
