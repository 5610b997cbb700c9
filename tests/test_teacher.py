"""The teacher: how it follows, that it never trains, what it sees, and that a phase with one can be killed anywhere."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from test_loop import CLASSES, CLIPS, Crash, Quiet, StopAt, Toy, X, Y, bits, crashing_batches, equal, history, make_run, phase, score
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from crossfade.clip import UNKNOWN, UserError, seed_of
from crossfade.training import cosine, cross_entropy, distill, information, loop, pseudo_label, rates, sgd
from crossfade.training.checkpoint import moving_names
from crossfade.training.finder import find_rate
from crossfade.training.loop import Interrupted, fit
from crossfade.training.prune import Prune
from crossfade.training.teacher import Shadow, Teacher, students_view, teachers_view
from crossfade.training.terms import Objective

FROZEN_STEM = {"encoders.audio[:1]": None, "*": 0.02}
DOMAIN = (torch.arange(CLIPS) % 3 != 0).long()


@pytest.fixture(autouse=True)
def _no_sweeping(monkeypatch):
    """As test_loop's."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


def two_views(number: int, rows: torch.Tensor, labels: torch.Tensor = Y) -> dict[str, torch.Tensor]:
    """The student sees noise; only the source has labels."""
    noise = torch.randn(len(rows), 4, generator=torch.Generator().manual_seed(number))
    known = torch.where(DOMAIN[rows] == 0, labels[rows], UNKNOWN)
    return {"audio": X[rows] + 0.3 * noise, "audio@teacher": X[rows], "emotion": known, "domain": DOMAIN[rows], "index": rows}


def batches(phase, epoch, start):
    order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(seed_of(phase.name, epoch)))
    return [two_views(number, rows) for number, rows in enumerate(order.split(5))][: phase.steps][start:]


def objective() -> Objective:
    return Objective(
        {
            "label": cross_entropy(target="emotion", of="source"),
            "pseudo": pseudo_label(target="emotion", threshold=0.4),
            "soft": distill(target="emotion", temperature=2.0),
            "varied": information(target="emotion", weight=0.1),
        }
    )


def adapting(name="adapt", epochs=2, teacher=None, given=None, **options):
    teacher = teacher or Teacher(momentum=0.8, center=0.9, align=0.9)
    return phase(name, epochs, given or FROZEN_STEM, **({"objective": objective(), "teacher": teacher} | options))


def moved_student(seed: int = 0) -> Toy:
    model = Toy(seed)
    rates.freeze(model, rates.resolve(model, FROZEN_STEM))
    rates.set_modes(model)
    return model


def take_a_step(model: Toy, seed: int) -> None:
    """Weights and BatchNorm move; what is frozen does not."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.5)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model({"audio": torch.randn(6, 4, generator=generator)})["emotion"], torch.arange(6) % CLASSES).backward()
    optimizer.step()


# ---- how it follows


def test_it_follows_in_parameters_and_buffers_as_torch_s_average_does():
    student = moved_student()
    shadow = Shadow(Teacher(momentum=0.9), student, {})
    reference = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    reference.update_parameters(student)  # its first update is a copy
    for step in range(4):
        take_a_step(student, step)
        shadow.after("step", student, 0)
        reference.update_parameters(student)
    expected = reference.module.state_dict()
    for name, value in shadow.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])
    counter = "encoders.audio.stages.1.1.num_batches_tracked"
    assert shadow.model.state_dict()[counter] == student.state_dict()[counter] == 4
    running = "encoders.audio.stages.1.1.running_mean"
    assert not torch.equal(shadow.model.state_dict()[running], student.state_dict()[running])


def test_what_is_frozen_is_shared_and_the_rest_is_not():
    student = moved_student()
    before = bits(student)
    shadow = Shadow(Teacher(momentum=0.5), student, {})
    mine, theirs = dict(shadow.model.named_parameters()), dict(student.named_parameters())
    shared = {name for name in mine if mine[name] is theirs[name]}
    assert shared == {name for name in mine if name.startswith("encoders.audio.stages.0")}
    assert shadow.model.get_buffer("encoders.audio.stages.0.1.running_mean") is student.get_buffer("encoders.audio.stages.0.1.running_mean")
    take_a_step(student, 0)
    assert all(torch.equal(value, before[name]) for name, value in shadow.model.state_dict().items()), "a student's step moves no teacher"
    shadow.after("step", student, 0)
    moved = {name for name, value in shadow.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(moving_names(student))


def test_it_stands_still_in_its_warmup_and_follows_when_it_is_told_to():
    student, made = moved_student(), {}
    for every in ("step", "epoch"):
        made[every] = Shadow(Teacher(momentum=0.5, warmup=2, every=every), student, {})
    take_a_step(student, 0)
    for every, shadow in made.items():
        before = bits(shadow.model)
        shadow.after(every, student, 1)
        shadow.after({"step": "epoch", "epoch": "step"}[every], student, 2)
        assert equal(bits(shadow.model), before)
        shadow.after(every, student, 2)
        assert not equal(bits(shadow.model), before) and shadow.updates == 1


def test_a_rising_momentum_follows_at_once_while_it_is_young():
    rising = Teacher(momentum=0.75, rising=True)
    assert [rising.momentum_of(update) for update in (1, 2, 3, 4, 50)] == pytest.approx([1 / 2, 2 / 3, 3 / 4, 3 / 4, 3 / 4])
    assert Teacher(momentum=0.75).momentum_of(1) == 0.75


def test_it_learns_nothing_and_answers_in_eval_mode():
    student = moved_student()
    shadow = Shadow(Teacher(), student, {"emotion": "emotion"})
    batch = two_views(0, torch.arange(CLIPS))
    student.train()
    before, answers = bits(shadow.model), shadow.answers(batch)
    assert not answers["emotion"].requires_grad and not any(parameter.requires_grad for parameter in shadow.model.parameters())
    assert not any(module.training for module in shadow.model.modules()) and equal(bits(shadow.model), before)
    reference = copy.deepcopy(student).eval()
    torch.testing.assert_close(answers["emotion"], reference({"audio": X, "index": Y})["emotion"].detach())


# ---- what it sees


def test_its_view_of_a_stream_takes_the_stream_s_place():
    names = ["audio[2:].x", "heads[:]", "heads[:].joint", "video", "video.mask", "audio@teacher", "audio@teacher.mask", "domain", "index"]
    batch = {name: torch.tensor([number]) for number, name in enumerate(names)}
    seen = teachers_view(batch)
    assert sorted(seen) == ["audio", "audio.mask", "domain", "index", "video", "video.mask"] and seen["audio"] == 5 and seen["video"] == 3
    assert sorted(students_view(batch)) == sorted(name for name in names if "@" not in name)


def test_stored_states_of_its_own_view_take_the_place_of_the_student_s():
    batch = {name: torch.tensor([0]) for name in ("audio[2:].x", "audio@teacher[3:].x", "audio2", "index")}
    assert sorted(teachers_view(batch)) == ["audio2", "audio[3:].x", "index"]


def test_without_a_view_of_its_own_it_sees_what_the_student_sees():
    batch = {"audio": X, "heads[:]": Y, "index": Y}
    assert teachers_view(batch) == students_view(batch) == batch


# ---- against a collapse


class Constant(nn.Module):
    """Answers what it is told, whatever it sees."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        """{"logits": (B, C)} -> {"emotion": (B, C)}"""
        return {"emotion": batch["logits"]}


def asked(teacher: Teacher, *rounds: torch.Tensor, domain=None) -> tuple[Shadow, list[torch.Tensor]]:
    shadow = Shadow(teacher, Constant(), {"emotion": "emotion"})
    extra = {} if domain is None else {"domain": domain}
    return shadow, [shadow.answers({"logits": logits, **extra})["emotion"] for logits in rounds]


def test_centring_takes_off_the_running_mean_of_the_target_s_logits():
    logits = torch.tensor([[4.0, 0.0], [2.0, 2.0], [100.0, 0.0]])
    shadow, (first, second) = asked(Teacher(center=0.9), logits, logits, domain=torch.tensor([1, 1, 0]))
    assert torch.equal(first, logits)  # the centre begins at 0
    torch.testing.assert_close(second, logits - torch.tensor([0.3, 0.1]))
    torch.testing.assert_close(shadow.centers["emotion"], torch.tensor([0.9 * 0.3 + 0.3, 0.9 * 0.1 + 0.1]))


def test_alignment_by_its_formula():
    probability = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.5, 0.5], [0.6, 0.4]])
    later = torch.tensor([[0.7, 0.3]] * 4)
    _, (first, second) = asked(Teacher(align=0.75), probability.log(), later.log())
    mean = probability.mean(0)
    expected = probability * 0.5 / mean
    torch.testing.assert_close(first.softmax(1), expected / expected.sum(1, keepdim=True))
    mean = (0.75 * 0.25 * mean + 0.25 * later[0]) / (0.75 * 0.25 + 0.25)  # weights of a running mean that began with nothing
    expected = later * 0.5 / mean
    torch.testing.assert_close(second.softmax(1), expected / expected.sum(1, keepdim=True))


def test_alignment_to_a_prior_and_off_a_collapse():
    collapsed = torch.tensor([[0.99, 0.01], [0.97, 0.03]]).log()
    _, answers = asked(Teacher(align=0.9), *[collapsed] * 5)
    assert collapsed.argmax(1).tolist() == [0, 0] and answers[-1].argmax(1).tolist() == [0, 1]
    _, answers = asked(Teacher(align=0.9, priors={"emotion": torch.tensor([30.0, 10.0])}), *[collapsed] * 50)
    expected = collapsed.exp() * torch.tensor([0.75, 0.25]) / torch.tensor([0.98, 0.02])
    torch.testing.assert_close(answers[-1].softmax(1), expected / expected.sum(1, keepdim=True))


def test_a_batch_without_the_target_teaches_it_nothing():
    shadow, (answer,) = asked(Teacher(center=0.9, align=0.9), torch.randn(3, 2), domain=torch.zeros(3, dtype=torch.int64))
    assert answer.isfinite().all() and not shadow.centers and not shadow.totals


# ---- in a phase


def trained(folder, phases, model=None, **changes):
    model = model or Toy(seed=99 if (folder / "checkpoint" / "state.pt").exists() else 0)
    rows = fit(make_run(folder, model, **({"batches": batches} | changes)), phases)
    return bits(model), rows


def test_a_phase_is_a_plain_loop_with_torch_s_average(tmp_path):
    """Student, teacher and terms step by step as one would write them down, for two epochs."""
    table, teacher = {"encoders": None, "*": 0.1}, Teacher(momentum=0.8)
    made = adapting(teacher=teacher, given=table, optimizer=lambda groups: sgd(groups, momentum=0.0))
    _, rows = trained(tmp_path, [made])

    model = Toy().eval()  # the encoder is frozen, so nothing draws or counts
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    average.update_parameters(model)
    head, losses = model.get_submodule("heads.emotion"), []
    for epoch in range(2):
        total = count = 0.0
        for batch in batches(made, epoch, 0):
            with torch.no_grad():
                told = average({"audio": batch["audio@teacher"], "index": batch["index"]})["emotion"]
            logits, target, source = model(batch)["emotion"], batch["domain"] == 1, batch["domain"] == 0
            sure = target & (told.softmax(1).amax(1) >= 0.4)
            loss = nn.functional.cross_entropy(logits[source], batch["emotion"][source]) if source.any() else 0.0
            loss = loss + (nn.functional.cross_entropy(logits[sure], told[sure].argmax(1)) if sure.any() else 0.0)
            soft, own = (told[target] / 2).softmax(1), (logits[target] / 2).log_softmax(1)
            loss = loss + 4 * nn.functional.kl_div(own, soft, reduction="batchmean")
            found = logits[target].softmax(1)
            mean = found.mean(0)
            loss = loss + 0.1 * (-(found * found.log()).sum(1).mean() + (mean * mean.log()).sum())
            slopes = torch.autograd.grad(loss, list(head.parameters()))
            with torch.no_grad():
                for parameter, slope in zip(head.parameters(), slopes, strict=True):
                    parameter -= 0.1 * slope
            average.update_parameters(model)
            total, count = total + float(loss.detach()) * len(logits), count + len(logits)
        losses.append(total / count)
    assert [row["train"]["loss"] for row in rows] == pytest.approx(losses, rel=1e-5)


def test_the_teacher_never_trains_and_moves_each_step(tmp_path, monkeypatch):
    seen, answer = [], Shadow.answers

    def watched(shadow, batch):
        seen.append((shadow.model.training, any(module.training for module in shadow.model.modules()), bits(shadow.model)))
        return answer(shadow, batch)

    monkeypatch.setattr(Shadow, "answers", watched)
    trained(tmp_path, [phase("source", 1), adapting()])
    assert len(seen) == 10 and not any(training or inside for training, inside, _ in seen)
    running = "encoders.audio.stages.1.1.running_mean"
    assert len({tuple(state[running].tolist()) for _, _, state in seen}) == 10
    assert all(torch.equal(state["encoders.audio.stages.0.0.weight"], seen[0][2]["encoders.audio.stages.0.0.weight"]) for *_, state in seen)


def test_begin_may_leave_the_model_in_eval_mode(tmp_path):
    """As storing activations does: what moves must still not be shared."""
    models = [Toy(), Toy()]
    for number, begin in enumerate((lambda phase: models[0].eval(), lambda phase: None)):
        trained(tmp_path / str(number), [adapting()], models[number], begin=begin)
    assert equal(bits(models[0]), bits(models[1]))


@pytest.mark.parametrize("keep", ["student", "teacher"])
def test_which_of_the_two_is_scored_and_kept(tmp_path, keep):
    scored = []

    def noted(model):
        scored.append(bits(model))
        return score(model)

    table = {"*": 0.05}
    kept, _ = trained(tmp_path, [adapting(epochs=1, teacher=Teacher(momentum=1.0), given=table, keep=keep)], score=noted)
    assert equal(kept, scored[0])
    begun = bits(Toy())
    still = {name for name in begun if torch.equal(kept[name], begun[name])}
    parameters = {name for name, _ in Toy().named_parameters()}
    assert parameters <= still if keep == "teacher" else not parameters & still


def test_the_start_is_scored_by_the_phase_s_own_measure_and_kept_where_nothing_beats_it(tmp_path):
    values = iter([{"nll": 0.5, "sure": 0.1}, {"nll": 0.6, "sure": 0.9}, {"nll": 0.1, "sure": 0.8}, {"nll": 0.1, "sure": 0.7}])
    screen, model, begun = Quiet(), Toy(), []
    made = adapting(epochs=2, select=lambda found: found["sure"])
    rows = fit(
        make_run(
            tmp_path,
            model,
            batches=batches,
            screen=screen,
            score=lambda model: next(values),
            begin=lambda phase: begun.append(bits(model)),
        ),
        [phase("source", 1), made],
    )
    assert screen.kept_states == [{"epoch": 1, "score": -0.5}, {"epoch": 0, "score": 0.9}]
    assert [row["best"] for row in rows] == [True, False, False] and equal(bits(model), begun[1])


def test_a_first_phase_with_a_measure_of_its_own_has_a_start_too_and_the_next_is_scored_anew(tmp_path):
    """As when a run goes on from another's model; the measures of two phases are not compared."""
    values = iter([9.0, 1.0, 5.0, 6.0])
    screen = Quiet()
    phases = [adapting(epochs=1, select=lambda found: found["nll"]), phase("after", 1)]
    trained(tmp_path, phases, screen=screen, score=lambda model: {"nll": next(values)})
    assert screen.kept_states == [{"epoch": 0, "score": 9.0}, {"epoch": 0, "score": -5.0}]


@pytest.mark.parametrize("wrong", [{"teacher": None}, {"prune": Prune(0.5)}])
def test_only_a_teacher_that_is_there_and_whole_can_be_kept(wrong):
    with pytest.raises(UserError, match=r"^phases.adapt.keep: found 'teacher', which needs a phase with a teacher and without prune"):
        replace(adapting(), keep="teacher", **wrong)


def test_progress_reaches_the_terms(tmp_path):
    told = []

    class Listening(Objective):
        def __call__(self, out, batch, teacher=None, progress=0.0, shares=None):
            told.append((progress, teacher is not None, sorted(batch)))
            return super().__call__(out, batch, teacher, progress)

    trained(tmp_path, [adapting(objective=Listening(objective().terms), accumulate=2)])
    assert [progress for progress, *_ in told] == pytest.approx([0, 0, 1 / 6, 1 / 6, 1 / 3, 1 / 2, 1 / 2, 2 / 3, 2 / 3, 5 / 6])
    assert all(there and names == ["audio", "domain", "emotion", "index"] for _, there, names in told)


def test_labels_of_the_target_reach_nothing(tmp_path):
    """Whatever stands in the target's rows, each weight and each row of the history is the same."""
    found = []
    for number in range(2):
        other = torch.where(DOMAIN == 1, Y.roll(number), Y)

        def shown(phase, epoch, start, other=other):
            order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(epoch))
            return [{**two_views(each, rows), "emotion": other[rows]} for each, rows in enumerate(order.split(5))][start:]

        weights, rows = trained(tmp_path / str(number), [adapting()], batches=shown)
        found.append((weights, [row["train"]["loss"] for row in rows]))
    assert equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


def test_an_overflowed_step_moves_no_teacher(tmp_path):
    """fp16: the scaler leaves such a step out, and so does the teacher."""
    model = Toy()
    run = make_run(tmp_path, model, batches=batches)
    made = adapting(epochs=1, teacher=Teacher(momentum=0.5))
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    fit(run, [replace(made, steps=1)])
    assert run.accelerator.scaler.get_scale() == 2.0**126
    before = bits(Toy())
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())

    counted, follow = [], Shadow.after

    def counting(shadow, what, student, epoch):
        counted.extend([what])
        follow(shadow, what, student, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shadow, "after", counting)
        for number, scale in enumerate((2.0**127, 2.0)):
            run = make_run(tmp_path / str(number), Toy(), batches=batches)
            run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
            fit(run, [replace(made, steps=1)])
    assert counted == ["epoch", "step", "epoch"]


def test_bf16_answers_come_in_single_precision(tmp_path):
    from test_loop import accelerator

    model, types, answer = Toy(), set(), Shadow.answers

    def watched(shadow, batch):
        found = answer(shadow, batch)
        types.add((shadow.model.seen[-1], found["emotion"].dtype))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shadow, "answers", watched)
        run = replace(make_run(tmp_path, model, batches=batches), accelerator=accelerator(mixed_precision="bf16"))
        rows = fit(run, [adapting(keep="teacher")])
    assert types == {(torch.bfloat16, torch.float32)} and all(math.isfinite(row["train"]["loss"]) for row in rows)
    assert "forward" not in vars(model) and run.shadow is None


def test_a_search_for_rates_asks_the_teacher_too_and_leaves_no_trace(tmp_path):
    model = Toy()
    before = bits(model)
    run = make_run(tmp_path, model, batches=batches)
    curve = find_rate(run, adapting(), steps=12)
    assert len(curve.losses) == 12 and equal(bits(model), before) and run.shadow is None


# ---- going on


PHASES = [
    phase("source", 1, {"*": 0.02}),
    adapting(epochs=2, teacher=Teacher(momentum=0.7, center=0.9, align=0.9, rising=True), schedule=cosine(), keep="teacher"),
    adapting("again", 2, Teacher(momentum=0.7, every="epoch", warmup=1, align=0.5), accumulate=2, select=lambda found: found["accuracy"]),
]


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    stop, folder = StopAt(), tmp_path_factory.mktemp("unkilled")
    weights, _ = trained(folder, PHASES, stop=stop)
    return weights, history(folder), stop.asked


def test_stopped_at_every_second_possible_step_it_ends_bit_for_bit_the_same(tmp_path, unkilled):
    weights, rows, asked = unkilled
    for number in range(1, asked + 1, 2):
        folder = tmp_path / str(number)
        with pytest.raises(Interrupted):
            trained(folder, PHASES, stop=StopAt(number))
        found, _ = trained(folder, PHASES)
        assert equal(found, weights) and history(folder) == rows, f"stopped at question {number} of {asked}"


def test_killed_between_checkpoints_it_ends_bit_for_bit_the_same(tmp_path, unkilled, monkeypatch):
    weights, rows, _ = unkilled
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)
    monkeypatch.setattr("test_loop.toy_batches", lambda size: batches)  # what crashing_batches serves
    for number in range(2, 26, 6):
        folder = tmp_path / str(number)
        with pytest.raises(Crash):
            trained(folder, PHASES, batches=crashing_batches(number))
        found, _ = trained(folder, PHASES)
        assert equal(found, weights) and history(folder) == rows, f"killed before batch {number}"
