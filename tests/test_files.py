from pathlib import Path

import pytest

from crossfade.clip import Corpus, UserError, classes_in
from crossfade.data.files import manifest, tree


def table(folder: Path, text: str | bytes, *files: str, name: str = "m.csv") -> Path:
    for file in files or ("a.wav", "b.wav"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"")
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_column(tmp_path):
    text = "audio,video,group,domain,split,start,end,id,word,mood\na.wav,v.mp4,ann,clinic,dev,0.5,2,one,10,glad\nb.wav,,bob,,,,,two,9,\n"
    corpus = manifest(path=table(tmp_path, text, "a.wav", "b.wav", "v.mp4"))
    one, two = corpus.clips
    assert one.media == {"audio": tmp_path / "a.wav", "video": tmp_path / "v.mp4"} and one.labels == {"word": "10", "mood": "glad"}
    assert (one.id, one.group, one.domain, one.split, one.span) == ("one", "ann", "clinic", "val", (0.5, 2.0))
    assert (two.media, two.labels, two.span) == ({"audio": tmp_path / "b.wav"}, {"word": "9"}, (0.0, None))
    assert corpus.classes == {"word": ["9", "10"], "mood": ["glad"]} and corpus.skipped == []


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_spreadsheet_habits(tmp_path, delimiter, newline):
    lines = [["Audio", "情绪", "note"], ["录音/开心 1.wav", "开心", '"one, two; ""three"""'], ["", "", ""], ["b.wav", "悲伤", "x"]]
    text = "\ufeff" + newline.join(delimiter.join(line) for line in lines) + newline
    corpus = manifest(path=table(tmp_path, text, "录音/开心 1.wav", "b.wav"))
    assert [clip.labels["情绪"] for clip in corpus.clips] == ["开心", "悲伤"] and corpus.clips[0].labels["note"] == 'one, two; "three"'
    assert corpus.clips[0].media["audio"].is_file() and corpus.clips[0].id == "录音/开心 1.wav"


def test_windows_paths_other_root_and_chosen_columns(tmp_path):
    (tmp_path / "lists").mkdir()
    path = table(tmp_path / "lists", "audio,image,y,z\nsub\\a.wav,p.png,1,2\n", "x")
    table(tmp_path / "media", "", "sub/a.wav", "p.png")
    corpus = manifest(path=path, root=tmp_path / "media", media=["audio"], targets=["z"])
    assert corpus.clips[0].media == {"audio": tmp_path / "media" / "sub" / "a.wav"}
    assert corpus.clips[0].labels == {"z": "2"} and list(corpus.classes) == ["z"]


def test_spans_of_a_file_share_its_group_and_have_names_of_their_own(tmp_path):
    corpus = manifest(path=table(tmp_path, "audio,y,start,end\na.wav,1,0,1.5\na.wav,2,1.5,\na.wav,2,1.5,\nb.wav,1,,\n"))
    assert [clip.id for clip in corpus.clips] == ["a.wav@0-1.5", "a.wav@1.5-#row3", "a.wav@1.5-#row4", "b.wav"]
    assert [clip.group for clip in corpus.clips] == ["a.wav"] * 3 + ["b.wav"]
    assert len(corpus.skipped) == 1 and corpus.skipped[0][1].startswith("note: 4 of 4 rows have no group")


def test_missing_files_are_listed_and_the_rest_is_used(tmp_path):
    text = "audio,video,y,group\na.wav,gone.mp4,1,g\ngone.wav,,1,g\n,,2,g\n"
    corpus = manifest(path=table(tmp_path, text))
    assert [clip.media for clip in corpus.clips] == [{"audio": tmp_path / "a.wav"}]
    assert [Path(file).name for file, _ in corpus.skipped] == ["gone.mp4", "gone.wav", "row 4"]
    assert "kept without" in corpus.skipped[0][1] and "left out" in corpus.skipped[1][1]


def test_a_name_given_in_the_id_column_is_kept_unless_it_is_not_unique(tmp_path):
    corpus = manifest(path=table(tmp_path, "audio,y,id\na.wav,1,k\nb.wav,1,k\n"))
    assert [clip.id for clip in corpus.clips] == ["k#row2", "k#row3"]


def test_columns_of_several_classes_are_found_and_said(tmp_path):
    text = "audio,action,kind,group\na.wav,walking|grazing| walking,x,g\nb.wav,|,,g\na.wav,,x,g\nb.wav,running,y,g\n"
    corpus = manifest(path=table(tmp_path, text))
    assert corpus.several == ("action",) and corpus.classes == {"action": ["grazing", "running", "walking"], "kind": ["x", "y"]}
    assert [clip.labels.get("action") for clip in corpus.clips] == ["grazing|walking", "|", None, "running"]
    assert [classes_in(clip.labels["action"]) for clip in corpus.clips[:2]] == [["grazing", "walking"], []]
    assert [why.partition(",")[0] for _, why in corpus.skipped] == ["note: action holds '|'"]


def test_columns_of_several_classes_are_named(tmp_path):
    path = table(tmp_path, "audio,action,kind,group\na.wav,10|9,x,g\nb.wav,,y,g\n")
    none = manifest(path=path, several=[])
    assert none.several == () and none.classes["action"] == ["10|9"] and none.skipped == []
    both = manifest(path=path, several=["kind", "action"])
    assert both.several == ("kind", "action") and both.classes == {"action": ["9", "10"], "kind": ["x", "y"]} and both.skipped == []
    only = manifest(path=path, targets=["kind"])
    assert only.several == () and only.classes == {"kind": ["x", "y"]}


def test_stored_tensors_are_media(tmp_path):
    corpus = manifest(path=table(tmp_path, "frames,Mel,y,group\na.pt,a.npy,1,g\n,b.npy,2,h\n", "a.pt", "a.npy", "b.npy"))
    assert [clip.media for clip in corpus.clips] == [{"frames": tmp_path / "a.pt", "mel": tmp_path / "a.npy"}, {"mel": tmp_path / "b.npy"}]
    assert list(corpus.classes) == ["y"]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("audio,mood\na.wav,x\n", {"targets": ["moood"]}, "did you mean 'mood'"),
        ("audio,mood\na.wav,x|y\n", {"several": ["moood"]}, "several: no column 'moood'; did you mean 'mood'"),
        ("audio,mood\na.wav,x\n", {"media": ["video"]}, "no column 'video'"),
        ("file,mood\na.wav,x\n", {}, "no media column among file, mood"),
        ("audio,mood\nno.wav,x\n", {}, r"none of the files of its 1 rows is there.*no\.wav"),
        ("audio,mood\n", {}, "no row below the header"),
        ("", {}, "the table is empty"),
        ("audio,mood\na.wav,x,extra\n", {}, "row 2 has 3 cells for 2 columns"),
        ("audio,mood,mood\na.wav,x,y\n", {}, "'mood' is there twice"),
        ("audio,start\na.wav,0\nb.wav,soon\n", {}, "row 3: start 'soon'"),
        ("audio,start\na.wav,-1\n", {}, "row 2: start '-1'"),
        ("audio,end\na.wav,nan\n", {}, "row 2: end 'nan'"),
        ("audio,start,end\na.wav,2,1\n", {}, "row 2: end 1 is not after start 2"),
        ("audio,split\na.wav,exam\n", {}, "row 2: split 'exam'"),
        ("audio,mood\na.wav,x\nb.wav,开心\n".encode("gbk"), {}, "row 3 is not UTF-8"),
    ],
)
def test_errors_are_one_line_with_the_row(tmp_path, text, options, says):
    with pytest.raises(UserError, match=says) as error:
        manifest(path=table(tmp_path, text), **options)
    assert "\n" not in str(error.value) and "m.csv" in str(error.value)


def test_no_table(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        manifest(path=tmp_path / "none.csv")


def leaves(folder: Path, *files: str, **options) -> Corpus:
    table(folder / "t", "", *files)
    (folder / "t" / "m.csv").unlink()
    return tree(root=folder / "t", **options)


def test_tree_of_classes_pairs_stems_and_sorts_numbers(tmp_path):
    corpus = leaves(
        tmp_path, "10/a.wav", "10/a.MP4", "9/b.flac", "9/b.mp3", "9/notes.txt", "9/.c.wav", ".git/x.wav", "top.wav", target="digit"
    )
    assert {clip.id: set(clip.media) for clip in corpus.clips} == {"10/a": {"audio", "video"}, "9/b.flac": {"audio"}, "9/b.mp3": {"audio"}}
    assert corpus.classes == {"digit": ["9", "10"]} and all(clip.group == clip.id and not clip.domain for clip in corpus.clips)
    assert {Path(file).name: why for file, why in corpus.skipped} == {"notes.txt": "not a media file", "top.wav": "lies in no class folder"}


def test_tree_of_domains(tmp_path):
    corpus = leaves(tmp_path, "听诊/咳嗽/1.wav", "phone/咳嗽/2.ogg", "phone/other/3.ogg")
    assert {(clip.domain, clip.labels["label"]) for clip in corpus.clips} == {("听诊", "咳嗽"), ("phone", "咳嗽"), ("phone", "other")}
    by_class = tree(root=tmp_path / "t", levels="class")
    assert {clip.labels["label"] for clip in by_class.clips} == {"听诊", "phone"}


def test_files_straight_in_a_domain_have_no_label_where_others_have_class_folders(tmp_path):
    corpus = leaves(tmp_path, "phone/cough/1.ogg", "phone/other/2.ogg", "app/3.ogg", "app/4.ogg", "top.wav")
    assert {clip.id: (clip.domain, clip.labels) for clip in corpus.clips} == {
        "phone/cough/1": ("phone", {"label": "cough"}),
        "phone/other/2": ("phone", {"label": "other"}),
        "app/3": ("app", {}),
        "app/4": ("app", {}),
    }
    assert corpus.classes == {"label": ["cough", "other"]} and tree(root=tmp_path / "t", levels="domain/class") == corpus
    assert [why for _, why in corpus.skipped] == [
        "lies in no class folder",
        "note: 2 of 4 clips have no label, for they lie straight in app, beside domains with class folders",
    ]


@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled"])
def test_a_folder_called_unlabelled_is_no_class(tmp_path, name):
    corpus = leaves(tmp_path / "a", "phone/cough/1.ogg", "phone/other/2.ogg", f"app/{name}/3.ogg")
    assert (corpus.clips[0].domain, corpus.clips[0].labels) == ("app", {}) and corpus.classes == {"label": ["cough", "other"]}
    assert [why for _, why in corpus.skipped] == ["note: 1 of 3 clips have no label, for they lie in a folder called unlabelled"]
    assert leaves(tmp_path / "b", "cat/1.png", "dog/2.png", f"{name}/3.png").classes == {"label": ["cat", "dog"]}
    assert [clip.labels for clip in leaves(tmp_path / "c", "train/cat/1.png", f"test/{name}/3.png").clips] == [{}, {"label": "cat"}]


def test_tree_of_splits(tmp_path):
    corpus = leaves(tmp_path, "Training/cat/1.png", "training/dog/deep/2.jpg", "dev/dog/3.webp", "test/cat/4.bmp")
    assert {clip.id: (clip.split, clip.labels["label"], clip.domain) for clip in corpus.clips} == {
        "Training/cat/1": ("train", "cat", ""),
        "training/dog/deep/2": ("train", "dog", ""),
        "dev/dog/3": ("val", "dog", ""),
        "test/cat/4": ("test", "cat", ""),
    }
    assert tree(root=tmp_path / "t", levels="split/class") == corpus
    assert {clip.domain for clip in tree(root=tmp_path / "t", levels="domain/class").clips} == {"Training", "training", "dev", "test"}


def test_classes_that_are_called_like_splits_are_classes(tmp_path):
    assert {clip.labels["label"] for clip in leaves(tmp_path / "a", "train/1.png", "test/2.png").clips} == {"train", "test"}
    mixed = leaves(tmp_path / "b", "train/x/1.png", "clinic/x/2.png")
    assert {(clip.domain, clip.split) for clip in mixed.clips} == {("train", ""), ("clinic", "")}
    with pytest.raises(UserError, match=r"levels is split/class, but .* holds a folder 'clinic'; expected train, val and test"):
        tree(root=tmp_path / "b" / "t", levels="split/class")


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "jfif", "png", "gif", "tga", "pcx", "ico", "jp2", "avif", "qoi", "heic"])
def test_endings_of_pictures(tmp_path, ending):
    assert leaves(tmp_path, f"cat/a.{ending}").clips[0].media == {"image": tmp_path / "t" / "cat" / f"a.{ending}"}


def test_tree_group_pattern(tmp_path):
    corpus = leaves(tmp_path, "x/ann_1.wav", "x/ann_2.wav", "y/bob_1.wav", group_pattern=r"^([a-z]+)_")
    assert [clip.group for clip in corpus.clips] == ["ann", "ann", "bob"]


@pytest.mark.parametrize(
    ("files", "options", "says"),
    [
        (["x/a.wav", "x/y/b.wav"], {}, "different depths"),
        (["x/a.wav", "x/y/b.wav", "z/y/c.wav"], {}, "different depths"),
        (["x/a.wav", "z/y/v/c.wav"], {}, "different depths"),
        (["train/y/a.wav", "test/b.wav"], {}, "different depths"),
        (["x/a.wav", "z/b.wav"], {"levels": "domain/class"}, "no media file"),
        (["a/b/c/d.wav"], {}, "say levels"),
        (["x/notes.txt"], {}, "no media file"),
        (["top.wav"], {"levels": "class"}, "no media file"),
        (["x/a.wav"], {"group_pattern": "(q)"}, "finds no group in x/a.wav"),
        (["x/a.wav"], {"group_pattern": "a"}, "no such group"),
        (["x/a.wav"], {"group_pattern": "("}, "expected a regular expression"),
    ],
)
def test_tree_errors(tmp_path, files, options, says):
    with pytest.raises(UserError, match=says) as error:
        leaves(tmp_path, *files, **options)
    assert "\n" not in str(error.value)


def test_tree_without_a_root(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        tree(root=tmp_path / "none")


def test_a_linked_folder_is_read_and_a_ring_of_links_ends(tmp_path: Path):
    for kind in ("cat", "dog"):
        (tmp_path / "real" / kind).mkdir(parents=True)
        (tmp_path / "real" / kind / "1.wav").write_bytes(b"x")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "cat").symlink_to(tmp_path / "real" / "cat")
    (tmp_path / "corpus" / "dog").symlink_to(tmp_path / "real" / "dog")
    (tmp_path / "corpus" / "dog" / "again").symlink_to(tmp_path / "corpus")
    assert [clip.id for clip in tree(root=tmp_path / "corpus").clips] == ["cat/1", "dog/1"]


def test_stray_carriage_returns_end_a_line_too(tmp_path):
    """As `awk` leaves them where it appends a column to a table with Windows line ends."""
    (tmp_path / "clips.csv").write_bytes(b"audio,label\r,x\na.wav,cough\r,1.5\n")
    (tmp_path / "a.wav").write_bytes(b"")
    found = manifest(path=tmp_path / "clips.csv")
    assert [clip.labels for clip in found.clips] == [{"label": "cough"}]
    assert [why for _, why in found.skipped][:2] == ["names no file in audio"] * 2
