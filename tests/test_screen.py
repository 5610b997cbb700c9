"""What a person sees: nothing wider than 80 columns, one line that stays for every epoch, and no bars where nobody is looking."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console
from torch import nn

from crossfade import screen
from crossfade.evaluation.costs import Cost
from crossfade.evaluation.intervals import Comparison, Score, Table
from crossfade.screen import Terminal, print_comparison, print_metrics, print_rows

PHASE = SimpleNamespace(name="unfreeze", epochs=25, select=None)


def watched(columns: int = 80, **options) -> tuple[Terminal, io.StringIO]:
    """A terminal of so many columns, and everything written to it."""
    terminal, text = Terminal(**options), io.StringIO()
    terminal.console = Console(file=text, force_terminal=True, width=columns, soft_wrap=True, color_system=None, **screen.PLAIN)
    terminal.bars = not terminal.quiet
    return terminal, text


def row(epoch: int, *, best: bool) -> dict:
    train, val = {"loss": 1.23456, "accuracy": 0.5}, {"nll": 1.5, "macro_f1": 0.45678, "ece": 0.1}
    return {"phase": "unfreeze", "epoch": epoch, "train": train, "val": val, "best": best, "seconds": 725.0}


def test_an_epoch_is_a_bar_and_then_a_line_that_fits():
    terminal, text = watched()
    terminal.phase(PHASE, nn.Linear(2, 2))
    terminal.epoch(PHASE, 11, 150, 0)
    for _ in range(150):
        terminal.step(1.23456, 0.5)
    assert terminal._progress is not None
    bar = terminal._progress.get_renderable()
    shown = Console(width=80, file=io.StringIO(), color_system=None)
    with shown.capture() as captured:
        shown.print(bar)
    assert "150/150" in captured.get() and "loss 1.2346  acc 0.500" in captured.get()
    assert max(map(len, captured.get().splitlines())) <= 80
    terminal.scored(row(12, best=True))
    assert terminal._progress is None
    (line,) = [line for line in text.getvalue().splitlines() if "val loss" in line]
    plain = line[line.rindex("unfreeze") :]
    assert plain == "unfreeze 12/25 12:05  loss 1.2346  acc 0.500  val loss 1.5000  macro-F1 0.457 *"
    assert len(plain) <= 80
    assert text.getvalue().count("\x1b[?25l") == text.getvalue().count("\x1b[?25h") == 1  # the cursor is hidden and given back


def test_the_number_shown_is_the_one_that_decides():
    terminal, text = watched()
    terminal.judged_by("ece", "Calibration error (ECE)")
    terminal.epoch(PHASE, 0, 1, 0)
    terminal.scored(row(1, best=False))
    terminal.kept(PHASE, {"epoch": 1, "score": -0.1})
    assert "Calibration error (ECE) 0.100\n" in text.getvalue()
    assert "kept epoch 1 (Calibration error (ECE) on val 0.100)" in text.getvalue()
    terminal.kept(SimpleNamespace(name="source", epochs=1, select=SimpleNamespace(name="last")), {"epoch": 1, "score": 1.0})
    assert "kept epoch 1 (its last, as asked)" in text.getvalue()


def test_a_stop_in_the_middle_gives_the_cursor_back():
    terminal, text = watched()
    terminal.epoch(PHASE, 0, 10, 0)
    terminal.close()
    assert text.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in text.getvalue()


def test_quiet_says_warnings_only_and_other_processes_say_nothing(monkeypatch):
    terminal, text = watched(quiet=True)
    terminal.say("hello")
    terminal.epoch(PHASE, 0, 10, 0)
    terminal.scored(row(1, best=True))
    terminal.left_out([(f"{number}.wav", "is empty") for number in range(8)])
    assert text.getvalue().splitlines() == [*(f"warning: left out {n}.wav: is empty" for n in range(5)), "warning: left out 3 more files"]
    monkeypatch.setenv("RANK", "1")
    terminal, text = watched()
    terminal.say("hello")
    terminal.warn("hello")
    assert text.getvalue() == "" and not terminal.first


def summary(value: float) -> dict:
    names = ("macro_f1", "accuracy", "balanced_accuracy")
    return {**dict.fromkeys(names, value), "intervals": dict.fromkeys(names, (value - 0.1, value + 0.1)), "n_clips": 12345, "n_groups": 24}


@pytest.mark.parametrize("columns", [80, 120])
def test_the_numbers_fit_the_terminal(monkeypatch, capsys, columns: int):
    monkeypatch.setattr(screen, "_width", lambda: columns)
    streams = {name: summary(0.5) for name in ("audio", "video", "audio+video")}
    print_metrics(
        {"target": "emotion", "val": summary(0.7), "test": summary(0.6), "streams": streams, "heads": {"digit": {"test": summary(0.4)}}}
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *("emotion", "val", "test", "test, audio only", "test, video only", "test, audio+video", "test, digit")
    ]
    assert max(map(len, lines)) <= columns and "…" not in "".join(lines)
    assert lines[1].count("[") == (1 if columns == 80 else 3)


def test_a_comparison_says_its_verdict_and_its_notes(capsys):
    pair = Comparison("macro_f1", "gated", "[b]audio", 0.7, 0.5, 0.2, 0.1, 0.3, 48, 6, "gated is better")
    print_comparison(Table("macro_f1", [Score("gated", 0.7, 0.6, 0.8), Score("[b]audio", 0.5, None, None)], [pair], 48, 6, ["rough"]))
    out = capsys.readouterr().out
    assert "48 clips of 6 groups" in out and "\n[b]audio     0.500            none\n" in out and out.endswith("rough\n")
    assert "gated - [b]audio: +0.200 [+0.100, +0.300]: gated is better" in out


def compared(count: int, clips: int = 48) -> Table:
    """So many runs, best first, and all their pairs, with costs."""
    names = [f"backbone_number_{i}" for i in range(count)]
    scores = [Score(name, 0.9876 - i / 100, 0.9, 0.99) for i, name in enumerate(names)]
    pairs = [
        Comparison("accuracy", a.name, b.name, a.value, b.value, a.value - b.value, 0.001, 0.1, clips, clips, f"{a.name} is better")
        for i, a in enumerate(scores)
        for b in scores[i + 1 :]
    ]
    costs = {name: Cost(2_236_682, 6_300_000, 9_060_000, 0.5, 0.0042) for name in names[1:]}
    return Table("accuracy", scores, pairs, clips, clips, costs=costs)


@pytest.mark.parametrize("columns", [80, 120])
def test_costs_stand_beside_the_scores_or_below_them(monkeypatch, capsys, columns: int):
    monkeypatch.setattr(screen, "_width", lambda: columns)
    print_comparison(compared(3))
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if line.startswith("backbone_number_1 ") and " - " not in line]
    assert len(tables) == (2 if columns == 80 else 1) and max(map(len, lines[: 1 + 4 * len(tables)])) <= columns
    assert tables[-1].split("  ")[-1].strip() == "4.2 ms"
    for shown in ("0.978", "[0.900, 0.990]", "2.24 M", "6.3 M", "9.06 MB", "50%"):
        assert shown in " ".join(tables), shown


def test_of_many_pairs_those_with_the_best_are_printed(capsys):
    print_comparison(compared(6))
    said = capsys.readouterr().out
    assert said.count(" - ") == 5 == said.count("backbone_number_0 - ")
    assert "10 pairs without backbone_number_0: --json and --report have them" in said
    print_comparison(compared(4))
    assert capsys.readouterr().out.count(" - ") == 6


def test_many_clips_carry_one_digit_more(capsys):
    print_comparison(compared(2, 10_000))
    said = capsys.readouterr().out
    assert "0.9876" in said and "[0.9000, 0.9900]" in said and "+0.0100 [+0.0010, +0.1000]" in said


def test_rows_are_columns_and_options_are_as_in_a_recipe(capsys):
    rows = [{"use": "a", "parameters": 1234567, "options": {"width": 3, "weights": None, "adapt": "sum", "on": True}}]
    print_rows([*rows, {"use": "b", "parameters": None, "options": {}}])
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split() == ["use", "parameters", "options"] and third == "b"
    assert second.split() == ["a", "1,234,567", "width=3", "weights=null", "adapt=sum", "on=true"]
    assert json.loads(second.split("weights=")[1].split()[0]) is None
