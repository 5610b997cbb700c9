"""Corpora of pictures: what lies in a folder is found whatever its kind; each thing missing or amiss has its one line."""

import gzip
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_packed import idx_bytes, write

from crossfade.clip import UserError
from crossfade.data import CORPORA, images
from crossfade.data.images import any_pictures, cifar, idx, packed_corpus, scikit_digits
from crossfade.data.inputs import clips_of
from crossfade.data.packed import is_packed, packed_picture
from crossfade.data.split import split

SHARED = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
RNG = np.random.default_rng(1)


def sets(folder: Path, names: str = "{}-{}-idx{}-ubyte", zipped: bool = False, test: str = "t10k", classes: int = 10) -> Path:
    """30 pictures to train on and 10 to test with; picture n is all n, its class n modulo the classes."""
    for split_name, count, first in (("train", 30, 0), (test, 10, 100)):
        numbers = np.arange(first, first + count)
        pictures = np.broadcast_to(numbers[:, None, None], (count, 4, 4)).astype(np.uint8)
        for what, number, values in (("images", 3, pictures), ("labels", 1, (numbers % classes).astype(np.uint8))):
            write(folder / (names.format(split_name, what, number) + ".gz" * zipped), idx_bytes(values), zipped)
    return folder


def batches(
    folder: Path, fine: str = "labels", files: tuple[str, ...] = ("data_batch_1", "data_batch_2"), test: str = "test_batch"
) -> Path:
    for number, name in enumerate((*files, test)):
        data = np.full((4, 3072), number, np.uint8)
        write(folder / name, pickle.dumps({b"data": data, fine.encode(): [0, 1, 2, 1], b"coarse_labels": [0, 1, 1, 0]}, protocol=2))
    return folder


def cifar_10(folder: Path) -> Path:
    batches(folder, files=tuple(f"data_batch_{number}" for number in range(1, 6)))
    write(folder / "batches.meta", pickle.dumps({b"label_names": [b"bird", b"ape", b"cat"]}, protocol=2))
    return folder


@pytest.mark.parametrize("names", ["{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_idx_files_as_published(tmp_path, names, zipped, below):
    sets(tmp_path / below, names, zipped)
    corpus = any_pictures(root=tmp_path)
    assert corpus.classes == {"label": [str(number) for number in range(10)]} and corpus.group_name == "picture"
    assert [clip.id for clip in corpus.clips[::29]] == ["train/00000", "train/00029"] and corpus.clips[30].id == "test/00000"
    assert [clip.split for clip in corpus.clips] == ["train"] * 30 + ["test"] * 10
    clip = corpus.clips[33]
    assert (clip.item, clip.group, clip.labels) == (3, clip.id, {"label": "3"})
    assert (packed_picture(clip.media["image"], 3) == 103).all()
    assert idx(root=tmp_path) == corpus == packed_corpus(tmp_path)


def test_a_plain_file_before_its_zip_and_no_other_names(tmp_path):
    sets(sets(tmp_path), zipped=True)
    (tmp_path / "notes-train-images.txt").write_text("x")
    assert {clip.media["image"].suffix for clip in idx(root=tmp_path).clips} == {""}


def test_class_names_of_idx_files(tmp_path):
    assert idx(root=sets(tmp_path / "mine"), classes=[*"abcdefghij"], target="kind").clips[3].labels == {"kind": "d"}
    fashion = idx(root=sets(tmp_path / "Fashion-MNIST_small"))
    assert fashion.classes["label"][0] == "T-shirt/top" and fashion.clips[9].labels == {"label": "Ankle boot"}
    below = idx(root=sets(tmp_path / "x" / "FashionMNIST" / "raw").parent)
    assert below.classes == fashion.classes and len(fashion.classes["label"]) == 10
    with pytest.raises(UserError, match="holds class 9, but 2 classes are named"):
        idx(root=tmp_path / "mine", classes=["a", "b"])


def test_only_one_part_is_split_later(tmp_path):
    sets(tmp_path)
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    clips = idx(root=tmp_path).clips
    assert {clip.split for clip in clips} == {"train"}
    found = split(clips, by="auto", target="label")
    assert len(found.train) + len(found.val) + len(found.test) == 30 and found.test


def test_what_idx_folders_lack(tmp_path):
    sets(tmp_path)
    with pytest.raises(UserError, match=r"idx\.root: .*no IDX files in .*it should hold train-images-idx3-ubyte"):
        idx(root=tmp_path / "nowhere")
    labels = tmp_path / "train-labels-idx1-ubyte"
    write(labels, idx_bytes(np.zeros(29, np.uint8)))
    with pytest.raises(UserError, match=r"holds 30 pictures, but train-labels-idx1-ubyte has 29 labels"):
        idx(root=tmp_path)
    labels.unlink()
    with pytest.raises(UserError, match="has no labels file of train"):
        idx(root=tmp_path)
    write(labels, (tmp_path / "train-images-idx3-ubyte").read_bytes())
    with pytest.raises(UserError, match="train-labels-idx1-ubyte: holds no fine labels; it holds pictures alone"):
        idx(root=tmp_path)
    for name in "AB":
        sets(tmp_path / "two" / name / "raw")
    with pytest.raises(UserError, match="holds A/raw and B/raw; name one of them"):
        idx(root=tmp_path / "two")
    sets(sets(tmp_path / "emnist", "emnist-letters-{}-{}-idx{}-ubyte", test="test"), "emnist-digits-{}-{}-idx{}-ubyte", test="test")
    with pytest.raises(UserError, match="holds files of 'emnist-digits-' and 'emnist-letters-'"):
        idx(root=tmp_path / "emnist")


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_cifar_10(tmp_path, below):
    cifar_10(tmp_path / below)
    corpus = any_pictures(root=tmp_path, target="thing")
    assert corpus.classes == {"thing": ["bird", "ape", "cat"]} and len(corpus.clips) == 24
    assert [clip.id for clip in corpus.clips[18:22]] == ["train/00018", "train/00019", "test/00000", "test/00001"]
    clip = corpus.clips[17]
    assert (clip.item, clip.media["image"].name, clip.labels) == (1, "data_batch_5", {"thing": "ape"})
    assert (packed_picture(clip.media["image"], 1) == 4).all()


def test_cifar_100(tmp_path):
    folder = batches(tmp_path / "cifar-100-python", "fine_labels", ("train",), "test")
    names = {b"fine_label_names": [b"oak", b"elm", b"cod"], b"coarse_label_names": [b"tree", b"fish"]}
    write(folder / "meta", pickle.dumps(names, protocol=2))
    assert [clip.labels["label"] for clip in cifar(root=tmp_path).clips[:4]] == ["oak", "elm", "cod", "elm"]
    coarse = cifar(root=folder, labels="coarse")
    assert [clip.labels["label"] for clip in coarse.clips[:4]] == ["tree", "fish", "fish", "tree"]
    assert coarse.classes == {"label": ["tree", "fish"]}


def test_what_cifar_folders_lack(tmp_path):
    with pytest.raises(UserError, match="no CIFAR batches in"):
        cifar(root=tmp_path)
    cifar_10(tmp_path)
    (tmp_path / "test_batch").unlink()
    with pytest.raises(UserError, match="test_batch is missing; unpack the whole archive"):
        cifar(root=tmp_path)


def test_without_a_folder_the_digits_of_scikit_learn():
    corpus = any_pictures(target="digit")
    assert corpus == scikit_digits(target="digit") and len(corpus.clips) == 1797
    assert corpus.classes == {"digit": [*"0123456789"]} and {clip.split for clip in corpus.clips} == {""}
    assert len({clip.group for clip in corpus.clips}) == 1797 and "13 people" in corpus.skipped[0][1]


def photos(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_class_folders_and_a_table(tmp_path):
    root = photos(tmp_path / "p", "train/cat/a.png", "train/dog/b.tga", "test/cat/c.jp2", "Valid/dog/d.avif", "test/dog/e.jfif")
    corpus = any_pictures(root=root, target="animal")
    assert {clip.id: clip.split for clip in corpus.clips} == {
        "Valid/dog/d": "val",
        "test/cat/c": "test",
        "test/dog/e": "test",
        "train/cat/a": "train",
        "train/dog/b": "train",
    }
    assert corpus.classes == {"animal": ["cat", "dog"]} and not any(clip.domain for clip in corpus.clips)
    (tmp_path / "m.csv").write_text("image,animal,other\np/train/cat/a.png,cat,x\np/train/dog/b.tga,dog,y\n")
    table = any_pictures(root=tmp_path / "m.csv", target="animal")
    assert table.classes == {"animal": ["cat", "dog"]} and len(table.clips) == 2


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ((), "expected class/.*besides class folders.*train-images-idx3-ubyte"),
        (("a/x.wav",), "holds no picture; expected class folders of pictures"),
        (("a/x.png", "a/b/c/y.png"), "different depths.*besides class folders"),
    ],
)
def test_folders_of_nothing_known(tmp_path, files, says):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert packed_corpus(tmp_path) is None
    with pytest.raises(UserError, match=says) as error:
        any_pictures(root=tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is no folder and no CSV"):
        any_pictures(root=tmp_path / "none")


def test_downloads_go_where_torchvision_puts_them(tmp_path, monkeypatch):
    from torchvision import datasets

    asked = []

    def fetch(root: str, download: bool):
        asked.append((root, download))
        sets(Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setattr(datasets, "FashionMNIST", fetch)
    for corpus in (any_pictures(root=tmp_path, download="FashionMNIST"), idx(root=tmp_path, download="FashionMNIST")):
        assert len(corpus.clips) == 40 and corpus.classes["label"][9] == "Ankle boot"
    assert asked == [(str(tmp_path), True)], "what is there is not fetched again"
    cifar_10(tmp_path / "cifar-10-batches-py")
    assert len(cifar(root=tmp_path, download="CIFAR10").clips) == 24 == len(any_pictures(root=tmp_path, download="CIFAR10").clips)


@pytest.mark.parametrize(("name", "folder"), [("MNIST", "MNIST/raw"), ("CIFAR10", "cifar-10-batches-py"), ("CIFAR100", "cifar-100-python")])
def test_no_network_says_which_files_and_where(tmp_path, monkeypatch, name, folder):
    from torchvision import datasets

    def refuse(root: str, download: bool):
        raise RuntimeError("Error downloading\nurlopen error")

    monkeypatch.setattr(datasets, name, refuse)
    with pytest.raises(UserError, match=rf"download: {name} could not be fetched .*network.*put .* into .*{folder}$") as error:
        any_pictures(root=tmp_path, download=name)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="needs root, the folder to put it in"):
        any_pictures(download=name)


@pytest.mark.parametrize("zipped", [False, True])
def test_each_picture_of_a_file_of_many_can_be_predicted(tmp_path, zipped):
    sets(tmp_path, zipped=zipped)
    path = tmp_path / ("t10k-images-idx3-ubyte" + ".gz" * zipped)
    photo = photos(tmp_path, "a.png") / "a.png"
    clips = clips_of([path, photo]).clips
    assert [(clip.id, clip.media, clip.item) for clip in clips[8:]] == [
        (f"{path}#00008", {"image": path}, 8),
        (f"{path}#00009", {"image": path}, 9),
        (str(photo), {"image": photo}, None),
    ]
    assert is_packed(write(tmp_path / "batch", pickle.dumps({}, protocol=2))) and not is_packed(photo) and not is_packed(tmp_path)


def test_the_table_names_them():
    assert {CORPORA["pictures"], CORPORA["idx"], CORPORA["cifar"], CORPORA["scikit_digits"]} == {any_pictures, idx, cifar, scikit_digits}


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason=f"no MNIST at {SHARED}")
def test_the_whole_of_mnist_in_no_time(tmp_path):
    started = time.process_time()
    corpus = any_pictures(root=SHARED / "mnist")
    assert time.process_time() - started < 10, "about 0.5 s on a machine of its own"
    assert len(corpus.clips) == 70_000 and sum(clip.split == "test" for clip in corpus.clips) == 10_000
    raw = gzip.decompress((SHARED / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    seventh = np.frombuffer(raw, np.uint8, 784, 16 + 7 * 784).reshape(28, 28)
    clip = corpus.clips[60_007]
    np.testing.assert_array_equal(packed_picture(clip.media["image"], clip.item or 0), seventh)
    assert (clip.id, clip.labels) == ("test/00007", {"label": "9"})


@pytest.mark.skipif(not (SHARED / "images").is_dir(), reason=f"no images at {SHARED}")
def test_real_folders_of_pictures():
    small = any_pictures(root=SHARED / "images" / "cifar10_small")
    assert len(small.classes["label"]) == 10 and {clip.split for clip in small.clips} == {"train", "test"}
    fashion = any_pictures(root=SHARED / "images" / "fashion_mnist_small")
    assert "Sneaker" in fashion.classes["label"] and len(fashion.clips) == 2500


def test_a_missing_scikit_learn_is_said(monkeypatch):
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="scikit-learn is not installed; install it, or name a folder"):
        scikit_digits()


def test_a_published_name_over_something_else(tmp_path):
    sets(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"gone")
    with pytest.raises(UserError, match="train-images-idx3-ubyte: is not an IDX file"):
        idx(root=tmp_path)
