"""Two processes, one teacher: the same weights, buffers and memory on both, whatever each of them saw."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from test_processes import AUDIO, CLIPS, LABEL, PRELOAD, VIDEO, Quiet, Toy, ended, free_port, same

from crossfade.training import adam, cosine, cross_entropy, distill, pseudo_label
from crossfade.training.loop import Phase, Run, fit
from crossfade.training.teacher import Teacher
from crossfade.training.terms import Objective

pytestmark = pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no forkserver on this system")


def train(rank: int, port: str, folder: Path) -> None:
    """What one process does: a phase with a teacher that follows each step, one with one that follows each epoch."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    from accelerate import Accelerator, DistributedDataParallelKwargs

    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    states, model = [], Toy(seed=rank)  # a process that began elsewhere is given the first one's weights

    def batches(phase, epoch, start):
        order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(epoch)).split(4)
        both = {"audio": AUDIO, "video": VIDEO, "emotion": LABEL, "domain": torch.arange(CLIPS) % 2, "index": torch.arange(CLIPS)}
        return [{name: tensor[rows] for name, tensor in both.items()} for rows in order][rank::2][start:]

    def score(found):
        found.eval()
        memory = {f"{key} {name}": mean for key in ("centers", "totals") for name, mean in run.shadow.memory()[key].items()}
        states.append({name: value.clone() for name, value in found.state_dict().items()} | memory)
        return {"nll": -float(len(states))}

    def phase(name: str, teacher: Teacher) -> Phase:
        terms = {"label": cross_entropy(target="emotion", of="source"), "soft": distill(target="emotion")}
        objective = Objective({**terms, "sure": pseudo_label(target="emotion", threshold=0.5)})
        return Phase(name, 2, {"*": 0.02}, objective, adam, cosine(), teacher=teacher, keep="teacher", clip_norm=1.0)

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
        stop=lambda: None,
        track=lambda row, step: None,
    )
    fit(run, [phase("a", Teacher(momentum=0.9, center=0.9, align=0.9)), phase("b", Teacher(momentum=0.5, every="epoch"))])
    torch.save({"weights": model.state_dict(), "states": states}, folder / f"rank-{rank}.pt")
    accelerator.end_training()
    os._exit(0)


def test_both_hold_the_same_teacher(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    port = free_port()
    runs = [context.Process(target=train, args=(rank, port, tmp_path)) for rank in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(90)
        run.kill()
    assert [run.exitcode for run in runs] == [0, 0]
    first, second = ended(tmp_path)
    assert len(first["states"]) == 4 and all(same(one, other) for one, other in zip(first["states"], second["states"], strict=True))
    assert {"centers emotion", "totals emotion"} < set(first["states"][0]) and same(first["weights"], second["weights"])
    assert not same(first["states"][0], first["states"][1])
