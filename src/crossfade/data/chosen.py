"""Augmentations for the clips of some classes only: much for the rare ones, little for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Generator, Tensor

from crossfade.clip import Clip, classes_in
from crossfade.data.augment import Augmentation


@dataclass(frozen=True)
class Chosen:
    """An augmentation of clips that have one of these classes: `only` is target -> class names."""

    inner: Augmentation
    only: Mapping[str, Sequence[str]]
    domain: str

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        return self.inner(x, generator)

    def suits(self, clip: Clip) -> bool:
        labels = {target: clip.labels[target] for target in self.only if target in clip.labels}
        return any({label, *classes_in(label)} & set(self.only[target]) for target, label in labels.items())


def of_clip(augmentations: Sequence[Augmentation], clip: Clip) -> list[Augmentation]:
    """Those that the clip's classes call for; of a clip without a label those that are for all."""
    return [each for each in augmentations if not isinstance(each, Chosen) or each.suits(clip)]
