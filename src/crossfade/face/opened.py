"""A finished run of a talking face, or a file made of it, with its network ready to be asked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from crossfade import recipe as tasks
from crossfade import settings, use
from crossfade.clip import UserError
from crossfade.data.face import FEATURES
from crossfade.data.face.crop import CROPS, Crop
from crossfade.deploy import bundle as bundles
from crossfade.deploy import exported
from crossfade.deploy.bundle import Bundle
from crossfade.deploy.file_model import FileModel
from crossfade.deploy.runner import Runner, Shape, TorchRunner
from crossfade.face import build
from crossfade.face import recipe as recipes
from crossfade.face.judge import Ask, asked
from crossfade.face.recipe import TASK, FaceRecipe

if TYPE_CHECKING:
    from crossfade.data.face.prepared import Prepared
    from crossfade.face.drive import Speaker
    from crossfade.models.face_unet import FaceUnet

FED = ("data.", "device")  # what may be changed of a finished run


@dataclass(frozen=True)
class OpenedFace:
    """A run with its network, or an exported file in the network's place."""

    path: Path
    bundle: Bundle
    recipe: FaceRecipe
    model: FaceUnet | FileModel
    device: torch.device

    @property
    def crop(self) -> Crop:
        return CROPS[int(self.recipe.model.size or 0)]

    def ask(self) -> Ask:
        """A batch -> pictures."""
        if not isinstance(self.model, FileModel):  # a processor is twice as quick so
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return asked(self.model, self.device)

    def runner(self, threads: int | None = None) -> Runner:
        """A file's own; of a run PyTorch's, with weights as a processor is quickest with them. `threads`: as the runtime likes."""
        if threads and isinstance(self.model, FileModel):
            return exported.read(self.path).runner(threads)
        if threads:
            torch.set_num_threads(threads)
        return self.model.runner if isinstance(self.model, FileModel) else quick(self.model, self.device)

    def speaker(self, threads: int | None = None) -> Speaker:
        """What `drive` renders with. UserError where it learnt nothing of sound."""
        from crossfade.face.drive import Speaker

        if not self.recipe.data.sound:
            raise UserError(f"{self.path}: was trained with data.sound=false, so no sound moves its mouth; give a run that heard some")
        return Speaker(self.runner(threads), self.crop, use.make(FEATURES, self.recipe.data.features), self._name())

    def _name(self) -> str:
        """What a film says it was made with: the run, of a file the run it was made from too."""
        name = self.path.resolve().name
        return f"{name} of {exported.read(self.path).about.made_from}" if isinstance(self.model, FileModel) else name

    def prepared(self) -> Prepared:
        """The clips that it learnt from, or was given in their place. UserError where they are gone or were prepared otherwise."""
        from crossfade.face.build import prepared_for

        return prepared_for(self.recipe)


def quick(model: FaceUnet, device: torch.device) -> TorchRunner:
    """A copy of the network whose weights lie channels last, in which a processor is twice as quick."""
    example = build.example(model)
    inputs = {name: Shape((None, *x.shape[1:]), usual=tuple(x.shape)) for name, x in example.items()}
    module = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TorchRunner(module, str(device), inputs=inputs, outputs=["output"])


def open_face(path: Path, corpus: Path | None = None, overrides: Sequence[str] = ()) -> OpenedFace:
    """Rebuild a run's network, or open a file that `export` made of it. `corpus`: prepared clips in place of its own; `overrides` may
    change how it is fed, not what it is. UserError.
    """
    made = exported.read(path) if exported.is_exported(path) else None
    bundle = made.bundle if made else bundles.read(path)
    recipe = _fed(settings.read(bundle.recipe, str(path)), path, overrides, corpus)
    model = made.model() if made else _rebuilt(bundle, recipe)
    device = torch.device("cuda" if not made and recipe.device != "cpu" and torch.cuda.is_available() else "cpu")
    return OpenedFace(path, bundle, recipe, model.to(device).eval(), device)


def _fed(raw: object, path: Path, overrides: Sequence[str], corpus: Path | None) -> FaceRecipe:
    if not isinstance(raw, dict) or tasks.task_of(raw) != TASK:
        raise UserError(f"{path}: is of a {tasks.task_of(raw).replace('_', ' ')}; this needs a run whose recipe says task: {TASK}")
    for override in overrides:
        if not override.startswith(FED) or override.startswith("data.split"):
            raise UserError(f"{override}: a finished run can be fed differently (data.…) but not changed; train it anew for that")
    if corpus:
        settings.put(raw, ["data", "corpus"], str(corpus))
    settings.override(raw, overrides)
    recipe = recipes.resolve(raw)
    if recipe.model.size not in CROPS or recipe.model.features is None:
        raise UserError(f"{path}: its recipe lacks model.size or model.features, which a finished run's has; train it anew")
    return recipe


def _rebuilt(bundle: Bundle, recipe: FaceRecipe) -> FaceUnet:
    model = build.network(recipe)
    bundle.load_into(model)
    return model
