"""A recipe that trains in a second, and the command line run in this process."""

from __future__ import annotations

import ctypes
import io
import json
import os
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from crossfade import recipe as recipes
from crossfade.cli import main
from crossfade.recipe import Recipe
from crossfade.screen import Terminal

DAC = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root reads and writes what a mode forbids

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
SOUND_ONLY = (
    "data.streams.video=null",
    "data.views.augmented={audio: [{use: noise_at_snr}]}",
    "model.encoders.video=null",
    "model.merge=each",
)


QUIET = Terminal(quiet=True)


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


def tiny(place: Path, clips: Path, *overrides: str) -> Recipe:
    """The recipe of `write_recipe(place)` on these clips."""
    return recipes.load(str(place / "tiny.yaml"), overrides, corpus=clips)


def same_bytes(a: Path, b: Path, *names: str) -> bool:
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def metrics_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


@contextmanager
def bound_by_modes():
    """Root, too, may read only what the mode of a file allows."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3; effective, permitted, inheritable twice
    if not hasattr(libc, "capget") or libc.capget(header, before) != 0:
        pytest.skip("root without a way to give up reading every file")
    bound = (ctypes.c_uint32 * 6)(*before)
    bound[0] &= ~DAC
    assert libc.capset(header, bound) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0
