"""Checkpoints: all or nothing on disk, and only what moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossfade.clip import UserError
from crossfade.training import rates
from crossfade.training.checkpoint import Checkpoints, moving_names, replace_file, restore, save_weights, snapshot


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))


def freeze_first(model):
    rates.freeze(model, rates.resolve(model, {"0": None, "*": 1.0}))
    rates.set_modes(model)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    replace_file(path, lambda temporary: temporary.write_text("old"))

    def break_off(temporary):
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(UserError, match=r"a\.txt: cannot be written \(disk full\)"):
        replace_file(path, break_off)
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_what_moves_is_what_learns_and_the_buffers_of_train_mode(model):
    freeze_first(model)
    assert set(moving_names(model)) == {name for name in model.state_dict() if name.startswith("1.")}


def test_snapshots_are_copies_and_restore_puts_back_only_them(model):
    freeze_first(model)
    kept = snapshot(model, moving_names(model))
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    restore(model, kept)
    state = model.state_dict()
    assert all(torch.equal(state[name], kept[name]) for name in kept) and (state["0.1.running_mean"] == 1).all()


def test_restoring_what_does_not_fit_is_an_error_for_a_person(model):
    for wrong in ({"2.weight": torch.zeros(1)}, {"0.0.weight": torch.zeros(9)}):
        with pytest.raises(UserError, match="another model"):
            restore(model, wrong)


def test_weights_survive_the_disk_bit_for_bit_shared_ones_too(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(tmp_path / "w.safetensors", model.state_dict())
    from safetensors.torch import load_file

    assert all(torch.equal(value, model.state_dict()[name]) for name, value in load_file(tmp_path / "w.safetensors").items())


def test_the_folder_forgets_phases_that_are_over(tmp_path, model):
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    assert checkpoints.load() is None and not checkpoints.exist()
    checkpoints.begin_phase(0, model)
    checkpoints.save({"phase": 0})
    checkpoints.begin_phase(1, model)
    checkpoints.save({"phase": 0})
    assert {file.name for file in (tmp_path / "checkpoint").iterdir()} == {
        "state.pt",
        "phase-0-start.safetensors",
        "phase-1-start.safetensors",
    }
    checkpoints.save({"phase": 1})
    assert not (tmp_path / "checkpoint" / "phase-0-start.safetensors").exists() and checkpoints.load() == {"phase": 1}
    checkpoints.clear()
    assert not (tmp_path / "checkpoint").exists()


def test_a_start_comes_back_whole(tmp_path, model):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.begin_phase(0, model)
    other = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    checkpoints.load_start(0, other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_damaged_files_are_named(tmp_path, model):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.begin_phase(0, model)
    checkpoints.save({"phase": 0, "model": snapshot(model, model.state_dict())})
    state, start = tmp_path / "state.pt", tmp_path / "phase-0-start.safetensors"
    for size in (0, 10, state.stat().st_size // 2, state.stat().st_size - 1):
        state.write_bytes(state.read_bytes()[:size])
        with pytest.raises(UserError, match=r"state\.pt: this checkpoint cannot be read"):
            checkpoints.load()
    with pytest.raises(UserError, match="another model"):
        checkpoints.load_start(0, nn.Linear(2, 2))
    start.write_bytes(start.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"start\.safetensors: this checkpoint cannot be read"):
        checkpoints.load_start(0, model)
    start.unlink()
    with pytest.raises(UserError, match=r"start\.safetensors: this checkpoint cannot be read"):
        checkpoints.load_start(0, model)
