"""Rows by a WeNet encoder in an ONNX file that the user names, with the front end it was trained on: 80 mels every 10 ms."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossfade.clip import UserError
from crossfade.data.face.sound_rows import BLOCK, CONTEXT, PIECE, RATE, SoundRows
from crossfade.data.mel import mel_bank
from crossfade.store import fingerprint

HOP, SPAN, FFT, MELS, DIM = 160, 800, 1024, 80, 256
EMPHASIS, FLOOR, LOUDEST = 0.97, 1e-5, 20.0  # of each sample the last one taken away; added to the energies; taken off the decibels
PER_BLOCK = BLOCK // HOP  # mel frames, and of these the encoder makes one row
RIGHT = "speech [1, T, 80] and speech_lengths (int32) → encoder_out [1, 0.25 T − 0.75, 256]"
WHOLE = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}


def wenet(*, weights: Path) -> SoundRows:
    """Rows of 256 by an ONNX file `weights` that takes speech [1, T, 80] and speech_lengths and gives encoder_out [1, 0.25 T − 0.75, 256].

    A row is heard within its 20 s and 2 s on either side, so that long files fit into memory. UserError where the file is another.
    """
    session = _session(weights)
    lengths = WHOLE[next(each.type for each in session.get_inputs() if each.name == "speech_lengths")]
    key = f"wenet {fingerprint(weights)} {PIECE} {CONTEXT}"
    return SoundRows(partial(_encode, session, weights, lengths), DIM, key)


def front_end(sound: np.ndarray) -> np.ndarray:
    """float32 (N,) at 16 kHz -> (N // 160 + 1, 80): 10 · log10(mel + 1e-5) − 20 of the sound with pre-emphasis, whose first sample is 0."""
    risen = np.zeros_like(sound)
    risen[1:] = sound[1:] - np.float32(EMPHASIS) * sound[:-1]
    hann = (0.5 * (1 - np.cos(2 * np.pi * np.arange(1, SPAN + 1) / (SPAN + 1)))).astype(np.float32)
    spectra = torch.stft(
        torch.from_numpy(risen), FFT, HOP, SPAN, torch.from_numpy(hann), center=True, pad_mode="reflect", return_complex=True
    )
    bank = mel_bank(rate=RATE, n_fft=FFT, mels=MELS, low=0.0, high=8000.0, scale="slaney")
    return (10 * (spectra.abs().square().T @ bank + FLOOR).log10() - LOUDEST).numpy()


def _encode(session: Any, path: Path, lengths: type, heard: np.ndarray) -> np.ndarray:
    """The block before the first row is not for this encoder, the one behind the last is: four mel frames a row and five more."""
    mels, rows = front_end(heard[BLOCK:]), len(heard) // BLOCK - 2
    given = {"speech": mels[None], "speech_lengths": np.array([len(mels)], lengths)}
    try:
        found = np.asarray(session.run(["encoder_out"], given)[0], np.float32)
    except Exception as error:  # ONNX Runtime has exceptions of its own for each kind of failure
        raise UserError(f"wenet: {path}: cannot be run: {' '.join(str(error).split())[:200]}") from None
    if found.shape != (1, rows, DIM):
        raise UserError(f"wenet: {path}: made {list(found.shape)} of speech {[1, *mels.shape]}; {[1, rows, DIM]} would be right")
    return found[0]


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError("wenet: running an ONNX encoder needs onnxruntime; pip install crossfade[onnx]") from None
    if not Path(path).is_file():
        raise UserError(f"wenet: weights: {path}: no such file; it needs an ONNX encoder with {RIGHT}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # damaged files make ONNX Runtime raise nearly anything
        raise UserError(f"wenet: {path}: is not an ONNX model: {' '.join(str(error).split())[:200]}") from None
    if not _fits(session):
        raise UserError(
            f"wenet: {path}: takes {_listed(session.get_inputs())} and gives {_listed(session.get_outputs())}; right is {RIGHT}"
        )
    return session


def _fits(session: Any) -> bool:
    """By names, kinds and the sizes that the file does fix."""
    takes = {each.name: each for each in session.get_inputs()}
    gives = {each.name: each for each in session.get_outputs()}
    if set(takes) != {"speech", "speech_lengths"} or "encoder_out" not in gives or takes["speech_lengths"].type not in WHOLE:
        return False
    ends = ((takes["speech"], MELS), (gives["encoder_out"], DIM))
    return all(len(each.shape) == 3 and (each.shape[2] == size or not isinstance(each.shape[2], int)) for each, size in ends)


def _listed(found: Any) -> str:
    return ", ".join(f"{each.name} [{', '.join(str(size) for size in each.shape)}]" for each in found)
