"""Which encoders a file of weights fits, told by the names and shapes of its tensors in a moment: nothing is built for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossfade.clip import Named

Shape = tuple[int | None, ...]  # None = any
STAGE = r"(?:stages\.\d+\.body\.(?:net\.)?)?"  # what stands before torchvision's and timm's names in ours


@dataclass(frozen=True)
class Signature:
    """What tells an encoder: patterns of names with their shapes, and how many weights of 2-D convolutions there are; None = any number.

    Neither first convolutions, which are adapted to other channels, nor classifiers are in it.
    """

    tensors: Mapping[str, Shape]
    convolutions: int | None = None


SIGNATURES = {
    "light_cnn": Signature({r"stages\.1\.body\.0\.weight": (32, 16, 3, 3), r"stages\.2\.body\.0\.weight": (64, 32, 3, 3)}, 3),
    "audio_resnet18": Signature({r"stages\.0\.body\.0\.weight": (64, 1, 7, 7), r"stages\.4\.body\.3\.conv2\.weight": (512, 512, 3, 3)}, 20),
    "vggish": Signature(
        {
            r"(?:features\.6|stages\.2\.body\.0)\.weight": (256, 128, 3, 3),
            r"(?:features\.13|stages\.3\.body\.2)\.weight": (512, 512, 3, 3),
        },
        6,
    ),
    "videomae": Signature(
        {
            r"(?:encoder\.layer\.0|stages\.1\.layer)\.layernorm_before\.weight": (None,),
            r"(?:embeddings|stages\.0)\.patch_embeddings\.projection\.weight": (None, 3, None, None, None),
        }
    ),
    "video_cnn3d": Signature({r"stages\.0\.body\.0\.weight": (None, 3, 3, 3, 3), r"stages\.3\.body\.0\.weight": (None,) * 5}, 0),
    "wavlm": Signature({r"(?:encoder\.layers\.0|stages\.1\.layer)\.attention\.gru_rel_pos_linear\.weight": (8, None)}),
    "frame_cnn": Signature({r"stages\.0\.body\.conv\.0\.weight": (None, 3, 3, 3), r"stages\.3\.body\.conv\.0\.weight": (None,) * 4}, 4),
    "picture_cnn": Signature({r"stages\.0\.body\.pair\.0\.weight": (None, None, 3, 3), r"stages\.0\.body\.pair\.3\.weight": (None,) * 4}),
    "depthwise_stack": Signature(
        {r"stages\.1\.body\.pointwise\.0\.weight": (64, 32, 1, 1), r"stages\.13\.body\.pointwise\.0\.weight": (1280, 1024, 1, 1)}, 27
    ),
    "mobilenet_v2": Signature({r"(?:features\.18|stages\.18\.body\.block)\.0\.weight": (1280, 320, 1, 1)}, 52),
    "mobilenet_v4": Signature({STAGE + r"blocks\.0\.0\.conv\.weight": (32, 32, 3, 3), STAGE + r"conv_head\.weight": (1280, 960, 1, 1)}, 46),
    "efficientnet_lite0": Signature(
        {STAGE + r"blocks\.0\.0\.conv_dw\.weight": (32, 1, 3, 3), STAGE + r"conv_head\.weight": (1280, 320, 1, 1)}, 49
    ),
    "efficientnet_b0": Signature({r"(?:features\.8|stages\.8\.body\.block)\.0\.weight": (1280, 320, 1, 1)}, 81),
    "resnet18": Signature({STAGE + r"layer1\.1\.conv2\.weight": (64, 64, 3, 3), STAGE + r"layer4\.1\.conv2\.weight": (512, 512, 3, 3)}, 20),
    "resnet34": Signature({STAGE + r"layer1\.2\.conv2\.weight": (64, 64, 3, 3), STAGE + r"layer4\.2\.conv2\.weight": (512, 512, 3, 3)}, 36),
    "resnet50": Signature(
        {STAGE + r"layer1\.2\.conv3\.weight": (256, 64, 1, 1), STAGE + r"layer4\.2\.conv3\.weight": (2048, 512, 1, 1)}, 53
    ),
}


def fitting(entries: Named) -> list[str]:
    """The encoders that these tensors, by name, fit; each may stand under a prefix of its own, as in a bundle."""
    return [
        use for use, signature in SIGNATURES.items() if any(_fits(entries, prefix, signature) for prefix in _prefixes(entries, signature))
    ]


def hint(entries: Named, wanted: Named) -> str:
    """ "; this file fits `use: …`", where that is another encoder than the one that has the entries `wanted`, else ""."""
    others = [f"`use: {use}`" for use in fitting(entries) if use not in fitting(wanted)]
    return f"; this file fits {' or '.join(others)}" if others else ""


def _prefixes(entries: Named, signature: Signature) -> list[str]:
    """What stands before the first of the signature's names, wherever that is."""
    pattern, shape = next(iter(signature.tensors.items()))
    found = {name: _compiled(pattern).search(name) for name in entries}
    return list(dict.fromkeys(name[: match.start()] for name, match in found.items() if match and _is(entries[name].shape, shape)))


def _fits(entries: Named, prefix: str, signature: Signature) -> bool:
    own = {name.removeprefix(prefix): tensor for name, tensor in entries.items() if name.startswith(prefix)}
    there = all(
        any(_compiled(pattern).fullmatch(name) and _is(tensor.shape, shape) for name, tensor in own.items())
        for pattern, shape in signature.tensors.items()
    )
    return there and signature.convolutions in (None, sum(tensor.ndim == 4 for tensor in own.values()))


def _is(found: Shape, wanted: Shape) -> bool:
    return len(found) == len(wanted) and all(want in (None, have) for have, want in zip(found, wanted, strict=True))


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    """At the end of a name, and after a dot or at its beginning."""
    return re.compile(rf"(?:(?<=\.)|^){pattern}$")
