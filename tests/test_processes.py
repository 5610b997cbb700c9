"""Two processes train as one: equal weights and buffers on both, one decision when to stop, one of them writing."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from torch import nn

from crossfade.training import adam, cosine, cross_entropy
from crossfade.training.loop import Interrupted, Phase, Run, fit
from crossfade.training.terms import Objective

CLIPS = 48
AUDIO, VIDEO = torch.randn(2, CLIPS, 4, generator=torch.Generator().manual_seed(0))
LABEL = (AUDIO[:, 0] + VIDEO[:, 1] > 0).long()
PRELOAD = ["torch", "accelerate", "torch._dynamo", "torch.distributed.fsdp", "crossfade.training.loop"]  # imported once, then forked


class Toy(nn.Module):
    """Two encoders with BatchNorm and dropout; a batch may lack either stream."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        encoders = {name: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2)) for name in ("audio", "video")}
        self.encoders = nn.ModuleDict(encoders)
        self.heads = nn.Linear(8, 2)

    def forward(self, batch):
        """{"audio": (B, 4), "video": (B, 4)} -> {"emotion": (B, 2)}"""
        tokens = [encoder(batch[name]) for name, encoder in self.encoders.items() if name in batch]
        return {"emotion": self.heads(torch.stack(tokens).sum(0))}


def batch_of(number: int, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every third batch is without sound, every fourth without a picture."""
    absent = "audio" if number % 3 == 0 else "video" if number % 4 == 0 else ""
    streams = {name: data[rows] for name, data in (("audio", AUDIO), ("video", VIDEO)) if name != absent}
    return {**streams, "emotion": LABEL[rows], "index": rows}


class Quiet:
    def __getattr__(self, name):
        return lambda *given: None


def phase(name: str, epochs: int, rates: dict) -> Phase:
    objective = Objective({"label": cross_entropy(target="emotion")})
    return Phase(name, epochs, rates, objective, adam, cosine(), patience=2, accumulate=2, clip_norm=1.0)


def refuse(*given, **options):
    raise AssertionError("rank 1 wrote a file")


def train(rank: int, port: str, folder: Path, stop_at: int) -> None:
    """What one process does; its exit code is a run's."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    from accelerate import Accelerator, DistributedDataParallelKwargs

    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    assert accelerator.num_processes == 2 and accelerator.process_index == rank
    states, questions = [], iter(range(1, 1000))

    def batches(phase, epoch, start):
        order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(epoch)).split(4)
        return [batch_of(number, rows) for number, rows in enumerate(order)][rank::2][start:]

    def score(model):
        model.eval()
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        with torch.no_grad():
            loss = float(nn.functional.cross_entropy(model({"audio": AUDIO, "video": VIDEO})["emotion"], LABEL))
        return {"nll": loss + rank * len(states)}  # as another device's rounding might, and worse: alone, rank 1 would stop early

    if rank == 1:
        Path.replace = Path.write_text = refuse
    model = Toy(seed=rank)  # a process that began elsewhere is given the first one's weights
    run = Run(
        model=model,
        accelerator=accelerator,
        batches=batches,
        score=score,
        select=lambda found: -found["nll"],
        hits=lambda out, batch: (out["emotion"].argmax(1) == batch["emotion"], batch["emotion"] >= 0),
        folder=folder,
        seed=3,
        screen=Quiet(),  # type: ignore[arg-type]
        stop=lambda: 15 if next(questions) == stop_at and rank == 1 else None,  # the signal reached one process only
        track=lambda row, step: None,
    )
    try:
        fit(run, [phase("a", 3, {"encoders.audio": None, "*": 0.02}), phase("b", 4, {"*": 0.02})])
        code = 0
    except Interrupted as stopped:
        code = 128 + stopped.signal
    torch.save({"weights": model.state_dict(), "states": states}, folder / f"rank-{rank}.pt")
    accelerator.end_training()
    os._exit(code)


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def two(folder: Path, stop_at: int = 0) -> list[int | None]:
    """Both exit codes; an error of a process is on its standard error, which pytest shows."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    port = free_port()
    runs = [context.Process(target=train, args=(rank, port, folder, stop_at)) for rank in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(90)
        run.kill()
    return [run.exitcode for run in runs]


def ended(folder: Path) -> list[dict]:
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def history(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


pytestmark = pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no forkserver on this system")


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    assert two(folder) == [0, 0]
    return folder


def test_both_end_with_equal_weights_and_judge_equal_states(unkilled):
    first, second = ended(unkilled)
    assert same(first["weights"], second["weights"])
    assert len(first["states"]) == len(second["states"]) == len(history(unkilled)) >= 5
    assert all(same(one, other) for one, other in zip(first["states"], second["states"], strict=True))
    assert not same(first["states"][0], first["states"][-1])
    assert history(unkilled)[-1]["train"]["loss"] < history(unkilled)[0]["train"]["loss"]


def test_a_signal_to_one_stops_both_at_one_step_and_both_go_on_to_the_same_end(unkilled, tmp_path):
    assert two(tmp_path, stop_at=6) == [143, 143]
    assert two(tmp_path) == [0, 0]
    first, second = ended(tmp_path)
    assert same(first["weights"], ended(unkilled)[0]["weights"]) and same(first["weights"], second["weights"])
    assert history(tmp_path) == history(unkilled)
