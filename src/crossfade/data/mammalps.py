"""MammAlps, Benchmark I: camera-trap clips of single animals with species, activity and actions, in their published layout and lists.

Documented by its authors (eceo-epfl/MammAlps: DATASET.md, evaluation/labels_mapping_b1.json, eval_b1.py; arXiv 2503.18223; Zenodo
15040901): the 5 species, 11 activities and 19 actions in this order; several actions at once; 1,244 test clips; names that begin with
site, camera and event (S1_C1_E4_V0016), an event being numbered across the cameras that saw it. Told by two public projects that read
the archive: `benchmark_1/metadata/{train,val,test}.csv` with `video_path,start_s,end_s,activity,actions,species`; 4,205, 686 and 1,244
rows; actions parted by `;` and filled up with `none`; pictures in `benchmark_1/clips/<video_path>`, without sound, which is in
`benchmark_1/audios` as .wav of the same name. Assumed: a clip is the whole of its file (start_s is 0) unless several rows name that file.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from crossfade.clip import Clip, Corpus, UserError
from crossfade.data.files import unique_ids
from crossfade.data.labels import joined
from crossfade.data.table import span_of
from crossfade.data.wildlife import Listed, captured, found_media, lost, read_lists, refuse_unknown

SPECIES = ["fox", "hare", "red_deer", "roe_deer", "wolf"]
ACTIVITIES = [
    "camera_reaction", "chasing", "courtship", "escaping", "foraging", "grooming", "marking", "playing", "resting", "unknown",
    "vigilance",
]  # fmt: skip
ACTIONS = [
    "bathing", "defecating", "drinking", "grazing", "jumping", "laying", "looking_at_camera", "running", "scratching_antlers",
    "scratching_body", "scratching_hoof", "shaking_fur", "sniffing", "standing_head_down", "standing_head_up", "unknown", "urinating",
    "vocalizing", "walking",
]  # fmt: skip
CLASSES = {"species": SPECIES, "activity": ACTIVITIES, "action": ACTIONS}
COLUMNS = {"species": "species", "activity": "activity", "action": "actions"}
ROWS = {"train": 4205, "val": 686, "test": 1244}
PLACES = ("benchmark_1/metadata", "metadata", "mammalps_v1/benchmark_1/metadata", "")
EVENT = r"(?:^|/)(S\d+)_C\d+_(E\d+)(?=_|\.|/|$)"  # of whichever camera


def mammalps(*, root: Path) -> Corpus:
    """MammAlps' Benchmark I below `root` (or its benchmark_1): targets "species" (5), "activity" (11) and "action" (19, several at
    once), classes in the published order, splits as published. Group: the event, S1_E144, whichever camera saw it. A clip has its video
    and, where there is one, its sound; stored frames and spectrograms too where they were made. Raises UserError.
    """
    listed = read_lists(Path(root), PLACES)
    home = listed[0].table.parent
    found = found_media(home.parent if home.name == "metadata" else home, listed)
    times = Counter(entry.name for entry in listed)
    clips = [
        (f"{entry.split}:{entry.row.line}", _clip(entry, files, times[entry.name] > 1))
        for entry, files in zip(listed, found, strict=True)
        if files
    ]
    return Corpus(
        unique_ids(clips),
        {target: list(names) for target, names in CLASSES.items()},
        lost(listed, found) + _other_counts(home, listed),
        group_name="event",
        several=("action",),
    )


def _clip(entry: Listed, files: dict[str, Path], part: bool) -> Clip:
    span = span_of(entry.table, entry.row, "start_s", "end_s") if part else (0.0, None)
    return Clip(entry.name, files, _labels(entry), captured(entry, EVENT), span=span, split=entry.split)


def _labels(entry: Listed) -> dict[str, str]:
    named = {target: _names(entry, column) for target, column in COLUMNS.items()}
    for target, names in named.items():
        for name in names:
            refuse_unknown(entry, target, name, CLASSES[target], "MammAlps")
        if target != "action" and len(names) > 1:
            raise UserError(f"{entry.where}: {target} is {' and '.join(names)}; MammAlps has one")
    one = {target: names[0] for target, names in named.items() if names and target != "action"}
    return one | ({"action": joined(named["action"])} if entry.row.cells["actions"] else {})


def _names(entry: Listed, column: str) -> list[str]:
    if column not in entry.row.cells:
        raise UserError(f"{entry.table}: no column {column!r} among {', '.join(entry.row.cells)}; is this MammAlps' Benchmark I?")
    names = [name.strip() for name in re.split(r"[;,|]", entry.row.cells[column])]
    return [name for name in names if name and name != "none"]


def _other_counts(home: Path, listed: list[Listed]) -> list[tuple[str, str]]:
    """A list that is not as long as the published one makes other numbers."""
    there = Counter(entry.split for entry in listed)
    return [
        (str(home / f"{split}.csv"), f"note: {there[split]:,} rows, {published:,} are published; its numbers do not compare with others'")
        for split, published in ROWS.items()
        if there[split] != published
    ]
