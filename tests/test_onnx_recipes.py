"""The model of every packaged recipe as ONNX, in small and with random weights: padding, another batch, a missing stream."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from onnx_parity import check

from crossfade import build, recipe
from crossfade.deploy.runner import TIME

SMALL = {  # of every stream and encoder of a packaged recipe
    "waveform": {"seconds": 0.2},
    "log_mel": {"seconds": 0.5, "n_fft": 400, "window": 400, "hop": 160, "mels": 32, "low": 0.0, "high": None},
    "frames": {"count": 4, "size": 32},
    "stored_frames": {"count": 4, "size": 32},
    "stored_mel": {"mels": 32, "columns": 51},
    "image": {"size": 32},
    "wavlm": {
        "config": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "conv_dim": [8] * 7,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
        }
    },
    "videomae": {"frames": 4, "size": 32, "layers": 2, "dim": 16, "heads": 2, "mlp": 24},
}


def small(name: str) -> tuple[recipe.Recipe, str]:
    """A packaged recipe with small streams and encoders, and what decides its model's graph."""
    found = recipe.load(name)
    for spec in [*found.data.streams.values(), *found.model.encoders.values()]:
        spec.update(SMALL.get(spec["use"], {}))
    return found, f"{found.data.streams} {found.model.encoders} {found.model.mix} {found.model.merge} {found.model.heads}"


@cache
def checked(like: str, name: str, folder: Path) -> list[str]:
    found, _ = small(name)
    model = build.model(found, {target: ["a", "b", "c"] for target in found.targets}, pretrained=False).eval()
    shapes = {stream: made.spec.shape for stream, made in build.streams(found).items()}
    specs = {stream: encoder.spec.shape for stream, encoder in model.encoders.items()}
    free = {stream: shape[TIME[len(shape) + 1] - 1] is None and _steps(shapes[stream]) > 1 for stream, shape in specs.items()}
    return check(model, shapes, free, folder).outputs


def _steps(shape: tuple[int, ...]) -> int:
    return shape[TIME[len(shape) + 1] - 1]


FIRST = {small(name)[1]: name for name in reversed(recipe.names())}  # of the recipes whose models are alike, one is exported


@pytest.mark.parametrize("name", recipe.names())
def test_every_packaged_recipe_answers_as_onnx_as_it_does_here(name: str, tmp_path_factory):
    found, like = small(name)
    outputs = checked(like, FIRST[like], tmp_path_factory.getbasetemp())
    assert set(found.targets) <= set(outputs)
