"""The model card: what the run's files say, nothing more; what a person filled in stays; names cannot become markup."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from tiny import metrics_of

from crossfade.deploy import card


@pytest.fixture
def run(bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(bundle, tmp_path / "run")
    return tmp_path / "run"


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_card_has_its_sections_and_the_runs_numbers(run: Path):
    text = card.write(run).read_text()
    sections = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert sections == ["What it is for", "Data", "How good it is", "Limits", "Licence", "Formats", "Made with"]
    test = metrics_of(run)["test"]
    assert f"| emotion | test | {test['accuracy']:.3f} (no interval) | {test['macro_f1']:.3f} (no interval) |" in text
    assert "| train | 16 | not counted |" in text and "| test | 8 | 1 |" in text
    assert "one of 8 classes: neutral, calm" in text and "59,427 parameters" in text
    assert "No group of the test was trained on" in text and "Where no interval is given" in text
    assert "- Licence of the weights: not stated; fill in" in text and "No other format was made" in text


def test_before_metrics_are_written_they_are_handed_in(run: Path):
    metrics = metrics_of(run)
    (run / "metrics.json").unlink()
    metrics["test"]["intervals"]["accuracy"] = [0.1, 0.9]
    assert f"{metrics['test']['accuracy']:.3f} (0.100 to 0.900)" in card.write(run, metrics).read_text()
    metrics["test"]["intervals"]["accuracy"] = [1.0, 1.0]
    assert "An interval without width is no certainty" in card.write(run, metrics).read_text()
    text = card.write(run).read_text()
    assert "It was not measured." in text and "without width" not in text


def test_it_claims_no_unseen_groups_and_no_test_where_there_are_none(run: Path):
    change(run / "notes.json", unseen=False, warnings=["few | clips <here>"])
    text = card.write(run).read_text()
    assert "Groups of the test were trained on too" in text and "- few \\| clips \\<here\\>" in text
    metrics = metrics_of(run)
    text = card.write(run, {name: value for name, value in metrics.items() if name not in ("test", "streams")}).read_text()
    assert "There is no test" in text and "were trained on too" not in text and "clips that lack a stream" in text


def test_what_was_filled_in_stays(run: Path):
    path = card.write(run)
    path.write_text(path.read_text().replace("Licence of the data: not stated; fill in", "Licence of the data: CC BY-NC-SA 4.0"))
    text = card.write(run).read_text()
    assert "- Licence of the data: CC BY-NC-SA 4.0" in text and "- Licence of the weights: not stated; fill in" in text


def test_formats_are_listed_with_what_was_found(run: Path):
    parity = {"output": "emotion", "clips": 8, "max_abs": 1e-6, "max_rel": 2e-6, "agree": 1.0}
    scores = {"emotion": {"run": {"accuracy": 0.5}, "file": {"accuracy": 0.25}}}
    entry = {"precision": "int8", "bytes": 2_500_000, "parity": [parity], "scores": scores, "notes": ["ranges from 9 clips"]}
    (run / "exports.json").write_text(json.dumps({"export/model.int8.onnx": entry}))
    text = card.write(run).read_text()
    assert "| export/model.int8.onnx | int8 | 2.50 | emotion | 8 | 1e-06 | 2e-06 | 100.00% | 0.500 → 0.250 |" in text
    assert "- export/model.int8.onnx: ranges from 9 clips" in text


def test_names_cannot_become_markup_or_new_lines(run: Path):
    change(run / "labels.json", emotion=["<script>", "a|b", "new\nline", "*bold*"])
    text = card.write(run).read_text()
    assert "\\<script\\>, a\\|b, new line, \\*bold\\*" in text and "<script>" not in text.replace("\\<script\\>", "")


def test_a_folder_with_little_in_it_still_has_a_card(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("name: imported\nabout: imported from a.param\n")
    (tmp_path / "metrics.json").write_text('{"target": "label"}')
    text = card.write(tmp_path).read_text()
    assert text.startswith("# imported\n") and "It was not measured." in text and "not trained here" in text
    assert "There is no single model here" in text


def two_domains(run: Path, *phases: dict, **domains: object) -> str:
    """The card of a run that had labels in the studio and is tested on the phone."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["domains"] = {"source": ["studio"], "target": ["phone"], "labelled": 0.0, **domains}
    recipe["phases"] = [{**recipe["phases"][0], **phase} for phase in phases]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return card.write(run).read_text()


ADAPTS = {"mix": {"source": 1.0, "target": 1.0}, "terms": {"far": {"use": "distill", "of": "target"}}}


def test_of_two_domains_it_says_which_was_learnt_from_and_which_tested(run: Path):
    notes, rows = json.loads((run / "notes.json").read_text()), len((run / "predictions.csv").read_text().splitlines()) - 1
    change(run / "notes.json", streams={"audio": rows + notes["heads"]["emotion"]["total"] + 1200})
    said = "It learnt from labels of studio; its test is of phone, its labelled validation clips of studio."
    text = two_domains(run, ADAPTS)
    assert said in text and "It learnt from 1,200 training clips without labels, too, those of phone." in text
    assert "and of 0.1 of the training clips of phone" in two_domains(run, ADAPTS, labelled=0.1)
    text = two_domains(run, {"mix": {"source": 1.0, "target": 0.0}})
    assert said in text and "Nothing was learnt from clips of phone without labels." in text
    change(run / "notes.json", skipped=[["a.wav", "broken"]])
    assert "It learnt from clips without labels, too" in two_domains(run, ADAPTS)


@pytest.mark.parametrize(
    ("selects", "says"),
    [
        ([None], "Validation chose the state that is kept, so it flatters."),
        (["last", "macro_f1"], "Validation chose the state that is kept, so it flatters."),
        (["last"], "The state that is kept is that of the last epoch, as asked."),
        (["last", "target.information"], "`target.information`, without labels, chose the state that is kept."),
        ([None, "last"], "of the last epoch, as asked; validation chose that of an earlier phase, so it may flatter."),
    ],
)
def test_it_says_of_validation_what_the_phase_that_decided_did(run: Path, selects: list, says: str):
    assert says in two_domains(run, *({"select": name} for name in selects))
