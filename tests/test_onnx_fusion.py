"""Every mixer, merger and head of the tables as ONNX, with padding and with a stream missing: an absent key is a mask all False."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_parity import batch_of, check
from torch import nn

from crossfade.clip import Spec
from crossfade.deploy.runner import MASK, TorchRunner
from crossfade.models import HEADS, MERGERS, MIXERS
from crossfade.models.encoder import Encoder
from crossfade.models.masks import begin_zero
from crossfade.models.model import Fused
from crossfade.models.video import PerFrame

SHAPES = {"audio": (4, 1, 3, 3), "video": (5, 1, 3, 3)}
SMALL = {"bottleneck": {"layers": 2}}
FREE = dict.fromkeys(SHAPES, True)
CASES = [(mixer, merger) for mixer in (None, *MIXERS) for merger in MERGERS]
EXPORTED = [*((None, merger) for merger in MERGERS), *((mixer, "mean") for mixer in MIXERS)]  # seconds each


def tiny_encoder(width: int) -> Encoder:
    """(B, T, 1, 3, 3) -> Tokens (B, T, width)"""
    return Encoder([PerFrame(nn.Sequential(nn.Flatten(), nn.Linear(9, width)))], dim=width, spec=Spec((None, 1, 3, 3)), begin=begin_zero)


def fused(mixer: str | None, merger: str, head: str = "linear", classes: int | None = 3) -> Fused:
    torch.manual_seed(0)
    encoders = {name: tiny_encoder(width) for name, width in zip(SHAPES, (6, 10), strict=True)}
    dims = {name: encoder.dim for name, encoder in encoders.items()}
    mix = [MIXERS[mixer](dims, dim=8, heads=2, **SMALL.get(mixer, {}))] if mixer else []
    merge = MERGERS[merger](mix[0].dims if mix else dims)
    heads = {"emotion": {name: HEADS[head](width, classes or width) for name, width in merge.dims.items()}}
    return Fused(encoders, mix=mix, merge=merge, heads=heads).eval()


@pytest.mark.parametrize(("mixer", "merger"), EXPORTED)
def test_every_fusion_answers_as_onnx_as_it_does_here(mixer: str | None, merger: str, tmp_path):
    runner = check(fused(mixer, merger), SHAPES, FREE, tmp_path)
    assert "emotion" in runner.outputs and set(runner.inputs) == {*SHAPES, *(name + MASK for name in SHAPES)}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_answers_as_onnx_as_it_does_here(head: str, tmp_path):
    check(fused(None, "gated", head, classes=None), SHAPES, FREE, tmp_path)


@pytest.mark.parametrize(("mixer", "merger"), CASES)
def test_an_absent_key_and_a_mask_all_false_are_the_same_here(mixer: str | None, merger: str):
    runner = TorchRunner(fused(mixer, merger))
    batch = batch_of(SHAPES, 4, free=FREE)
    absent = {name: array for name, array in batch.items() if not name.startswith("video")}
    padded = batch | {"video" + MASK: np.zeros_like(batch["video" + MASK])}
    expected, found = runner(absent), runner(padded)
    joint = [name for name in expected if name in ("emotion", "embed.joint")]
    assert joint
    for name in joint:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
