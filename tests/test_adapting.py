"""A whole run over two domains: target labels touch nothing but the final test, a stop changes nothing, and the report has both models."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_exact import Watching, history, hurry
from tiny import QUIET, metrics_of, same_bytes

import crossfade
from crossfade import work
from crossfade.evaluation.predictions import Predictions
from crossfade.evaluation.report import write_report
from crossfade.training.loop import Interrupted

SMALL = [
    "data.workers=0",
    "data.batch=8",
    "data.streams.audio.mels=16",
    "data.domains.source=[old]",
    "data.domains.target=[new]",
    "model.encoders.audio.width=16",
    "phases.source.epochs=2",
    "phases.adapt.epochs=2",
]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """Tones and hisses, 20 of each in each of two domains, of which the second is muffled and louder."""
    root, values = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    seconds = np.arange(11_200) / 16_000
    for domain, gain in (("old", 0.1), ("new", 0.3)):
        for number in range(40):
            sound = np.sin(2 * np.pi * values.uniform(300, 600) * seconds) if number % 2 else values.standard_normal(len(seconds))
            heard = sound + 0.3 * values.standard_normal(len(seconds))
            heard = heard if domain == "old" else np.convolve(heard, np.ones(4) / 4, mode="same")
            soundfile.write(root / f"{domain}{number:02}.wav", (gain * heard).clip(-1, 1), 16_000)
    return root


def table(folder: Path, sounds: Path, *, permuted: bool) -> Path:
    """A manifest of all of them; `permuted`: with the labels of the second domain in another order."""
    labels = {domain: ["hiss" if number % 2 == 0 else "tone" for number in range(40)] for domain in ("old", "new")}
    if permuted:
        random.Random(1).shuffle(labels["new"])
    rows = [f"{sounds}/{domain}{n:02}.wav,{domain}{n:02},{domain},{labels[domain][n]}" for domain in labels for n in range(40)]
    path = folder / f"{'permuted' if permuted else 'true'}.csv"
    path.write_text("\n".join(["audio,id,domain,label", *rows]))
    return path


@pytest.fixture
def _in_a_hurry(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CROSSFADE_STORE", str(tmp_path / "store"))
    hurry(monkeypatch)


def train(table: Path, folder: Path, *overrides: str, screen=QUIET) -> Path:
    crossfade.train(crossfade.load("cough", [*SMALL, *overrides], corpus=table), folder, screen=screen)
    return folder


@pytest.mark.parametrize("labelled", [0.0])
def test_permuting_the_targets_labels_changes_the_test_table_alone(sounds: Path, tmp_path: Path, _in_a_hurry, labelled: float):
    true, permuted = (
        train(table(tmp_path, sounds, permuted=permuted), tmp_path / str(permuted), f"data.domains.labelled={labelled}")
        for permuted in (False, True)
    )
    assert same_bytes(true, permuted, "model.safetensors") and history(true) == history(permuted)
    ours, theirs = (Predictions.read(folder / "predictions.csv") for folder in (true, permuted))
    assert ours.clip == theirs.clip and (ours.probability == theirs.probability).all()
    differs = [split for split, a, b in zip(ours.split, ours.true, theirs.true, strict=True) if a != b]
    assert set(differs) == {"test"}
    both = [metrics_of(folder) for folder in (true, permuted)]
    for key in ("val", "source"):
        assert both[0][key] == both[1][key]
    chosen = [metrics["operating"] for metrics in both]
    assert chosen[0]["threshold"]["macro_f1"]["value"] == chosen[1]["threshold"]["macro_f1"]["value"]
    assert (
        chosen[0]["temperature"]["value"] == chosen[1]["temperature"]["value"]
        and chosen[0]["prior"]["estimated"] == chosen[1]["prior"]["estimated"]
    )
    assert both[0]["test"] != both[1]["test"] and both[0]["before"] != both[1]["before"]


def test_labels_that_may_be_used_are_used(sounds: Path, tmp_path: Path, _in_a_hurry):
    none, some = (
        train(
            table(tmp_path, sounds, permuted=False), tmp_path / share, f"data.domains.labelled={share}", "phases.adapt.terms.label.of=all"
        )
        for share in ("0.0", "0.5")
    )
    counts = [sum(json.loads((folder / "notes.json").read_text())["counts"]["train"].values()) for folder in (none, some)]
    assert counts[0] == 24 and 27 <= counts[1] <= 45 and not same_bytes(none, some, "model.safetensors")


def test_a_target_without_any_label_is_adapted_to_and_reported(sounds: Path, tmp_path: Path, _in_a_hurry, monkeypatch):
    monkeypatch.setattr(work, "write_report", write_report)
    labelled = table(tmp_path, sounds, permuted=False)
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(line.rpartition(",")[0] + "," if ",new," in line else line for line in labelled.read_text().splitlines()))
    runs = [train(path, tmp_path / path.stem) for path in (labelled, bare)]
    assert same_bytes(*runs, "model.safetensors")
    ours, bares = (Predictions.read(run / "predictions.csv") for run in runs)
    assert ours.clip == bares.clip and (ours.probability == bares.probability).all()
    metrics = metrics_of(runs[1])
    assert metrics["source"] == metrics_of(runs[0])["source"] and "before" not in metrics and not (runs[1] / "checkpoint").exists()
    assert "macro_f1" not in metrics.get("test", {}) and "Adaptation" not in (runs[1] / "report.html").read_text()
    assert "is not known" in (runs[1] / "report.html").read_text() and "Adaptation" in (runs[0] / "report.html").read_text()


class Stopping(Watching):
    """Asks to stop in the middle of the second phase."""

    def __init__(self, run: Path):
        super().__init__()
        self.run = run

    def scored(self, row: dict) -> None:
        if row["phase"] == "adapt" and row["epoch"] == 1:
            raise Interrupted(15)


def test_a_run_stopped_while_it_adapts_goes_on_to_the_same_end(sounds: Path, tmp_path: Path, _in_a_hurry, monkeypatch):
    monkeypatch.setattr("crossfade.training.loop.SAVE_AFTER", -1.0)
    given = table(tmp_path, sounds, permuted=False)
    whole = train(given, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(given, tmp_path / "stopped", screen=Stopping(tmp_path / "stopped"))
    crossfade.resume(tmp_path / "stopped", screen=QUIET)
    assert same_bytes(whole, tmp_path / "stopped", "model.safetensors", "predictions.csv", work.BEFORE, "metrics.json")
    assert history(whole) == history(tmp_path / "stopped")


def test_phase_one_can_come_from_a_finished_run(sounds: Path, tmp_path: Path, _in_a_hurry):
    given = table(tmp_path, sounds, permuted=False)
    source = train(given, tmp_path / "source", "phases.adapt.epochs=0")
    recipe = crossfade.load("cough", SMALL, corpus=given, start=source)
    assert [phase.name for phase in recipe.phases] == ["adapt"] and set(recipe.model.init) == {"encoders", "heads"}
    crossfade.train(recipe, tmp_path / "adapted", screen=QUIET)
    before = Predictions.read(tmp_path / "adapted" / work.BEFORE)
    after = Predictions.read(source / "predictions.csv").where(split="test")
    assert before.clip == after.clip and np.allclose(before.probability, after.probability, atol=1e-6), (
        "it begins with what that run ended with"
    )
    with pytest.raises(crossfade.UserError, match="has been through all phases"):
        crossfade.load(
            "cough", SMALL, corpus=given, start=tmp_path / "whole" if (tmp_path / "whole").exists() else train(given, tmp_path / "all")
        )


def test_what_it_was_before_is_asked_when_the_target_is_first_seen(sounds: Path, tmp_path: Path, _in_a_hurry):
    """A first phase may have a teacher too, for its steadier weights; it has not adapted for that."""
    given, steadier = table(tmp_path, sounds, permuted=False), ["phases.source.teacher={momentum: 0.5}", "phases.source.keep=teacher"]
    source = train(given, tmp_path / "source", *steadier, "phases.adapt.epochs=0")
    before = Predictions.read(train(given, tmp_path / "both", *steadier) / work.BEFORE)
    after = Predictions.read(source / "predictions.csv").where(split="test")
    assert before.clip == after.clip and np.allclose(before.probability, after.probability, atol=1e-6)
