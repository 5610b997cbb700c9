"""The nouns every island shares: a clip, a corpus, tokens, a spec, named tensors, and an error meant for a person.

Letters used in every docstring: B batch, T time steps or tokens, D width, C channels or classes, H height, W width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    Named = dict[str, Tensor]


TEACHER = "@teacher"  # in the names of a batch: a stream as the teacher sees it
SOURCE, TARGET, NEITHER = 0, 1, -1  # batch["domain"]: where a clip is from, the domain with labels or the one without
UNKNOWN = -100  # the label index of a clip without that label; PyTorch's ignore_index
SEVERAL = "|"  # between the classes of a clip that has several of one target: "grazing|walking"; alone it says: none of them


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any printable parts, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def classes_in(label: str) -> list[str]:
    """ "grazing|walking" -> ["grazing", "walking"]; "|" -> []."""
    return [name for part in label.split(SEVERAL) if (name := part.strip())]


class UserError(Exception):
    """Bad input from a person: one line that says where, what was found and what would be right. Exit code 2."""


class Unreadable(UserError):
    """A media file that cannot be used. `path` names the file, `reason` says why in a few words."""

    def __init__(self, path: Path | str, reason: str):
        self.path, self.reason = str(path), reason
        super().__init__(f"{path}: {reason}")


@dataclass(frozen=True)
class Clip:
    """One labelled recording, unread. A split never cuts a `group`; `span` is (start, end) in seconds, end None = to the end."""

    id: str
    media: dict[str, Path]  # "audio", "video" or "image" -> file
    labels: dict[str, str]  # target -> class name, or of a target in Corpus.several names joined by SEVERAL; an absent target is unknown
    group: str
    domain: str = ""
    span: tuple[float, float | None] = (0.0, None)
    split: str = ""  # what the corpus itself says: "train", "val", "test" or ""
    item: int | None = None  # which picture of a file that holds many (IDX, CIFAR batches), counted from 0


@dataclass(frozen=True)
class Corpus:
    """What a corpus function returns: the clips, the classes of each target in order, and the files it could not place."""

    clips: list[Clip]
    classes: dict[str, list[str]]
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (file, why)
    group_name: str = "group"  # what a group is, in the singular: "actor", "speaker"
    several: tuple[str, ...] = ()  # targets of which a clip may have several classes at once, or none


class Tokens(NamedTuple):
    """What an encoder returns: `x` (B, T, D); `mask` (B, T) bool, True = real, or None = all real."""

    x: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class Spec:
    """What a stream declares and an encoder expects. None in `shape` = any size. `rate` in hertz; mean and std per channel."""

    shape: tuple[int | None, ...]
    rate: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None  # the side in pixels of the pictures that an encoder's weights were trained on; any other works too
