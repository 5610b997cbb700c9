import os
import shutil
from pathlib import Path

import pytest

from crossfade.clip import UserError
from crossfade.data.ravdess import RAVDESS_FOLDS, ravdess

REAL = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "ravdess"
NAMES = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def speech(actors: int = 2) -> list[str]:
    fields = [f"01-{emotion:02d}-01-01-01-{actor:02d}" for actor in range(1, actors + 1) for emotion in range(1, 9)]
    return [f"Actor_{key[-2:]}/{name}" for key in fields for name in (f"03-{key}.wav", f"02-{key}.mp4")]


def test_names_become_labels_groups_and_pairs(tmp_path):
    corpus = ravdess(root=touch(tmp_path, *speech()))
    assert corpus.classes == {"emotion": NAMES} and corpus.skipped == [] and len(corpus.clips) == 16
    clip = next(clip for clip in corpus.clips if clip.id == "01-06-01-01-01-02")
    assert (clip.labels, clip.group) == ({"emotion": "fearful"}, "02")
    assert clip.media["audio"].name == "03-01-06-01-01-01-02.wav" and clip.media["video"].name == "02-01-06-01-01-01-02.mp4"


def test_four_classes_as_the_reference_groups_them(tmp_path):
    corpus = ravdess(root=touch(tmp_path, *speech(1)), classes=4)
    assert corpus.classes["emotion"] == ["neutral/calm", "positive", "negative", "surprise"]
    found = [corpus.classes["emotion"].index(clip.labels["emotion"]) for clip in corpus.clips]
    assert found == [0, 0, 1, 2, 2, 2, 2, 3]


def test_picture_with_sound_only_where_picture_alone_is_absent(tmp_path):
    touch(tmp_path, *speech(1), "01-01-02-01-01-01-01.mp4", "01-01-02-02-01-01-01.MP4", "deep/er/03-01-02-02-01-01-01.WAV")
    files = {clip.id: clip.media for clip in ravdess(root=tmp_path).clips}
    assert files["01-02-01-01-01-01"]["video"].name.startswith("02-")
    assert files["01-02-02-01-01-01"]["video"].name.startswith("01-") and "audio" in files["01-02-02-01-01-01"]


def test_half_a_pair_is_kept_and_counted(tmp_path):
    touch(tmp_path, *speech(1), "03-01-03-02-01-01-09.wav", "03-01-03-02-02-01-09.wav", "02-01-03-02-01-02-09.mp4")
    corpus = ravdess(root=tmp_path)
    assert len(corpus.clips) == 11
    assert [(file, why.split(":")[0]) for file, why in corpus.skipped] == [(str(tmp_path), "note")] * 2
    assert "1 of 11 clips have no audio" in corpus.skipped[0][1] and "2 of 11 clips have no video" in corpus.skipped[1][1]
    assert all(set(clip.media) == {"audio"} for clip in ravdess(root=tmp_path, media=["audio"]).clips)
    assert ravdess(root=tmp_path, media=["audio"]).skipped == []


def test_what_does_not_fit_is_named_with_why(tmp_path):
    wrong = ["03-01-09-01-01-01-01.wav", "02-01-01-01-01-01-01.wav", "notes.txt", "03-01-01-01-01-01-25.wav", "take 1.mp4"]
    touch(tmp_path, *speech(1), *wrong, ".hidden.wav", "copy/03-01-01-01-01-01-01.wav")
    skipped = {Path(file).relative_to(tmp_path).as_posix(): why for file, why in ravdess(root=tmp_path).skipped}
    assert set(skipped) == {*wrong, "copy/03-01-01-01-01-01-01.wav"}
    assert "modality 02" in skipped[wrong[1]] and "MM-VC-EE" in skipped[wrong[0]] and ".txt" in skipped["notes.txt"]
    assert "same name as" in skipped["copy/03-01-01-01-01-01-01.wav"]


def test_song_is_left_out_unless_asked_for(tmp_path):
    touch(tmp_path, *speech(1), "03-02-03-01-01-01-01.wav")
    assert ravdess(root=tmp_path).skipped == [] and len(ravdess(root=tmp_path).clips) == 8
    assert [clip.id for clip in ravdess(root=tmp_path, vocal_channel=2, media=["audio"]).clips] == ["02-03-01-01-01-01"]
    assert len(ravdess(root=tmp_path, vocal_channel=None).clips) == 9


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"root": "nowhere"}, "is not a folder"),
        ({"vocal_channel": 2}, "no clip below"),
        ({"media": ["picture"]}, "not in RAVDESS"),
        ({"media": ["audio", "video"]}, "no video"),
    ],
)
def test_errors_are_one_line_and_say_what_would_be_right(tmp_path, options, says):
    touch(tmp_path, "03-01-01-01-01-01-01.wav")
    with pytest.raises(UserError, match=says) as error:
        ravdess(**{"root": tmp_path} | options)
    assert "\n" not in str(error.value)


def test_published_folds_hold_each_actor_once():
    assert sorted(actor for fold in RAVDESS_FOLDS for actor in fold) == [f"{n:02d}" for n in range(1, 25)]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no RAVDESS at {REAL}")
def test_real_speech(tmp_path):
    corpus = ravdess(root=REAL, media=["audio"])
    assert len(corpus.clips) == 480 and corpus.skipped == [] and {clip.group for clip in corpus.clips} == {f"{n:02d}" for n in range(1, 9)}
    assert sum(clip.labels["emotion"] == "neutral" for clip in corpus.clips) == 32
    moved = shutil.copytree(REAL / "Actor_01", tmp_path / "elsewhere")
    there = {clip.id for clip in corpus.clips if clip.group == "01"}
    assert {clip.id for clip in ravdess(root=moved, media=["audio"]).clips} == there
