"""Table 2: the last two stages of an encoder learn with the head, against a plain loop that runs the others under no_grad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.contest import FILES, MEMORY, OURS, PLAIN, Entrant, bout, faster
from benchmarks.measure import command, heading, machine, versions
from benchmarks.workloads import MOBILE, RESNET, WAVLM, Workload

LOOP = Entrant(PLAIN, "plain", "memory")
ENTRANTS = [Entrant(OURS, "ours", "ours"), LOOP]
WORKLOADS = [replace(workload, unfrozen=2, epochs=4, timed=2, repeats=1) for workload in (WAVLM, RESNET, MOBILE)]
NOTES = """\
As in the table of head training, but the last two stages (transformer layers; residual or inverted-residual blocks) learn too, at 1e-4.
MobileNetV2 begins with ImageNet weights."""


def run(quick: bool, workloads: Sequence[Workload] = WORKLOADS) -> dict[str, Any]:
    about, used = machine(), versions("crossfade", "torch", "torchvision", "transformers")
    print(heading("Partial unfreezing: the last two stages learn", about, used))
    rows = [row for workload in workloads for row in bout(workload, ENTRANTS, _headlines, small=quick)]
    print(f"{NOTES}\n", flush=True)
    return {"rows": rows, "machine": about, "versions": used, "command": command()}


def _headlines(by: dict[tuple[str, str], dict[str, Any]], epochs: int) -> list[str]:
    ours, plain = by[OURS, FILES], by.get((PLAIN, MEMORY))
    if plain is None:
        return ["the loop failed"]
    return [
        f"an epoch after the first: {faster(plain, ours, 'later')}; its steps alone: {faster(plain, ours, 'steps')}",
        f"{epochs} epochs, the first included: {faster(plain, ours, 'whole')}",
    ]
