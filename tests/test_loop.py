"""`fit` on a toy: what it minimises, what it keeps, and that a run killed anywhere ends as one that was not."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from crossfade.clip import UserError, seed_of
from crossfade.training import adam, cosine, cross_entropy, loop, sgd
from crossfade.training.checkpoint import Checkpoints
from crossfade.training.loop import Interrupted, Phase, Run, fit
from crossfade.training.schedules import constant
from crossfade.training.terms import Objective

CLIPS, CLASSES = 22, 3
X = torch.randn(CLIPS, 4, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0.5).long()


@pytest.fixture(autouse=True)
def _no_sweeping(monkeypatch):
    """Accelerate sweeps all of Python's memory after each phase: 0.1 s here, a hundred times over."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


class Encoder(nn.Module):
    """(B, 4) -> (B, 8), two stages with BatchNorm and dropout."""

    def __init__(self):
        super().__init__()
        blocks = [nn.Sequential(nn.Linear(size, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3)) for size in (4, 8)]
        self.stages = nn.ModuleList(blocks)

    def forward(self, x):
        """(B, 4) -> (B, 8)"""
        return self.stages[1](self.stages[0](x))


class Toy(nn.Module):
    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoders = nn.ModuleDict({"audio": Encoder()})
        self.heads = nn.ModuleDict({"emotion": nn.Linear(8, CLASSES)})
        self.seen: list[torch.dtype] = []

    def forward(self, batch):
        """{"audio": (B, 4)} -> {"emotion": (B, C)}"""
        if "audio" not in batch:  # a stream of its own that nothing learns from
            return {"emotion": torch.zeros(len(batch["index"]), CLASSES)}
        found = self.heads["emotion"](self.encoders["audio"](batch["audio"]))
        self.seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else found.dtype)
        return {"emotion": found}


def rows_of(rows):
    return {"audio": X[rows], "emotion": Y[rows], "index": rows}


def toy_batches(size: int):
    """Seeded as the loader is: by phase and epoch, not by where one starts."""

    def batches(phase, epoch, start):
        order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(seed_of(phase.name, epoch)))
        return [rows_of(rows) for rows in order.split(size)][: phase.steps][start:]

    return batches


def score(model):
    model.eval()
    with torch.no_grad():
        logits = model({"audio": X, "index": torch.arange(CLIPS)})["emotion"]
    loss = nn.functional.cross_entropy(logits, Y)
    return {"nll": float(loss), "accuracy": float((logits.argmax(1) == Y).float().mean())}


class Quiet:
    """A screen that remembers."""

    def __init__(self):
        self.kept_states: list[dict] = []
        self.steps = 0
        self.warnings: list[str] = []

    def phase(self, phase, model): ...
    def epoch(self, phase, epoch, steps, done): ...
    def step(self, loss, accuracy, steps):
        self.steps += steps

    def scored(self, row): ...
    def warn(self, text):
        self.warnings.append(text)

    def kept(self, phase, best):
        self.kept_states.append({"epoch": best["epoch"], "score": best["score"]})


@dataclass
class StopAt:
    """Asks to stop at its n-th question, once."""

    number: int = 0
    asked: int = field(default=0)

    def __call__(self):
        self.asked += 1
        return 15 if self.asked == self.number else None


def accelerator(**options) -> Accelerator:
    AcceleratorState._reset_state(True)
    return Accelerator(cpu=True, **options)


def make_run(folder: Path, model, **changes) -> Run:
    run = Run(
        model=model,
        accelerator=accelerator(),
        batches=toy_batches(5),
        score=score,
        select=lambda found: -found["nll"],
        hits=lambda out, batch: (out["emotion"].argmax(1) == batch["emotion"], torch.ones_like(batch["emotion"], dtype=torch.bool)),
        folder=folder,
        seed=7,
        screen=Quiet(),
        stop=lambda: None,
        track=lambda row, step: None,
    )
    return replace(run, **changes)


def phase(name="train", epochs=3, rates=None, **options) -> Phase:
    given = {
        "objective": Objective({"label": cross_entropy(target="emotion")}),
        "optimizer": lambda groups: adam(groups),
        "schedule": constant(),
    }
    return Phase(name=name, epochs=epochs, rates={"*": 0.02} if rates is None else rates, **(given | options))


def bits(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def history(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


# ---- what it does


def test_the_loss_falls_and_the_rows_say_so(tmp_path):
    rows = fit(make_run(tmp_path, Toy()), [phase(epochs=15)])
    assert rows[-1]["train"]["loss"] < 0.7 * rows[0]["train"]["loss"] and max(row["val"]["accuracy"] for row in rows) > 0.8
    assert [row["epoch"] for row in rows] == list(range(1, 16)) and history(tmp_path) == [
        {name: value for name, value in row.items() if name != "seconds"} for row in rows
    ]
    assert rows[0]["train"]["terms.label"] == rows[0]["train"]["loss"] and 0 <= rows[0]["train"]["accuracy"] <= 1


def test_the_best_state_stays_not_the_last(tmp_path):
    states, scores = [], iter([1.0, 3.0, 2.0, 2.5])

    def scripted(model):
        states.append(bits(model.eval()))  # as every score does; what moves must be found all the same
        return {"nll": 0.0, "accuracy": next(scores)}

    model, screen = Toy(), Quiet()
    rows = fit(make_run(tmp_path, model, score=scripted, select=lambda found: found["accuracy"], screen=screen), [phase(epochs=4)])
    assert equal(bits(model), states[1]) and not equal(bits(model), states[3])
    assert [row["best"] for row in rows] == [True, True, False, False] and screen.kept_states == [{"epoch": 2, "score": 3.0}]


def test_early_stopping_counts_anew_in_each_phase_and_the_start_is_kept_when_nothing_improves(tmp_path):
    scores = iter([5.0, 4.0, 3.0, 2.0, 1.0, 4.9, 0.0])
    starts = []
    model, screen = Toy(), Quiet()
    made = make_run(tmp_path, model, score=lambda model: {"accuracy": next(scores)}, select=lambda found: found["accuracy"], screen=screen)
    rows = fit(made, [phase("a", 9, patience=2), phase("b", 9, patience=3)])
    assert [(row["phase"], row["epoch"]) for row in rows] == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("b", 3)]
    assert screen.kept_states == [{"epoch": 1, "score": 5.0}, {"epoch": 0, "score": 5.0}]
    other = Toy()
    scores = iter([5.0])
    fit(
        make_run(tmp_path / "one", other, score=lambda model: {"accuracy": next(scores)}, select=lambda found: found["accuracy"]),
        [phase("a", 1)],
    )
    starts.append(bits(other))
    # one epoch of phase a, whose length sets no schedule here: the same weights as those that b began with and kept
    assert equal(bits(model), starts[0])


def test_a_phase_of_no_epochs_changes_nothing(tmp_path):
    model = Toy()
    before = bits(model)
    assert fit(make_run(tmp_path, model), [phase(epochs=0)]) == [] and equal(bits(model), before)


def test_frozen_parts_stay_bit_equal_through_fit(tmp_path):
    model = Toy()
    before = bits(model)
    fit(make_run(tmp_path, model), [phase(rates={"encoders.audio[:1]": None, "*": 0.05})])
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.startswith("encoders.audio.stages.0")}


class Plain(Toy):
    """Without BatchNorm and dropout, so that a batch in pieces is the same batch."""

    def __init__(self):
        super().__init__()
        self.encoders["audio"] = nn.Sequential(nn.Linear(4, 8), nn.Tanh())


def trained(folder, size, **options):
    model, clips = Plain(), 20

    def batches(phase, epoch, start):
        order = torch.randperm(clips, generator=torch.Generator().manual_seed(epoch))
        return [rows_of(rows) for rows in order.split(size)][start:]

    rows = fit(make_run(folder, model, batches=batches), [phase(optimizer=lambda groups: sgd(groups), **options)])
    return bits(model), rows


@pytest.mark.parametrize(("size", "accumulate"), [(5, 2), (2, 5), (5, 4)])
def test_k_accumulated_batches_are_one_that_is_k_times_larger(tmp_path, size, accumulate):
    pieces, rows = trained(tmp_path / "a", size, accumulate=accumulate)
    whole, reference = trained(tmp_path / "b", size * accumulate)
    for name in whole:
        torch.testing.assert_close(pieces[name], whole[name], rtol=1e-5, atol=1e-6)
    assert rows[-1]["train"]["loss"] == pytest.approx(reference[-1]["train"]["loss"], rel=1e-5)


def test_a_last_incomplete_accumulation_is_a_step_of_its_own(tmp_path):
    """4 batches by 3: steps of 3 and 1, each a mean over what it has; the schedule counts two steps an epoch."""
    factors = []

    def schedule(progress):
        factors.append(progress)
        return 1.0

    pieces, _ = trained(tmp_path / "a", 5, accumulate=3, schedule=schedule)
    assert factors == pytest.approx([step / 6 for step in range(6)])
    whole, _ = trained(tmp_path / "b", [15, 5])
    for name in whole:
        torch.testing.assert_close(pieces[name], whole[name], rtol=1e-5, atol=1e-6)


def test_every_step_has_random_numbers_of_its_own(tmp_path):
    seeds = []

    class Listening(Toy):
        def forward(self, batch):
            """As Toy's."""
            seeds.extend([torch.initial_seed()] if self.training else [])
            return super().forward(batch)

    fit(make_run(tmp_path, Listening()), [phase("a", 2), phase("b", 2)])
    assert len(seeds) == len(set(seeds)) == 20


def test_gradients_are_clipped(tmp_path):
    norms = []

    def spying(groups):
        optimizer = sgd(groups, momentum=0.0)
        take = optimizer.step

        def step(closure=None):
            parameters = [parameter for group in groups for parameter in group["params"]]
            norms.append(float(torch.stack([parameter.grad.norm() for parameter in parameters]).norm()))
            return take(closure)

        optimizer.step = step
        return optimizer

    fit(make_run(tmp_path, Toy()), [phase(optimizer=spying, clip_norm=0.05)])
    assert len(norms) == 15 and max(norms) <= 0.05 * 1.001 and max(norms) > 0.049


def test_steps_caps_the_batches_of_an_epoch(tmp_path):
    screen = Quiet()
    fit(make_run(tmp_path, Toy(), screen=screen), [phase(epochs=3, steps=2)])
    assert screen.steps == 6


def test_rates_follow_the_schedule_each_from_its_own(tmp_path):
    seen = []

    def spying(groups):
        optimizer = sgd(groups)
        take = optimizer.step

        def step(closure=None):
            seen.append([group["lr"] for group in optimizer.param_groups])
            return take(closure)

        optimizer.step = step
        return optimizer

    table = {"heads": 0.1, "encoders": 0.001}
    fit(make_run(tmp_path, Toy()), [phase(epochs=2, rates=table, optimizer=spying, schedule=cosine(floor=0.1))])
    reference = [cosine(floor=0.1)(step / 10) for step in range(10)]
    assert [pair[0] for pair in seen] == pytest.approx([0.1 * factor for factor in reference])
    assert [pair[1] for pair in seen] == pytest.approx([0.001 * factor for factor in reference])


def test_a_batch_that_nothing_learns_from_is_passed_over(tmp_path):
    def batches(phase, epoch, start):
        blind = {name: value for name, value in rows_of(torch.arange(4)).items() if name != "audio"}
        return [blind, rows_of(torch.arange(8)), blind][start:]

    model = Toy()
    before = bits(model)
    rows = fit(make_run(tmp_path, model, batches=batches), [phase(epochs=1)])
    assert math.isfinite(rows[0]["train"]["loss"]) and not equal(bits(model), before)


# ---- before a phase's first batch


def test_begin_comes_once_a_phase_that_trains_when_it_is_set_who_learns(tmp_path):
    model, calls = Toy(), []

    def begin(phase):
        encoder = model.encoders["audio"]
        learn = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        calls.append((phase.name, len(learn), encoder.stages[0].training, encoder.stages[1].training))

    def batches(phase, epoch, start):
        assert calls[-1][0] == phase.name
        return toy_batches(5)(phase, epoch, start)

    halfway = {"encoders.audio[-1:]": 0.005, "encoders": None, "*": 0.02}
    phases = [phase("top", 2, {"encoders": None, "*": 0.02}), phase("none", 0), phase("half", 2, halfway), phase("all", 1)]
    fit(make_run(tmp_path, model, begin=begin, batches=batches), phases)
    assert calls == [("top", 2, False, False), ("half", 6, False, True), ("all", 10, True, True)]


@pytest.mark.parametrize("number", [1, 2])
def test_killed_before_a_phase_s_first_batch_it_goes_on_from_the_same_weights(tmp_path, unkilled, number):
    """What is stored then must be what an undisturbed run would have stored."""
    phases, weights, rows, _ = unkilled

    def go(folder, dies: int = 0):
        began, model = {}, Toy(seed=99 if (folder / "checkpoint" / "state.pt").exists() else 0)

        def begin(phase):
            began[phase.name] = bits(model)
            if len(began) == dies:
                raise Crash

        fit(make_run(folder, model, begin=begin), phases)
        return began, bits(model)

    with pytest.raises(Crash):
        go(tmp_path / "killed", dies=number)
    began, found = go(tmp_path / "killed")
    expected, _ = go(tmp_path / "whole")
    assert equal(found, weights) and history(tmp_path / "killed") == rows
    assert equal(began["unfreeze"], expected["unfreeze"]) and not equal(expected["unfreeze"], expected["fusion"])


# ---- precision


def test_bf16_trains_in_every_phase_and_leaves_the_model_as_it_was(tmp_path):
    model = Toy()
    made = make_run(tmp_path, model)
    made = replace(made, accelerator=accelerator(mixed_precision="bf16"))
    rows = fit(made, [phase("a", 2), phase("b", 2)])
    assert len(rows) == 4 and rows[-1]["train"]["loss"] < rows[0]["train"]["loss"]
    assert set(model.seen) == {torch.bfloat16}  # in phase b too
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert "forward" not in vars(model) and not torch.equal(X, X.bfloat16().float())
    model.seen.clear()
    model({"audio": X, "index": Y})
    assert model.seen == [torch.float32]


# ---- going on


PHASES = [
    phase("fusion", 2, {"encoders": None, "*": 0.02}, schedule=cosine(warmup=0.2)),
    phase("unfreeze", 2, {"encoders.audio[-1:]": 0.005, "encoders": None, "*": 0.02}, schedule=cosine(), clip_norm=1.0, patience=3),
]


def variant(accumulate: int) -> list[Phase]:
    return [replace(each, accumulate=accumulate) for each in PHASES]


def finish(folder: Path, phases, seed: int = 0, **changes):
    """Resume as `work` does: where there is a checkpoint the model starts from other random weights, else from the seed's."""
    again = (folder / "checkpoint" / "state.pt").exists()
    model = Toy(seed=99 if again else seed)
    fit(make_run(folder, model, **changes), phases)
    return bits(model), history(folder)


@pytest.fixture(scope="module", params=[1, 3], ids=lambda count: f"accumulate={count}")
def unkilled(request, tmp_path_factory):
    stop = StopAt()
    phases = variant(request.param)
    weights, rows = finish(tmp_path_factory.mktemp("unkilled"), phases, stop=stop)
    return phases, weights, rows, stop.asked


def test_stopped_at_every_possible_step_it_ends_bit_for_bit_the_same(tmp_path, unkilled):
    phases, weights, rows, asked = unkilled
    assert asked >= 4 * (2 + 1)
    for number in range(1, asked + 1):
        folder = tmp_path / str(number)
        with pytest.raises(Interrupted) as stopped:
            finish(folder, phases, stop=StopAt(number))
        assert stopped.value.signal == 15
        found, found_rows = finish(folder, phases)
        assert equal(found, weights) and found_rows == rows, f"stopped at question {number} of {asked}"


def test_stopped_at_every_step_of_one_run(tmp_path, unkilled):
    phases, weights, rows, asked = unkilled
    for attempt in itertools.count():
        assert attempt <= asked
        try:
            found, found_rows = finish(tmp_path, phases, stop=StopAt(1))
            break
        except Interrupted:
            continue
    assert equal(found, weights) and found_rows == rows


class Crash(Exception):
    """Power gone."""


def crashing_batches(number: int):
    """Dies before it serves its n-th batch; nothing is saved at that moment."""
    served = itertools.count(1)

    class Dying(list):
        def __iter__(self):
            for batch in list.__iter__(self):
                if next(served) == number:
                    raise Crash
                yield batch

    return lambda phase, epoch, start: Dying(toy_batches(5)(phase, epoch, start))


def test_killed_before_any_batch_it_ends_bit_for_bit_the_same(tmp_path, unkilled):
    phases, weights, rows, _ = unkilled
    for number in range(1, 21):
        folder = tmp_path / str(number)
        with pytest.raises(Crash):
            finish(folder, phases, batches=crashing_batches(number))
        found, found_rows = finish(folder, phases)
        assert equal(found, weights) and found_rows == rows, f"killed before batch {number}"


def test_a_long_epoch_is_saved_on_the_way(tmp_path, unkilled, monkeypatch):
    phases, weights, rows, _ = unkilled
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)
    steps = set()
    for number in range(1, 21):
        folder = tmp_path / str(number)
        with pytest.raises(Crash):
            finish(folder, phases, batches=crashing_batches(number))
        saved = Checkpoints(folder / "checkpoint").load()
        steps.add(saved["progress"]["step"] if saved else 0)
        found, found_rows = finish(folder, phases)
        assert equal(found, weights) and found_rows == rows, f"killed before batch {number}"
    assert max(steps) > 1, "no checkpoint was made inside an epoch"


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_killed_around_any_write_it_ends_bit_for_bit_the_same(tmp_path, unkilled, monkeypatch, late):
    phases, weights, rows, _ = unkilled
    monkeypatch.setattr(loop, "SAVE_AFTER", -1.0)
    move = Path.replace
    for number in itertools.count(1):
        folder, moves = tmp_path / str(number), itertools.count(1)

        def dying(path, target, moves=moves, number=number):
            dies = next(moves) == number
            if dies and not late:
                raise Crash
            move(path, target)
            if dies:
                raise Crash
            return target

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dying)
            try:
                finish(folder, phases)
                break
            except Crash:
                pass
        found, found_rows = finish(folder, phases)
        assert equal(found, weights) and found_rows == rows, f"killed around write {number}"
    assert number > 10


def test_stopped_and_then_killed(tmp_path, unkilled):
    """From a checkpoint inside an epoch of the second phase, killed twice more without another one."""
    phases, weights, rows, asked = unkilled
    with pytest.raises(Interrupted):
        finish(tmp_path, phases, stop=StopAt(asked - 2))
    for number in (1, 2):
        try:
            finish(tmp_path, phases, batches=crashing_batches(number))
        except Crash:
            continue
    found, found_rows = finish(tmp_path, phases)
    assert equal(found, weights) and found_rows == rows


def test_a_finished_run_can_be_asked_again(tmp_path, unkilled):
    phases, weights, rows, _ = unkilled
    finish(tmp_path, phases)
    found, found_rows = finish(tmp_path, phases)
    assert equal(found, weights) and found_rows == rows


def test_the_seed_decides_everything(tmp_path):
    first, again, other = (finish(tmp_path / name, PHASES, **changes)[0] for name, changes in [("a", {}), ("b", {}), ("c", {"seed": 1})])
    assert equal(first, again) and not equal(first, other)


# ---- what a person is told


def stopped_run(folder: Path):
    with pytest.raises(Interrupted):
        finish(folder, PHASES, stop=StopAt(8))


def test_a_truncated_checkpoint_is_named(tmp_path):
    stopped_run(tmp_path)
    state = tmp_path / "checkpoint" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"state\.pt: this checkpoint cannot be read"):
        finish(tmp_path, PHASES)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    stopped_run(tmp_path)
    with pytest.raises(UserError, match="of another model"):
        fit(make_run(tmp_path, Plain()), PHASES)


def test_a_loss_that_is_not_finite_is_an_error_and_leaves_the_checkpoint(tmp_path):
    def poisoned(phase, epoch, start):
        batches = toy_batches(5)(phase, epoch, start)
        return [{**batch, "audio": batch["audio"] * math.nan} for batch in batches] if epoch else batches

    with pytest.raises(UserError) as caught:
        finish(tmp_path, PHASES, batches=poisoned)
    assert str(caught.value) == "phases.fusion: the loss is nan in epoch 2; lower its rates or set clip_norm"
    found, rows = finish(tmp_path, PHASES)
    weights, reference = finish(tmp_path / "whole", PHASES)
    assert equal(found, weights) and rows == reference


def test_a_score_that_is_not_a_number_is_an_error(tmp_path):
    with pytest.raises(UserError, match="select: the score on val is not a number after epoch 1 of phase fusion"):
        finish(tmp_path, PHASES, score=lambda model: {"nll": math.nan})


def test_numpy_scores_survive_the_checkpoint(tmp_path):
    import numpy as np

    made = {
        "score": lambda model: {name: np.float64(value) for name, value in score(model).items()},
        "select": lambda found: -np.float32(found["nll"]),
    }
    with pytest.raises(Interrupted):
        finish(tmp_path, PHASES, stop=StopAt(9), **made)
    assert len(finish(tmp_path, PHASES, **made)[1]) == 4


def test_a_phase_that_selects_the_last_ends_as_its_last_epoch_does(tmp_path: Path):
    """However badly that scores; the epochs before and the start are no candidates that could win."""
    model, scores = Toy(), iter([0.9, 0.8, 0.7, 0.6])
    made = make_run(tmp_path, model, score=lambda model: {"accuracy": next(scores)}, select=lambda found: found["accuracy"])
    rows = fit(made, [phase(epochs=3, select=lambda found: found["last"])])
    assert [row["best"] for row in rows] == [True, True, True] and [row["val"]["accuracy"] for row in rows] == [0.8, 0.7, 0.6]
    assert "last" not in rows[0]["val"]
