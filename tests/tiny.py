"""A recipe that trains in a second, and the command line run in this process."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from crossfade.cli import main

RECIPE = """
data:
  corpus: {use: ravdess, root: clips}
  split: {by: group, ratios: [0.5, 0.25, 0.25]}
  streams: {audio: {use: log_mel, seconds: 0.5, mels: 16}, video: {use: frames, count: 2, size: 32}}
  views: {augmented: {audio: [{use: noise_at_snr}], video: [{use: darken}]}}
  batch: 8
  workers: 0
model:
  encoders: {audio: {use: light_cnn, width: 32}, video: {use: frame_cnn, width: 4}}
  merge: {use: gated, dim: 16, dropout: 0.3}
  drop_stream: 0.2
  heads: {emotion: {use: linear}}
phases:
  - {name: all, epochs: 2, sees: augmented, rates: {"*": 1e-3}, terms: {label: {use: cross_entropy, target: emotion}}}
"""
SOUND_ONLY = ("data.streams.video=null", "data.views.augmented.video=[]", "model.encoders.video=null", "model.merge=each")


class Said(NamedTuple):
    code: int
    out: str
    err: str


def crossfade(*words: object) -> Said:
    """The command with these words: its exit code, standard output and standard error."""
    before, sys.argv = sys.argv, ["crossfade", *map(str, words)]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            main()
            code = 0
        except SystemExit as done:
            code = int(done.code or 0)
        finally:
            sys.argv = before
    return Said(code, out.getvalue(), err.getvalue())


def write_recipe(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE)
    return path
