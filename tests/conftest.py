"""One thread, no network, a store of the session's own, and one small generated corpus for all."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from tiny import crossfade, write_recipe

from crossfade.data.demo import write_demo

# The same examples each time, so that a change is judged by what it changed; `--hypothesis-profile=default` looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def _one_thread_and_a_store_of_our_own(tmp_path_factory):
    torch.set_num_threads(1)
    before = os.environ.get("CROSSFADE_STORE")
    os.environ["CROSSFADE_STORE"] = str(tmp_path_factory.mktemp("store"))
    yield
    os.environ.pop("CROSSFADE_STORE")
    if before is not None:
        os.environ["CROSSFADE_STORE"] = before


@pytest.fixture(scope="session")
def demo_clips(tmp_path_factory) -> Path:
    """Four actors × 8 emotions as .wav and .mp4 under RAVDESS's names; read only."""
    return write_demo(tmp_path_factory.mktemp("demo"), actors=4, repetitions=1, seconds=0.6, size=32, workers=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder of the module's own, with the tiny recipe."""
    folder = tmp_path_factory.mktemp("run")
    write_recipe(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(place: Path, demo_clips: Path) -> Path:
    """The tiny recipe's finished run on the demo clips."""
    said = crossfade("train", place / "tiny.yaml", "--data", demo_clips, "--out", place / "first")
    assert said.code == 0, said.err
    return place / "first"
