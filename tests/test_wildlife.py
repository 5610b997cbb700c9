"""The wildlife system's tables: which files a clip has, its split, its group, and classes that train.csv lacks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crossfade.clip import Corpus, UserError
from crossfade.data import CORPORA
from crossfade.data.check import check
from crossfade.data.split import split
from crossfade.data.wildlife import wildlife

HEADER = "video_path,species,activity\n"


def name(event: int, clip: int = 0, camera: int = 3) -> str:
    track = f"S1_C{camera}_E{event}_V0060_ID1_T1"
    return f"{track}/{track}_c{clip}.mp4"


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")


def layout(root: Path, place: str = "raw/metadata", **tables: str) -> Path:
    (root / place).mkdir(parents=True, exist_ok=True)
    for split_name, text in tables.items():
        (root / place / f"{split_name}.csv").write_text(text)
    return root


def three(root: Path, place: str = "raw/metadata") -> Path:
    layout(
        root,
        place,
        train=f"{HEADER}{name(1)},fox,foraging\n{name(1, 1)},wolf,vigilance\n{name(2)},fox,\n",
        val=f"{HEADER}{name(3)},wolf,foraging\n",
        test=f"{HEADER}{name(4)},fox,vigilance\n",
    )
    return root


def flat(path: str, ending: str) -> str:
    return path.replace("/", "_").replace(".mp4", ending)


def notes(corpus: Corpus) -> list[str]:
    return [why for _, why in corpus.skipped if why.startswith("note: ")]


def test_the_originals_layout(tmp_path):
    assert CORPORA["wildlife"] is wildlife
    root = three(tmp_path)
    for path in (name(1), name(1, 1), name(2), name(3), name(4)):
        touch(root, f"processed/video_frames/{flat(path, '.pt')}")
    touch(root, f"processed/mel_spectrograms/{flat(name(1), '.npy')}", f"processed/mel_spectrograms/{flat(name(4), '.npy')}")
    corpus = wildlife(root=root)
    assert [(clip.id, clip.split, clip.group) for clip in corpus.clips] == [
        (name(1), "train", "S1_C3_E1"),
        (name(1, 1), "train", "S1_C3_E1"),
        (name(2), "train", "S1_C3_E2"),
        (name(3), "val", "S1_C3_E3"),
        (name(4), "test", "S1_C3_E4"),
    ]
    first, second = corpus.clips[:2]
    flattened = "S1_C3_E1_V0060_ID1_T1_S1_C3_E1_V0060_ID1_T1_c0"
    assert first.media == {
        "frames": root / "processed" / "video_frames" / f"{flattened}.pt",
        "mel": root / "processed" / "mel_spectrograms" / f"{flattened}.npy",
    }
    assert set(second.media) == {"frames"}, "a clip without sound is kept with its pictures"
    assert corpus.clips[2].labels == {"species": "fox"}
    assert corpus.classes == {"species": ["fox", "wolf"], "activity": ["foraging", "vigilance"]} and corpus.several == ()
    assert notes(corpus) == [
        "note: 3 of 5 clips have no mel and are kept without",
        "note: a group is site, camera and event in its name, as in S1_C3_E1",
    ]
    made = split(corpus.clips, by="auto", target="species")
    assert [len(side) for side in (made.train, made.val, made.test)] == [3, 1, 1]
    assert made.warnings == ["species: no clip of class wolf is in test"]


@pytest.mark.parametrize("place", ["", "metadata", "raw/metadata", "processed/metadata"])
@pytest.mark.parametrize("folder", ["videos", "raw/videos", "clips", "raw", ""])
def test_straight_from_the_videos_wherever_they_are(tmp_path, place, folder):
    root = three(tmp_path, place)
    touch(root, *(str(Path(folder, path)) for path in (name(1), name(2))), f"audios/{name(1)[:-4]}.wav")
    corpus = wildlife(root=root)
    assert corpus.clips[0].media == {"audio": root / "audios" / f"{name(1)[:-4]}.wav", "video": root / folder / name(1)}
    assert [clip.id for clip in corpus.clips] == [name(1), name(2)]
    assert [entry for entry in corpus.skipped if not entry[1].startswith("note: ")] == [
        (name(1, 1), "train.csv row 3: no such file; its clip is left out"),
        (name(3), "val.csv row 2: no such file; its clip is left out"),
        (name(4), "test.csv row 2: no such file; its clip is left out"),
    ]


def test_another_folder_of_videos_and_windows_paths(tmp_path):
    root = layout(tmp_path / "lists", "", train=HEADER + name(1).replace("/", "\\") + ",fox,foraging\n")
    touch(tmp_path / "films", name(1))
    corpus = wildlife(root=root, videos=tmp_path / "films")
    assert corpus.clips[0].id == name(1) and corpus.clips[0].media == {"video": tmp_path / "films" / name(1)}
    with pytest.raises(UserError, match=r"train\.csv: none of the files of 1 rows is below .*S1_C3_E1_.*_c0\.npy in mel_spectrograms"):
        wildlife(root=root)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            f"{HEADER}{name(4)},lynx,foraging\n",
            rf"test\.csv: row 2: clip {name(4)}: species 'lynx' is no class of train\.csv's training clips; there is fox",
        ),
        (f"{HEADER}{name(4)},fox,forraging\n", rf"clip {name(4)}: activity 'forraging' is no class .*did you mean 'foraging'"),
        (f"{HEADER},fox,foraging\n", r"test\.csv: row 2: video_path is empty"),
        (f"video,species\n{name(4)},fox\n", r"test\.csv: no column 'video_path' among video, species"),
    ],
)
def test_what_cannot_be(tmp_path, text, says):
    root = layout(three(tmp_path), test=text)
    touch(root, f"videos/{name(1)}")
    with pytest.raises(UserError, match=says) as error:
        wildlife(root=root)
    assert "\n" not in str(error.value)


def test_no_tables(tmp_path):
    with pytest.raises(UserError, match=r"no train\.csv in "):
        wildlife(root=tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        wildlife(root=tmp_path / "none")


def test_any_label_columns_some_with_several_classes(tmp_path):
    table = "video_path,species,action,group\n"
    root = layout(
        tmp_path,
        "",
        train=f"{table}a/1.mp4,fox,walking|grazing|walking,x\na/2.mp4,fox,|,x\na/3.mp4,,,y\n",
        val="video_path,species\nb/1.mp4,fox\n",
    )
    touch(root, "a/1.mp4", "a/2.mp4", "a/3.mp4", "b/1.mp4")
    corpus = wildlife(root=root)
    assert corpus.several == ("action",) and corpus.classes == {"species": ["fox"], "action": ["grazing", "walking"]}
    assert [clip.labels for clip in corpus.clips] == [
        {"species": "fox", "action": "grazing|walking"},
        {"species": "fox", "action": "|"},
        {},
        {"species": "fox"},
    ]
    assert [clip.group for clip in corpus.clips] == ["x", "x", "y", "b"]
    assert any("has no column 'action', which is unknown" in why for why in notes(corpus))
    assert any(why.startswith("note: action holds '|'") for why in notes(corpus))
    layout(root, "", test=f"{table}c/1.mp4,fox,walking|soaring,z\n")
    with pytest.raises(
        UserError, match=r"clip c/1\.mp4: action 'soaring' is no class of train\.csv's training clips; there is grazing, walking"
    ):
        wildlife(root=root)


def test_one_table_and_a_folder_of_videos(tmp_path):
    rows = [f"{name(event)},{'fox' if event % 2 else 'hare'},x" for event in range(1, 5)]
    touch(tmp_path, *(f"videos/{name(event)}" for event in range(1, 5)))
    (tmp_path / "all.csv").write_text(HEADER + "\n".join(rows))
    corpus = wildlife(root=tmp_path / "all.csv")
    assert [(clip.split, clip.group) for clip in corpus.clips] == [("", f"S1_C3_E{event}") for event in range(1, 5)]
    assert corpus.clips[0].media == {"video": tmp_path / "videos" / name(1)} and corpus.classes["species"] == ["fox", "hare"]
    sides = ["train", "train", "dev", "test"]
    said = "\n".join(f"{row},{side}" for row, side in zip(rows, sides, strict=True))
    (tmp_path / "all.csv").write_text(f"video_path,species,activity,split\n{said}")
    assert [clip.split for clip in wildlife(root=tmp_path / "all.csv").clips] == ["train", "train", "val", "test"]
    (tmp_path / "all.csv").write_text(f"video_path,species,activity,split\n{said.replace('hare,x,test', 'wolf,x,test')}")
    with pytest.raises(
        UserError, match=r"row 5: clip S1_C3_E4.*: species 'wolf' is no class of all\.csv's training clips; there is fox, hare"
    ):
        wildlife(root=tmp_path / "all.csv")


def test_groups_without_events(tmp_path):
    root = layout(tmp_path, "", train=f"{HEADER}n1/a.mp4,fox,x\nn1/b.mp4,fox,x\nn2/a.mp4,fox,x\n", test=f"{HEADER}n3/a.mp4,fox,x\n")
    touch(root, "n1/a.mp4", "n1/b.mp4", "n2/a.mp4", "n3/a.mp4")
    corpus = wildlife(root=root)
    assert [clip.group for clip in corpus.clips] == ["n1", "n1", "n2", "n3"]
    assert notes(corpus)[-1].endswith("their folder is their group, as in n1")
    assert [clip.group for clip in wildlife(root=root, group_pattern=r"(n)\d/(.)").clips] == ["n_a", "n_b", "n_a", "n_a"]
    with pytest.raises(UserError, match=r"clip n1/a\.mp4: group_pattern '\(q\)' captures nothing"):
        wildlife(root=root, group_pattern="(q)")
    with pytest.raises(UserError, match="expected a regular expression"):
        wildlife(root=root, group_pattern="(")
    layout(root, "", test=f"{HEADER}n1/c.mp4,fox,x\n")
    touch(root, "n1/c.mp4")
    torn = wildlife(root=root)
    assert [clip.group for clip in torn.clips] == ["n1/a.mp4", "n1/b.mp4", "n2/a.mp4", "n1/c.mp4"]
    assert "folder 'n1' holds clips of several lists, so each file is its own group" in notes(torn)[-1]


def test_an_event_on_both_sides_is_refused_by_name(tmp_path):
    root = layout(three(tmp_path), test=f"{HEADER}{name(1, 2)},fox,vigilance\n")
    touch(root, *(f"videos/{path}" for path in (name(1), name(1, 1), name(1, 2), name(2), name(3))))
    corpus = wildlife(root=root)
    for by in ("auto", "column"):
        with pytest.raises(UserError, match=r"group 'S1_C3_E1' is in train \(2 clips\) and test \(1 clips\)"):
            split(corpus.clips, by=by)


def test_check_reads_tensors_and_counts_each_class_of_several(tmp_path):
    table = "video_path,species,action\n"
    rows = [f"{name(event)},{'fox' if event % 2 else 'hare'},{'walking|grazing' if event % 3 else 'walking'}\n" for event in range(1, 9)]
    root = layout(tmp_path, "", train=table + "".join(rows))
    (root / "video_frames").mkdir()
    for event in range(1, 9):
        content = torch.full((3, 2, 4, 4), float(event)) if event > 1 else torch.full((3, 2, 4, 4), float("nan"))
        torch.save(content, root / "video_frames" / flat(name(event), ".pt"))
    (root / "mel_spectrograms").mkdir()
    np.save(root / "mel_spectrograms" / flat(name(2), ".npy"), np.ones((4, 4), np.float32))
    found = check(wildlife(root=root))
    assert [(problem.kind, Path(problem.where[0]).suffix) for problem in found.problems] == [("unreadable", ".pt")]
    assert found.extents["action"]["walking"].clips == 8 and found.extents["action"]["grazing"].clips == 6
    assert set(found.extents["action"]) == {"walking", "grazing"}
