"""MammAlps, Benchmark I: its folders, its label sets in their order, several actions, events that no camera divides."""

from pathlib import Path

import pytest

from crossfade.clip import UserError
from crossfade.data import CORPORA
from crossfade.data.mammalps import mammalps
from crossfade.data.split import split

HEADER = "video_path,start_s,end_s,activity,actions,species\n"


def name(event: int, camera: int = 1, clip: int = 0) -> str:
    track = f"S1_C{camera}_E{event}_V0016_ID1_T1"
    return f"{track}/{track}_c{clip}.mp4"


def archive(root: Path, home: str = "benchmark_1", **lists: str) -> Path:
    (root / home / "metadata").mkdir(parents=True, exist_ok=True)
    for side, text in lists.items():
        (root / home / "metadata" / f"{side}.csv").write_text(HEADER + text)
        for line in text.splitlines():
            path = root / home / "clips" / line.split(",")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    return root


def published(root: Path, home: str = "benchmark_1") -> Path:
    return archive(
        root,
        home,
        train=f"{name(4)},0.0,2.5,foraging,walking;none,red_deer\n{name(4, 2)},0.0,1,vigilance,vocalizing;standing_head_up,red_deer\n",
        val=f"{name(5)},0.0,2.5,unknown,none;none,wolf\n",
        test=f"{name(6)},0.0,0.03,camera_reaction,looking_at_camera;none,roe_deer\n",
    )


@pytest.mark.parametrize("home", ["benchmark_1", "mammalps_v1/benchmark_1", "."])
def test_the_published_layout(tmp_path, home):
    assert CORPORA["mammalps"] is mammalps
    root = published(tmp_path, home)
    sound = root / home / "audios" / Path(name(4)).with_suffix(".wav")
    sound.parent.mkdir(parents=True)
    sound.write_bytes(b"x")
    corpus = mammalps(root=root)
    first, second, third, fourth = corpus.clips
    assert first.media == {"audio": sound, "video": root / home / "clips" / name(4)} and set(second.media) == {"video"}
    assert [(clip.id, clip.split, clip.group, clip.span) for clip in corpus.clips] == [
        (name(4), "train", "S1_E4", (0.0, None)),
        (name(4, 2), "train", "S1_E4", (0.0, None)),
        (name(5), "val", "S1_E5", (0.0, None)),
        (name(6), "test", "S1_E6", (0.0, None)),
    ]
    assert first.labels == {"species": "red_deer", "activity": "foraging", "action": "walking"}
    assert second.labels["action"] == "standing_head_up|vocalizing" and third.labels["action"] == "|"
    assert fourth.labels == {"species": "roe_deer", "activity": "camera_reaction", "action": "looking_at_camera"}
    assert corpus.several == ("action",) and corpus.group_name == "event"
    assert "note: 3 of 4 clips have no audio and are kept without" in [why for _, why in corpus.skipped]
    assert [why for _, why in corpus.skipped][-1].startswith("note: 1 rows, 1,244 are published")


def test_label_sets_in_the_published_order(tmp_path):
    """The numbers of eceo-epfl/MammAlps, evaluation/labels_mapping_b1.json."""
    classes = mammalps(root=published(tmp_path)).classes
    assert {target: len(names) for target, names in classes.items()} == {"species": 5, "activity": 11, "action": 19}
    assert all(names == sorted(names) for names in classes.values())
    numbers = {"wolf": 4, "roe_deer": 3, "foraging": 4, "vigilance": 10, "looking_at_camera": 6, "walking": 18}
    everywhere = {target: {label: number for number, label in enumerate(names)} for target, names in classes.items()}
    assert {label: next(found[label] for found in everywhere.values() if label in found) for label in numbers} == numbers
    assert everywhere["activity"]["unknown"] == 9 and everywhere["action"]["unknown"] == 15


def test_rows_of_one_file_are_its_parts(tmp_path):
    root = archive(tmp_path, train=f"{name(4)},0.0,2.5,foraging,walking,fox\n{name(4)},2.5,4,foraging,running;walking,fox\n")
    corpus = mammalps(root=root)
    assert [(clip.id, clip.span) for clip in corpus.clips] == [(f"{name(4)}#train:2", (0.0, 2.5)), (f"{name(4)}#train:3", (2.5, 4.0))]


def test_one_event_seen_by_two_cameras_is_never_on_both_sides(tmp_path):
    rows = {side: f"{path},0,1,foraging,walking,fox\n" for side, path in {"train": name(4), "val": name(5), "test": name(4, 2)}.items()}
    root = archive(tmp_path, **rows)
    with pytest.raises(UserError, match=r"group 'S1_E4' is in train \(1 clips\) and test \(1 clips\)"):
        split(mammalps(root=root).clips, by="column")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (f"{name(4)},0,1,foraging,walkin,fox\n", "action 'walkin' is no class of MammAlps; did you mean 'walking'"),
        (f"{name(4)},0,1,foraging,walking,chamois\n", "species 'chamois' is no class of MammAlps; there is fox, hare"),
        (f"{name(4)},0,1,foraging;resting,walking,fox\n", "activity is foraging and resting; MammAlps has one"),
    ],
)
def test_labels_that_cannot_be(tmp_path, row, says):
    with pytest.raises(UserError, match=says) as error:
        mammalps(root=archive(tmp_path, train=row))
    assert f"clip {name(4)}" in str(error.value) and "\n" not in str(error.value)


def test_another_table(tmp_path):
    root = archive(tmp_path, train=f"{name(4)},0,1,foraging,walking,fox\n")
    (root / "benchmark_1" / "metadata" / "train.csv").write_text(f"video_path,species,activity\n{name(4)},fox,foraging\n")
    with pytest.raises(UserError, match="no column 'actions' among video_path, species, activity; is this MammAlps"):
        mammalps(root=root)
