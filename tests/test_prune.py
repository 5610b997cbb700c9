"""Pruning: which weights become 0, that they stay so through everything, and that a killed run ends as one that was not."""

from __future__ import annotations

import copy

import pytest
import torch
from test_loop import Crash, Plain, Quiet, StopAt, Toy, bits, crashing_batches, equal, history, make_run, phase, score, toy_batches
from torch import nn
from torch.nn.utils import prune as reference

from crossfade import recipe as recipes
from crossfade.clip import UserError
from crossfade.training import adamw, cosine, sgd
from crossfade.training.loop import Interrupted, fit
from crossfade.training.prune import Prune, held, prune, sparsity

HEAD, ALL = {"encoders": None, "*": 0.02}, {"*": 0.02}


@pytest.fixture(autouse=True)
def _no_sweeping(monkeypatch):
    """As test_loop's."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


def matrices(model) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim >= 2}


def zeros(model) -> set[tuple[str, int]]:
    return {(name, place) for name, weight in matrices(model).items() for place in (weight == 0).flatten().nonzero().flatten().tolist()}


# ---- which


@pytest.mark.parametrize("share", [0.1, 0.5, 0.83])
def test_the_same_weights_as_torch_s_global_pruning(share):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(7, 5), nn.Linear(5, 2))
    theirs = copy.deepcopy(ours)
    reference.global_unstructured([(theirs[index], "weight") for index in (0, 2, 3)], reference.L1Unstructured, amount=share)
    pruned: dict[str, torch.Tensor] = {}
    prune(ours, share, pruned)
    for index in (0, 2, 3):
        name = f"{index}.weight"
        assert torch.equal(~pruned[name], theirs.get_buffer(f"{name}_mask").bool())
        assert torch.equal(ours.get_parameter(name), theirs.get_parameter(f"{name}_orig") * theirs.get_buffer(f"{name}_mask"))
    total = sum(weight.numel() for weight in matrices(ours).values())
    assert sparsity(ours) == round(share * total) / total


def test_only_what_learns_is_pruned_and_what_was_pruned_before_counts():
    model, pruned = Toy(), {}
    with torch.no_grad():
        model.get_parameter("heads.emotion.weight")[0] = 0.0  # eight zeros by chance: as small as the pruned ones, but free
    model.encoders.requires_grad_(False)
    prune(model, 0.5, pruned)
    assert list(pruned) == ["heads.emotion.weight"] and int(pruned["heads.emotion.weight"].sum()) == 12
    before = pruned["heads.emotion.weight"].clone()
    prune(model, 0.25, pruned)
    assert torch.equal(pruned["heads.emotion.weight"], before), "a smaller share takes nothing more"
    model.encoders.requires_grad_(True)
    prune(model, 0.6, pruned)
    assert (
        sum(int(places.sum()) for places in pruned.values()) == round(0.6 * (32 + 64 + 24))
        and (pruned["heads.emotion.weight"] >= before).all()
    )


def test_nothing_to_prune_is_one_line():
    model = Toy().requires_grad_(False)
    with pytest.raises(UserError, match=r"^phases.a.prune: no weight matrix or kernel learns in this phase"):
        prune(model, 0.5, {}, where="phases.a.prune")


def test_the_share_grows_as_the_cubic_says():
    growing = Prune(0.8, over=4)
    assert [growing.share(epoch) for epoch in range(6)] == pytest.approx([0.8 + (0 - 0.8) * (1 - t / 4) ** 3 for t in (1, 2, 3, 4, 4, 4)])
    assert [growing.grows(epoch) for epoch in range(5)] == [True] * 4 + [False]
    assert Prune(0.8).share(0) == 0.8 and not Prune(0.8).grows(0)


# ---- that they stay


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 2, "clip_norm": 0.1}, {"optimizer": lambda groups: sgd(groups, weight_decay=0.1)}, {"optimizer": adamw}],
    ids=["adam", "accumulate+clip", "sgd", "adamw"],
)
def test_pruned_weights_stay_0_in_their_phase_and_in_later_ones(tmp_path, options):
    model, seen = Toy(), []

    def listening(model):
        seen.append(zeros(model))
        return score(model)

    dense = phase("dense", 2, ALL)
    fit(
        make_run(tmp_path, model, score=listening),
        [dense, phase("prune", 3, ALL, prune=Prune(0.7), **options), phase("head", 2, HEAD), dense],
    )
    assert [len(found) for found in seen] == [0, 0, *[84] * 8] and len(set(map(frozenset, seen[2:]))) == 1
    assert sparsity(model) == 84 / 120 and zeros(model) == seen[-1]


def test_what_is_frozen_while_others_are_pruned_learns_freely_later(tmp_path):
    model = Toy()
    moved = model.get_parameter("encoders.audio.stages.1.0.weight")
    nn.init.zeros_(moved)
    counts = iter(range(9))
    fit(make_run(tmp_path, model, select=lambda found: next(counts)), [phase("a", 1, HEAD, prune=Prune(0.5)), phase("b", 1, ALL)])
    assert not (moved == 0).any() and sparsity(model) == 12 / 120


def test_fine_tuning_equals_a_plain_loop_on_torch_s_pruned_model(tmp_path):
    """Whose masks lie in the forward pass: so gradients of pruned weights have no say in clipping, momentum or decay."""
    ours = Plain()
    theirs, steps = copy.deepcopy(ours), phase(epochs=3)
    layers = [(theirs.encoders["audio"][0], "weight"), (theirs.heads["emotion"], "weight")]  # type: ignore[index]
    reference.global_unstructured(layers, reference.L1Unstructured, amount=0.6)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.02, momentum=0.9)
    for batch in (batch for epoch in range(3) for batch in toy_batches(5)(steps, epoch, 0)):
        nn.functional.cross_entropy(theirs(batch)["emotion"], batch["emotion"]).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.3)
        optimizer.step()
        optimizer.zero_grad()
    worst = iter(range(99))  # so that the last state is the best
    made = make_run(tmp_path, ours, score=lambda model: {"nll": -next(worst)})
    fit(made, [phase(epochs=3, optimizer=lambda groups: sgd(groups), clip_norm=0.3, prune=Prune(0.6))])
    for layer, name in layers:
        reference.remove(layer, name)
    found = bits(ours)
    for name, expected in theirs.state_dict().items():
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(found[name] == 0, expected == 0)


# ---- which state is kept


def test_the_pruned_start_is_the_candidate_not_the_dense_one(tmp_path):
    """Nothing is as good as the dense model; of what is pruned the start is best."""
    scores, states, screen, model = iter([9.0, 5.0, 4.0, 3.0]), [], Quiet(), Toy()

    def scripted(model):
        states.append(bits(model))
        return {"accuracy": next(scores)}

    made = make_run(tmp_path, model, score=scripted, select=lambda found: found["accuracy"], screen=screen)
    rows = fit(made, [phase("dense", 1), phase("prune", 2, prune=Prune(0.5))])
    assert [row["phase"] for row in rows] == ["dense", "prune", "prune"] and [row["best"] for row in rows] == [True, False, False]
    assert screen.kept_states == [{"epoch": 1, "score": 9.0}, {"epoch": 0, "score": 5.0}]
    assert equal(bits(model), states[1]) and sparsity(model) == 0.5


def test_while_it_grows_no_epoch_is_a_candidate_and_patience_waits(tmp_path):
    scores, shares, screen, model = iter([9.0, 8.0, 7.0, 6.0, 5.0, 4.0]), [], Quiet(), Toy()

    def scripted(model):
        shares.append(sparsity(model))
        return {"accuracy": next(scores)}

    made = make_run(tmp_path, model, score=scripted, select=lambda found: found["accuracy"], screen=screen)
    rows = fit(made, [phase("dense", 1), phase("prune", 9, prune=Prune(0.6, over=3), patience=2)])
    expected = [round(0.6 * (1 - (1 - t / 3) ** 3) * 120) / 120 for t in (1, 2, 3)]
    assert shares == [0, *expected, expected[-1], expected[-1]]
    assert [row["best"] for row in rows] == [True, False, False, True, False, False]
    assert screen.kept_states[-1] == {"epoch": 3, "score": 6.0} and sparsity(model) == 0.6


def test_without_an_epoch_it_prunes_all_the_same(tmp_path):
    model = Toy()
    fit(make_run(tmp_path, model), [phase("dense", 1), phase("cut", 0, prune=Prune(0.5))])
    assert sparsity(model) == 0.5


# ---- going on


PHASES = [
    phase("dense", 1, ALL, schedule=cosine()),
    phase("prune", 2, ALL, prune=Prune(0.5), clip_norm=1.0),
    phase("more", 3, ALL, prune=Prune(0.8, over=2), schedule=cosine()),
    phase("head", 1, HEAD, accumulate=2),
]


def finish(folder, **changes):
    model = Toy(seed=99 if (folder / "checkpoint" / "state.pt").exists() else 0)
    fit(make_run(folder, model, **changes), PHASES)
    return bits(model), history(folder)


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    stop = StopAt()
    weights, rows = finish(tmp_path_factory.mktemp("unkilled"), stop=stop)
    return weights, rows, stop.asked


def test_stopped_anywhere_it_ends_bit_for_bit_the_same(tmp_path, unkilled):
    weights, rows, asked = unkilled
    assert sum(int((weights[name] == 0).sum()) for name in matrices(Toy())) == 96
    for number in range(1, asked + 1, 2):
        with pytest.raises(Interrupted):
            finish(tmp_path / str(number), stop=StopAt(number))
        found, found_rows = finish(tmp_path / str(number))
        assert equal(found, weights) and found_rows == rows, f"stopped at question {number} of {asked}"


def test_killed_before_any_batch_it_ends_bit_for_bit_the_same(tmp_path, unkilled):
    weights, rows, _ = unkilled
    for number in range(2, 1 + 7 * len(toy_batches(5)(phase(), 0, 0)), 2):
        with pytest.raises(Crash):
            finish(tmp_path / str(number), batches=crashing_batches(number))
        found, found_rows = finish(tmp_path / str(number))
        assert equal(found, weights) and found_rows == rows, f"killed before batch {number}"


# ---- as a recipe says it


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("prune=1.0", "phases.train.prune.to: found 1.0; input should be less than 1"),
        ("prune=0", "phases.train.prune.to: found 0; input should be greater than 0"),
        ("prune=much", "phases.train.prune.to: found 'much'; input should be a valid number, unable to parse string as a number"),
        ("prune={to: 0.5, ober: 3}", "phases.train.prune.ober: there is no such key; nearest is 'over' (one of to, over)"),
        ("prune={to: 0.5, over: 99}", "phases.train.prune.over: found 99, but the phase has 40 epochs"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(given, says):
    with pytest.raises(UserError) as caught:
        recipes.load("audio", [f"phases.train.{given}"])
    assert str(caught.value) == says


def test_a_number_is_short_for_at_once():
    (spec,) = recipes.load("audio", ["phases.train.prune=0.8"]).phases
    assert spec.prune is not None and (spec.prune.to, spec.prune.over) == (0.8, 0)
    assert recipes.load("audio").phases[0].prune is None


def test_held_names_only_what_learns():
    model, pruned = Toy(), {}
    prune(model, 0.5, pruned)
    model.encoders.requires_grad_(False)
    assert [parameter.shape for parameter, _ in held(model, pruned)] == [(3, 8)]
