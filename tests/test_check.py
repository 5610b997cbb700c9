import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_packed import idx_bytes, write

from crossfade.clip import Clip, Corpus
from crossfade.data.check import Findings, check
from crossfade.data.demo import FACES, VOICES, _write_video, draw_actor, draw_face, speak, write_demo
from crossfade.data.files import manifest, tree
from crossfade.data.images import idx
from crossfade.data.ravdess import ravdess

SHARED = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))


def voice(path: Path, seed: int, gain: float = 1.0, rate: int = 16000, subtype: str = "PCM_16") -> Path:
    rng = np.random.default_rng(seed)
    sound = speak(draw_actor(rng), VOICES["happy"], 1.0, rng) * gain
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, subtype)
    return path


def clip(path: Path, group: str, label: str = "a", **labels: str) -> Clip:
    return Clip(path.name, {"audio": path}, {"y": label, **labels}, group)


def corpus(*clips: Clip, **classes: list[str]) -> Corpus:
    return Corpus(list(clips), {"y": ["a", "b"], **classes})


def kinds(findings: Findings) -> set[str]:
    return {finding.kind for finding in findings.problems}


def fine(folder: Path) -> list[Clip]:
    """Two clips of two classes in each of four groups, each recording its own."""
    return [clip(voice(folder / f"f{i}.wav", 100 + i), f"g{i % 4}", "ab"[i // 4]) for i in range(8)]


def test_a_sound_corpus_has_no_problem_and_is_counted(tmp_path):
    findings = check(corpus(*fine(tmp_path)))
    assert findings.problems == [] and findings.notes == []
    assert {name: extent.clips for name, extent in findings.extents["y"].items()} == {"a": 4, "b": 4}
    whole = findings.extents["all"]["clips"]
    assert (whole.clips, whole.total, whole.median, whole.shortest, whole.longest) == pytest.approx((8, 8, 1, 1, 1))
    assert len(findings.extents["group"]) == 4 and "domain" not in findings.extents


def test_the_generated_demo_has_no_problem(tmp_path):
    findings = check(ravdess(root=write_demo(tmp_path, actors=4, repetitions=1, size=48)))
    assert findings.problems == [] and findings.extents["emotion"]["calm"].clips == 4


def test_unreadable_and_silent(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no sound at all")
    soundfile.write(tmp_path / "zero.wav", np.zeros(8000), 8000)
    soundfile.write(tmp_path / "hiss.wav", np.random.default_rng(0).uniform(-5e-4, 5e-4, 8000), 8000, "FLOAT")
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan), 8000, "FLOAT")
    names = ["empty", "text", "zero", "hiss", "nan", "gone"]
    findings = check(corpus(*fine(tmp_path), *(clip(tmp_path / f"{name}.wav", "g0") for name in names)))
    found = {Path(finding.where[0]).stem: finding for finding in findings.problems}
    assert {name: finding.kind for name, finding in found.items()} == dict.fromkeys(names, "unreadable") | {
        "zero": "silent",
        "hiss": "silent",
    }
    assert "digital zero" in found["zero"].text and "-66 dBFS" in found["hiss"].text
    assert findings.extents["all"]["clips"].clips == 14 and findings.extents["all"]["clips"].total == pytest.approx(10)


def test_copies_in_two_groups_are_a_problem_in_one_a_note(tmp_path):
    one, two, three = (tmp_path / name for name in ("one.wav", "two.wav", "three.wav"))
    for path in (two, three):
        path.write_bytes(voice(one, 1).read_bytes())
    findings = check(corpus(*fine(tmp_path), clip(one, "g0"), clip(two, "g0")))
    assert findings.problems == [] and [note.kind for note in findings.notes] == ["duplicate"]
    findings = check(corpus(*fine(tmp_path), clip(one, "g0"), clip(two, "g0", "b"), clip(three, "g1")))
    assert kinds(findings) == {"duplicate", "label conflict"}
    assert findings.problems[0].where == ["one.wav", "two.wav", "three.wav"] and "g0, g1" in findings.problems[0].text


def test_the_same_recording_at_another_gain_rate_and_depth(tmp_path):
    import soxr

    voice(tmp_path / "one.wav", 1)
    sound, _ = soundfile.read(tmp_path / "one.wav")
    soundfile.write(tmp_path / "two.flac", soxr.resample(sound * 0.4, 16000, 44100), 44100, "PCM_24")
    clips = [clip(tmp_path / "one.wav", "g0"), clip(tmp_path / "two.flac", "g1", "b")]
    findings = check(corpus(*fine(tmp_path), *clips))
    assert kinds(findings) == {"near duplicate", "label conflict"} and set(findings.problems[0].where) == {"one.wav", "two.flac"}
    assert check(corpus(*fine(tmp_path), clips[0], clip(tmp_path / "two.flac", "g0", "b"))).problems == []


def test_spans_of_one_file_are_not_copies(tmp_path):
    path = voice(tmp_path / "long.wav", 1)
    halves = [Clip(f"h{i}", {"audio": path}, {"y": "ab"[i]}, f"g{i}", span=span) for i, span in enumerate([(0.0, 0.5), (0.5, None)])]
    assert check(corpus(*fine(tmp_path), *halves)).problems == []
    twice = [Clip(f"t{i}", {"audio": path}, {"y": "ab"[i]}, "g0", span=(0.0, 0.5)) for i in range(2)]
    assert kinds(check(corpus(*fine(tmp_path), *twice))) == {"label conflict"}


def test_video_of_one_frame_and_copied_pictures(tmp_path):
    rng = np.random.default_rng(0)
    frames = draw_face(draw_actor(rng), FACES["happy"], 12, 48, rng)
    _write_video(tmp_path / "one.mp4", frames[:1])
    _write_video(tmp_path / "film.mp4", frames)
    _write_video(tmp_path / "dim.mp4", [(frame * 0.9).astype(np.uint8) for frame in frames])
    clips = [Clip(f"{name}.mp4", {"video": tmp_path / f"{name}.mp4"}, {"y": "a"}, name) for name in ("one", "film", "dim")]
    findings = check(corpus(*fine(tmp_path), *clips))
    assert [note.where for note in findings.notes if note.kind == "one frame"] == [[str(tmp_path / "one.mp4")]]
    assert [set(problem.where) for problem in findings.problems] == [{"film.mp4", "dim.mp4"}]


def test_pictures(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(6):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(draw_face(draw_actor(rng), FACES["calm"], 1, 64, rng)[0]).save(folder / f"{number}.png")
    Image.open(tmp_path / "a" / "0.png").resize((96, 96)).save(tmp_path / "b" / "copy.png")
    findings = check(tree(root=tmp_path))
    assert {problem.kind for problem in findings.problems} == {"near duplicate", "label conflict"}
    assert set(findings.problems[0].where) == {"a/0", "b/copy"} and findings.extents["all"]["clips"].clips == 7


def faces(count: int, size: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([draw_face(draw_actor(rng), FACES["calm"], 1, size, rng)[0] for _ in range(count)])


def test_copies_across_given_splits_are_a_problem_within_one_a_note(tmp_path):
    from PIL import Image

    for number, (folder, face) in enumerate(zip(["train/a", "train/b", "val/a", "val/b", "test/a", "test/b"], faces(6), strict=True)):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(face).save(tmp_path / folder / f"{number}.png")
    whole = (tmp_path / "train/a/0.png").read_bytes()
    (tmp_path / "train/a/same.png").write_bytes(whole)
    findings = check(tree(root=tmp_path))
    assert findings.problems == [] and [note.text for note in findings.notes if note.kind == "duplicate"] == [
        "the same content 2 times in split train"
    ]
    assert {name: extent.clips for name, extent in findings.extents["split"].items()} == {"train": 3, "val": 2, "test": 2}
    (tmp_path / "test/a/same.png").write_bytes(whole)
    Image.open(tmp_path / "train/b/1.png").resize((96, 96)).save(tmp_path / "val/b/near.png")
    problems = {problem.kind: problem for problem in check(tree(root=tmp_path)).problems}
    assert set(problems) == {"duplicate", "near duplicate"}
    assert problems["duplicate"].text == "the same content in 2 splits: test, train"
    assert set(problems["near duplicate"].where) == {"train/b/1", "val/b/near"}


def test_files_of_many_pictures(tmp_path):
    grey = faces(8, 28).mean(-1).astype(np.uint8)
    train, test = np.concatenate([grey[:6], grey[:1]]), np.stack([grey[6], grey[2]])
    for name, pictures in (("train", train), ("t10k", test)):
        write(tmp_path / f"{name}-images-idx3-ubyte", idx_bytes(pictures))
        write(tmp_path / f"{name}-labels-idx1-ubyte", idx_bytes(np.arange(len(pictures), dtype=np.uint8) % 2))
    ticks = []
    findings = check(idx(root=tmp_path), targets=["label"], advance=lambda: ticks.append(1))
    assert len(ticks) == 9 and "group" not in findings.extents
    assert {(problem.kind, *problem.where) for problem in findings.problems} == {
        ("duplicate", "train/00002", "test/00001"),
        ("label conflict", "train/00002", "test/00001"),
    }
    assert [note.where for note in findings.notes if note.kind == "duplicate"] == [["train/00000", "train/00006"]]


def test_pictures_of_odd_sizes_and_kinds_are_named(tmp_path):
    from PIL import Image

    shapes = {"a": (64, 64), "b": (80, 60), "c": (64, 70), "long": (300, 64), "tiny": (12, 12), "dot": (1, 1)}
    for number, (name, size) in enumerate(shapes.items()):
        (tmp_path / "xy"[number % 2]).mkdir(exist_ok=True)
        Image.fromarray(faces(6)[number]).resize(size).save(tmp_path / "xy"[number % 2] / f"{name}.png")
    Image.fromarray(faces(1)[0][::-1]).convert("CMYK").save(tmp_path / "x" / "print.jpg")
    findings = check(tree(root=tmp_path))
    assert [(Path(problem.where[0]).name, problem.kind) for problem in findings.problems] == [("dot.png", "unreadable")]
    notes = {Path(note.where[0]).name: note for note in findings.notes if note.where}
    assert notes["long.png"].text == "300 × 64 pixels: a square squeezes it, unless the stream's fit is crop or pad"
    assert notes["tiny.png"].text == "12 × 12 pixels: the shorter side of the middle picture has 64"
    assert "CMYK" in notes["print.jpg"].text and set(notes) == {"long.png", "tiny.png", "print.jpg"}


def test_labels_that_something_else_contradicts(tmp_path):
    filed = voice(tmp_path / "b" / "x.wav", 1)
    named = voice(tmp_path / "03-01-05-01-01-01-01.wav", 2)
    clips = [clip(filed, "g0", "a"), clip(named, "g1", "a", emotion="sad"), clip(voice(tmp_path / "z.wav", 3), "g2", "a", second="b")]
    classes = {"emotion": ["angry", "sad"], "second": ["a", "b"]}
    findings = check(corpus(*fine(tmp_path), *clips, **classes), targets=["y", "emotion", "second"])
    said = {finding.where[0]: finding.text for finding in findings.problems if finding.kind == "label disagreement"}
    assert said == {
        "x.wav": "y is a, but the folder says b",
        "03-01-05-01-01-01-01.wav": "emotion is sad, but the file name says angry",
        "z.wav": "y is a, but second says b",
    }


def test_what_the_counts_show(tmp_path):
    rows = "".join(f"f{i}.wav,{'rare' if i == 0 else 'often'},{i},g{i // 2}\n" for i in range(8))
    fine(tmp_path)
    (tmp_path / "m.csv").write_text("audio,y,text,group\n" + rows + "gone.wav,often,9,g9\nf7.wav,,8,g3\n")
    findings = check(manifest(path=tmp_path / "m.csv"))
    assert "text" not in findings.extents
    assert [(finding.kind, finding.where) for finding in findings.problems] == [("class of one group", ["g0"])]
    notes = {note.kind: note.text for note in findings.notes}
    assert set(notes) == {"not placed", "imbalance", "unlabelled", "group of one class", "duplicate"}
    assert "often has 7 clips, rare has 1" in notes["imbalance"] and "1 of 9" in notes["unlabelled"]
    alone = check(Corpus([clip(voice(tmp_path / f"l{i}.wav", i), f"l{i}", "ab"[i % 2]) for i in range(4)], {"y": ["a", "b"]}))
    assert [note.kind for note in alone.notes] == ["no groups"] and alone.problems == []


def test_json_lines_and_progress(tmp_path):
    ticks = []
    clips = [*fine(tmp_path), *(clip(tmp_path / f"gone{i}.wav", "g0") for i in range(12))]
    findings = check(corpus(*clips), advance=lambda: ticks.append(1))
    assert len(ticks) == 20
    parsed = json.loads(json.dumps(findings.to_json()))
    assert parsed["problems"][0]["kind"] == "unreadable" and parsed["extents"]["y"]["a"]["clips"] == 16
    lines = findings.lines()
    assert "problem: unreadable (12)" in lines and "  … and 4 more" in lines and not any("\n" in line for line in lines)
    assert "  a: 16 clips, 4 s in all, median 1.00 s, 1.00 to 1.00 s" in lines


@pytest.mark.skipif(not (SHARED / "ravdess" / "Actor_07").is_dir(), reason=f"no RAVDESS at {SHARED}")
def test_real_speech_has_one_known_copy():
    whole = ravdess(root=SHARED / "ravdess", media=["audio"])
    some = Corpus([clip for clip in whole.clips if clip.group in ("06", "07")], whole.classes)
    findings = check(some)
    assert findings.problems == []
    assert [note.where for note in findings.notes] == [["01-03-01-02-01-07", "01-03-01-02-02-07"]]
