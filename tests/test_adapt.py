"""Terms for clips without labels: by hand and against torch's, whom they look at, and that no label of the target is read."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from crossfade import training, use
from crossfade.clip import UNKNOWN, UserError
from crossfade.training import cross_entropy, distill, focal, information, logit_adjusted, pseudo_label
from crossfade.training.by_class import in_class_order
from crossfade.training.course import Course
from crossfade.training.terms import Objective

PROBABILITY = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.35, 0.65], [0.05, 0.95], [0.99, 0.01], [0.02, 0.98]])
DOMAIN = torch.tensor([1, 1, 1, 1, 0, -1])
STUDENT = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
TEACHER = {"cough": PROBABILITY.log()}


def batch_of(labels=None) -> dict[str, torch.Tensor]:
    return {"cough": torch.full((6,), UNKNOWN) if labels is None else labels, "domain": DOMAIN, "index": torch.arange(6)}


def asked(term, progress: float = 0.0):
    out = {"cough": STUDENT.clone().requires_grad_()}
    values, known = term(out, batch_of(), TEACHER, progress)
    return out["cough"], values, known


def course(**given) -> Course:
    return Course.model_validate(given)


# ---- pseudo-labels


def test_pseudo_labels_are_cross_entropy_against_the_teacher_s_sure_answers():
    logits, values, known = asked(pseudo_label(target="cough", threshold=0.85))
    assert known.tolist() == [True, False, False, True, False, False]  # the last two are not of the target
    expected = functional.cross_entropy(logits[[0, 3]], torch.tensor([0, 1]), reduction="none")
    torch.testing.assert_close(values[known], expected)
    loss, _ = Objective({"it": pseudo_label(target="cough", threshold=0.85)})({"cough": logits}, batch_of(), TEACHER)
    torch.testing.assert_close(loss, expected.mean())
    (slope,) = torch.autograd.grad(loss, logits)
    assert slope[[0, 3]].all() and not slope[[1, 2, 4, 5]].any()


def test_each_class_may_have_its_threshold():
    spec = in_class_order({"threshold": {"non-cough": 0.9, "cough": 0.3}}, ["cough", "non-cough"], "here")
    assert asked(pseudo_label(target="cough", **spec))[2].tolist() == [True, True, False, True, False, False]


def test_a_curriculum_lowers_the_threshold_as_the_phase_goes_on():
    for name, middle in [("linear", 0.725), ("exponential", math.sqrt(0.95 * 0.5))]:
        term = pseudo_label(target="cough", threshold=course(use=name, **{"from": 0.95, "to": 0.5}))
        kept = [int(asked(term, progress)[2].sum()) for progress in (0.0, 0.5, 1.0)]
        assert kept == [1, int((PROBABILITY[:4].amax(1) >= middle).sum()), 4]


def test_soft_ones_keep_all_of_the_teacher_s_answer():
    logits, values, known = asked(pseudo_label(target="cough", threshold=0.5, soft=True))
    torch.testing.assert_close(values[known], functional.cross_entropy(logits, PROBABILITY, reduction="none")[known])


def test_among_all_divides_by_all_clips_of_the_domain():
    logits, values, known = asked(pseudo_label(target="cough", threshold=0.85, among="all"))
    assert known.tolist() == [True] * 4 + [False] * 2 and values[1] == 0
    few, _ = Objective({"it": pseudo_label(target="cough", threshold=0.85)})({"cough": logits}, batch_of(), TEACHER)
    all_, _ = Objective({"it": pseudo_label(target="cough", threshold=0.85, among="all")})({"cough": logits}, batch_of(), TEACHER)
    torch.testing.assert_close(all_, few / 2)


def test_nobody_sure_is_nought_without_a_slope():
    logits, _, _ = asked(pseudo_label(target="cough"))
    loss, _ = Objective({"it": pseudo_label(target="cough", threshold=1.0)})({"cough": logits}, batch_of(), TEACHER)
    loss.backward()
    assert loss == 0 and logits.grad is not None and not logits.grad.any()


# ---- distillation


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_equals_torch_s_times_t_squared(temperature):
    logits, values, known = asked(distill(target="cough", temperature=temperature))
    reference = functional.kl_div((logits / temperature).log_softmax(1), (TEACHER["cough"] / temperature).softmax(1), reduction="none").sum(
        1
    )
    torch.testing.assert_close(values, reference * temperature**2)
    assert known.tolist() == [True] * 4 + [False] * 2


def test_ce_sharpens_the_teacher_alone():
    logits, values, _ = asked(distill(target="cough", direction="ce", temperature=0.1))
    sharp = PROBABILITY**10 / (PROBABILITY**10).sum(1, keepdim=True)
    torch.testing.assert_close(values, functional.cross_entropy(logits, sharp, reduction="none"))


def test_negatives_only_with_a_margin():
    spec = in_class_order({"only": "non-cough", "margin": 0.4}, ["cough", "non-cough"], "here")
    assert asked(distill(target="cough", **spec))[2].tolist() == [False, False, False, True, False, False]
    assert asked(distill(target="cough", margin=0.25))[2].tolist() == [True, False, True, True, False, False]


def test_the_teacher_gets_no_gradient():
    teacher = {"cough": PROBABILITY.log().requires_grad_()}
    terms = {
        "a": pseudo_label(target="cough", threshold=0.5, soft=True),
        "b": distill(target="cough"),
        "c": distill(target="cough", direction="ce"),
    }
    loss, _ = Objective(terms)({"cough": STUDENT.clone().requires_grad_()}, batch_of(), teacher)
    assert torch.autograd.grad(loss, teacher["cough"], allow_unused=True) == (None,)


# ---- information


def test_information_by_hand():
    term = information(target="cough", diversity=0.5)
    out = {"cough": PROBABILITY.log()}
    loss, _ = Objective({"it": term})(out, batch_of())
    rows = PROBABILITY[:4].double()
    each = -(rows * rows.log()).sum(1).mean()
    mean = rows.mean(0)
    assert loss.item() == pytest.approx(float(each + 0.5 * (mean * mean.log()).sum()), rel=1e-5)


def test_information_falls_where_answers_are_sure_and_varied_and_not_in_a_collapse():
    def loss(logits):
        return float(Objective({"it": information(target="cough")})({"cough": logits}, batch_of())[0])

    sure = torch.tensor([[9.0, 0.0], [0.0, 9.0]] * 3)
    collapsed = torch.tensor([[9.0, 0.0]] * 6)
    assert loss(sure) == pytest.approx(-math.log(2), abs=0.01) and abs(loss(collapsed)) < 0.01


@pytest.mark.parametrize("term", [information(target="cough"), pseudo_label(target="cough"), distill(target="cough")])
def test_a_batch_without_a_clip_of_the_target_is_nought_and_finite(term):
    batch = {**batch_of(), "domain": torch.zeros(6, dtype=torch.int64)}
    logits = STUDENT.clone().requires_grad_()
    loss, _ = Objective({"it": term})({"cough": logits}, batch, TEACHER)
    loss.backward()
    assert loss == 0 and logits.grad is not None and not logits.grad.any()


# ---- who sees what


def test_labels_of_the_target_change_no_loss_and_no_slope():
    """Permuting, inventing or taking away the target's labels is not seen by any of these, nor by supervised terms of the source."""
    counts = {"cough": torch.tensor([5.0, 20.0])}
    terms = {
        **{
            name: use.make(training.TERMS, use.check(training.TERMS, {"use": name, "target": "cough"}, name))
            for name in ("pseudo_label", "distill", "information")
        },
        "label": cross_entropy(counts, target="cough", balance="effective", of="source"),
        "focal": focal(counts, target="cough", alpha="balanced", of="source"),
        "adjusted": logit_adjusted(counts, target="cough", of="source"),
    }
    found = []
    for seen in ([0, 1, 0, 1], [1, 0, 0, 1], [UNKNOWN] * 4):
        logits = STUDENT.clone().requires_grad_()
        loss, _ = Objective(terms)({"cough": logits}, batch_of(torch.tensor([*seen, 1, UNKNOWN])), TEACHER, 0.3)
        found.append((loss, *torch.autograd.grad(loss, logits)))
    assert all(torch.equal(loss, found[0][0]) and torch.equal(slope, found[0][1]) for loss, slope in found[1:])


@pytest.mark.parametrize("of", ["source", "target", "all"])
def test_a_term_keeps_to_its_domain(of):
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    _, known = cross_entropy(target="cough", of=of)({"cough": STUDENT}, batch_of(labels))
    rows = {"source": [4], "target": [0, 1, 2, 3], "all": [0, 1, 2, 3, 4, 5]}[of]
    assert known.nonzero()[:, 0].tolist() == rows


def test_weights_move_and_means_do_not():
    term = distill(target="cough", weight=course(use="linear", **{"from": 0.0, "to": 2.0}))
    for progress in (0.0, 0.25, 1.0):
        loss, means = Objective({"it": term})({"cough": STUDENT}, batch_of(), TEACHER, progress)
        torch.testing.assert_close(loss, 2 * progress * means["it"])


def test_it_says_what_a_teacher_is_asked_for():
    terms = {
        "label": cross_entropy(target="cough"),
        "one": pseudo_label(target="cough", output="cough.audio"),
        "two": information(target="cough"),
    }
    assert Objective(terms).taught == {"cough.audio": "cough"}


def test_a_stream_that_only_the_student_has_counts_for_nothing():
    loss, _ = Objective({"it": distill(target="cough")})({"cough": STUDENT}, batch_of(), {"other": STUDENT})
    assert loss == 0


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: pseudo_label(target="cough")({"cough": STUDENT}, batch_of()), "pseudo_label: there is nobody to learn from"),
        (lambda: distill(target="cough")({"cough": STUDENT}, {"index": torch.arange(6)}, TEACHER), "the clips have no domains"),
        (lambda: asked(pseudo_label(target="cough", threshold=[0.5, 0.5, 0.5])), r"threshold: found 3 numbers; the output has 2 classes"),
        (lambda: asked(pseudo_label(target="cough", threshold={"cough": 0.5, "other": 0.5})), "which class is which was not handed in"),
        (lambda: pseudo_label(target="cough", threshold=1.5), r"pseudo_label.threshold: found \(1.5, 1.5\)"),
        (lambda: distill(target="cough", temperature=0), r"distill.temperature: found 0; it is above 0"),
        (lambda: distill(target="cough", margin=2), r"distill.margin: found 2"),
        (lambda: distill(target="cough", weight=-1.0), r"distill.weight: found -1"),
    ],
)
def test_what_a_person_is_told(ask, says):
    with pytest.raises(UserError, match=says):
        ask()
