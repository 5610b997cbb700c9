"""Exact, atomic resume: one file holds everything that moved since the phase began, another the model as the phase began.

Random numbers need no saving: every step and every clip draw from generators seeded by (seed, phase, epoch, step or clip).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from crossfade.clip import UserError

if TYPE_CHECKING:
    from crossfade.clip import Named

STATE = "state.pt"
MISFIT = "this checkpoint is of another model; was recipe.yaml changed since? Start the run anew in another folder"


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary) and move the result into place in one step; a kill leaves the old file or the new, never half.

    Raises UserError where the disk refuses; the old file is still there.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o644)  # some writers make files that only their owner may read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save says RuntimeError when the disk is full
        temporary.unlink(missing_ok=True)
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: cannot be written ({reason}); what was saved before is still there") from error


def save_weights(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}  # safetensors refuses shared memory
    replace_file(path, lambda temporary: save_file(tensors, temporary))


def moving_names(model: nn.Module) -> list[str]:
    """What a phase can change: parameters that learn and the buffers of modules in train mode."""
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    state = model.state_dict()
    buffers = [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if module.training
        for name, _ in module.named_buffers(recurse=False)
    ]
    return [name for name in (*learning, *buffers) if name in state]


def snapshot(model: nn.Module, names: Iterable[str]) -> Named:
    """A copy on the CPU of the named entries."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().clone() for name in names}


def restore(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put entries back; the others stay as they are. Raises UserError where an entry has no place in the model."""
    try:
        unknown = model.load_state_dict(dict(tensors), strict=False).unexpected_keys
    except RuntimeError:
        raise UserError(MISFIT) from None
    if unknown:
        raise UserError(MISFIT)


class Checkpoints:
    """The folder `checkpoint/` of a run. `save` and `begin_phase` are atomic; `load` gives None where nothing was saved yet."""

    def __init__(self, folder: Path):
        self.folder = folder

    def begin_phase(self, index: int, model: nn.Module) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_weights(self._start(index), model.state_dict())

    def save(self, state: dict[str, Any]) -> None:
        replace_file(self.folder / STATE, lambda temporary: torch.save(state, temporary))
        self._forget_before(state["phase"])

    def exist(self) -> bool:
        return (self.folder / STATE).exists()

    def load(self) -> dict[str, Any] | None:
        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(f"{path}: this checkpoint cannot be read ({type(error).__name__}); delete it to start the run anew") from None

    def load_start(self, index: int, model: nn.Module) -> None:
        path = self._start(index)
        try:
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: this checkpoint cannot be read ({type(error).__name__}); start the run anew") from error
        except RuntimeError:
            raise UserError(f"{path}: {MISFIT}") from None

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, index: int) -> Path:
        return self.folder / f"phase-{index}-start.safetensors"

    def _forget_before(self, index: int) -> None:
        for earlier in range(index):
            self._start(earlier).unlink(missing_ok=True)
