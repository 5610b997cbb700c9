"""Rows by a WavLM from a folder in Hugging Face format: hidden states, 50 a second, averaged by two."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossfade.clip import UserError
from crossfade.data.face.sound_rows import BLOCK, CONTEXT, PIECE, SoundRows
from crossfade.store import fingerprint

HEARD = 80  # samples that the first state hears beyond its 320
FILES = ("model.safetensors", "pytorch_model.bin")  # the first that is there


def wavlm(*, weights: Path, layer: int = -1) -> SoundRows:
    """Rows as wide as the model: the states after `layer` (0: before the first; −1: the last), each row the mean of a block's two.

    `weights` is a folder with config.json and the weights. Where its preprocessor_config.json says do_normalize, each piece of 20 s, with
    2 s on either side, is brought to zero mean and unit variance. UserError where there is no such model or layer.
    """
    model, file = _model(Path(weights))
    layers = model.config.num_hidden_layers
    if not -layers - 1 <= layer <= layers:
        raise UserError(f"wavlm: layer: found {layer}; the model in {weights} has {layers}, so {-layers - 1} to {layers} are possible")
    normalize = _normalizes(Path(weights))
    key = f"wavlm {fingerprint(file)} {layer} {normalize} {PIECE} {CONTEXT}"
    return SoundRows(partial(_encode, model, layer, normalize), model.config.hidden_size, key)


def _encode(model: Any, layer: int, normalize: bool, heard: np.ndarray) -> np.ndarray:
    import torch

    rows = len(heard) // BLOCK - 2
    samples = torch.from_numpy(heard[BLOCK : BLOCK + rows * BLOCK + HEARD])[None]
    if normalize:
        samples = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-7).sqrt()  # 1e-7: Wav2Vec2FeatureExtractor's
    with torch.inference_mode():
        states = model(samples, output_hidden_states=True).hidden_states[layer][0]
    return states.reshape(rows, 2, -1).mean(1).float().numpy()


def _model(folder: Path) -> tuple[Any, Path]:
    """The model, and the file its weights are from."""
    try:
        import transformers
    except ImportError:
        raise UserError("wavlm: it needs transformers, which is not installed: pip install crossfade[wavlm]") from None
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None or not (folder / "config.json").is_file():
        raise UserError(f"wavlm: weights: {folder}: no folder with config.json and {' or '.join(FILES)}")
    kind = _read(folder / "config.json").get("model_type")
    if kind != "wavlm":
        raise UserError(f"wavlm: {folder}: config.json says model_type {kind!r}; 'wavlm' is right")
    try:
        return transformers.WavLMModel.from_pretrained(folder, local_files_only=True).eval(), file
    except Exception as error:  # whatever fails here, the folder is not what it should be
        raise UserError(f"wavlm: {folder}: cannot be loaded: {' '.join(str(error).split())[:200]}") from None


def _normalizes(folder: Path) -> bool:
    file = folder / "preprocessor_config.json"
    return file.is_file() and bool(_read(file).get("do_normalize"))


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"wavlm: {file}: cannot be read: {' '.join(str(error).split())}") from None
    return found if isinstance(found, dict) else {}
