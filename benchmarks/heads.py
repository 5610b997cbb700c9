"""Table 1: ten epochs of a head on a frozen encoder, against what people would use instead and against the bare steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.contest import EMBEDDINGS, FILES, FLOOR, MEMORY, OURS, PLAIN, REPEATS, Entrant, bout, faster, python_of
from benchmarks.measure import command, heading, machine, times, versions
from benchmarks.workloads import RESNET, WAVLM, Workload

PEERS = [
    Entrant(PLAIN, "plain", "memory"),
    Entrant("(b) fastai", "fastai_fit", "memory", ("fastai",)),
    Entrant("(c) Lightning", "lightning_fit", "memory", ("lightning",)),
    Entrant("(d) Transformers Trainer", "trainer_fit", "memory"),
]
ENTRANTS = [
    Entrant(OURS, "ours", "ours", repeats=REPEATS),
    *PEERS,
    Entrant(FLOOR, "floor", "floor", repeats=REPEATS),
    PEERS[0].on_files(),
]
NOTES = """\
Medians. Everybody has the same clips, weights of encoder and head, batch, Adam at 1e-3, float32, the encoder in eval mode and a
validation an epoch. "Files": read and decoded anew each epoch by two worker processes. "Decoded in memory": what the encoder
takes lies in memory before the clock starts; this generous case decides the ratios. Ours reads the files, and its store is empty when
it begins. Set-up lies between the imports (start-up) and the first epoch. A later epoch is its steps and its validation, in ours also
scores, checkpoint and log. Where fewer epochs were run than are counted, the others are taken at the median of the later ones. "After"
is what follows the last epoch: in ours predictions, intervals, report and bundle. Pictures: Fashion-MNIST as JPEG files in class
folders. Sound: RAVDESS, actors 1 to 6 to learn from, 7 and 8 to validate. Both encoders have random weights, drawn once."""


def run(quick: bool, workloads: Sequence[Workload] = (RESNET, WAVLM)) -> dict[str, Any]:
    about, used = machine(), _versions()
    print(heading("Head training on a frozen encoder", about, used))
    rows = [row for workload in workloads for row in bout(workload, ENTRANTS, _headlines, small=quick)]
    print(f"{NOTES}\n", flush=True)
    return {"rows": rows, "machine": about, "versions": used, "command": command()}


def _headlines(by: dict[tuple[str, str], dict[str, Any]], epochs: int) -> list[str]:
    ours, plain, floor = by[OURS, FILES], by.get((PLAIN, MEMORY)), by.get((FLOOR, EMBEDDINGS))
    peers = [row for (_, data), row in by.items() if data == MEMORY]
    lines = []
    if peers:
        lines.append(f"{epochs} epochs, the first included: {faster(min(peers, key=lambda row: row['whole']), ours, 'whole')}, the fastest")
        lines.append(f"from the first import to the end: {faster(min(peers, key=lambda row: row['total']), ours, 'total')}, the fastest")
    if plain:
        lines.append(f"an epoch after the first: {faster(plain, ours, 'later')}; its steps alone: {faster(plain, ours, 'steps')}")
    if floor:
        lines.append(f"the steps of an epoch after the first take **{times(ours['steps'] / floor['steps'])}** what the floor takes")
    return lines


def _versions() -> dict[str, str]:
    """Ours, and of the tools those in their environment."""
    found = versions("crossfade", "torch", "torchvision", "transformers")
    for peer in PEERS:
        found |= versions(*peer.packages, python=python_of(peer)) if peer.packages else {}
    return found
