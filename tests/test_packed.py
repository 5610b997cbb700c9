"""Files of many pictures: against what wrote them or another reader; damaged, mislabelled and hostile ones against their reason."""

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from crossfade.clip import Unreadable
from crossfade.data.packed import packed_labels, packed_names, packed_picture, packed_pictures

SHARED = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 5, 6), dtype=np.uint8)
CLASSES = RNG.integers(0, 10, 7).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (7, 3072), dtype=np.uint8)


def idx_bytes(values: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, kind, values.ndim, *values.shape) + values.tobytes()


def write(path: Path, content: bytes, zipped: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def batch(**more: object) -> dict[bytes, object]:
    named = {key.encode(): value for key, value in more.items()}
    return {b"batch_label": b"training batch 1 of 5", b"data": COLOUR, b"filenames": [b"a.png"] * 7} | named


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_whatever_its_name(tmp_path, zipped):
    one = write(tmp_path / "pictures.csv", idx_bytes(GREY), zipped)
    two = write(tmp_path / "labels.png", idx_bytes(CLASSES), zipped)
    np.testing.assert_array_equal(packed_pictures(one), GREY)
    np.testing.assert_array_equal(packed_labels(two), CLASSES)
    np.testing.assert_array_equal(packed_picture(one, 6), GREY[6])
    assert packed_pictures(one) is packed_pictures(one) and packed_pictures(one).dtype == np.uint8
    with pytest.raises(Unreadable, match=r"pictures.csv: holds 7 pictures, so none of number 7 \(counted from 0\)"):
        packed_picture(one, 7)


def test_a_plain_file_is_mapped_and_a_changed_one_read_anew(tmp_path):
    path = write(tmp_path / "a", idx_bytes(GREY))
    assert isinstance(packed_pictures(path).base, np.memmap)
    write(path, idx_bytes(GREY[:3]))
    assert len(packed_pictures(path)) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (idx_bytes(GREY)[:-1], "declares 7 × 5 × 6 = 210 values, only 209 of them are there"),
        (idx_bytes(GREY) + b"x", "there are more"),
        (idx_bytes(GREY)[:9], "its header is not whole"),
        (b"\0\0", "an IDX file of type 0xff"),
        (idx_bytes(GREY.astype(">f4"), 0x0D), "type 0x0d with 3 dimensions; pictures are 0x08 with 3"),
        (idx_bytes(GREY[0]), "type 0x08 with 2 dimensions"),
        (idx_bytes(GREY[:0]), "it holds nothing"),
        (idx_bytes(CLASSES), "holds labels, not pictures"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "only 0 of them are there|so small a file cannot hold them"),
        (b"\x89PNG\r\n", "is not an IDX file"),
        (b"1,2,3\n", r"is not an IDX file.*a table of 3 columns"),
        (b"1,2,x\n", r"is not an IDX file.*could not convert"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_no_file_of_pictures(tmp_path, content, reason, zipped):
    if zipped and not content:
        reason = "is not an IDX file"
    with pytest.raises(Unreadable, match=reason) as error:
        packed_pictures(write(tmp_path / "a", content, zipped))
    assert "\n" not in str(error.value) and error.value.path == str(tmp_path / "a")


def test_damaged_zips_missing_files_and_pictures_for_labels(tmp_path):
    whole = gzip.compress(idx_bytes(RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8)))
    for hurt in (whole[: len(whole) // 2], whole[:5], whole[:-6] + b"abcdef", whole[:40] + b"\0" * 40 + whole[80:]):
        with pytest.raises(Unreadable, match="truncated or damaged"):
            packed_pictures(write(tmp_path / "a.gz", hurt))
    with pytest.raises(Unreadable, match="no such file"):
        packed_pictures(tmp_path / "none")
    with pytest.raises(Unreadable, match="is a directory"):
        packed_pictures(tmp_path)
    with pytest.raises(Unreadable, match="holds no fine labels; it holds pictures alone"):
        packed_labels(write(tmp_path / "b", idx_bytes(GREY)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_cifar_batches_of_every_protocol(tmp_path, protocol, order):
    labels = list(map(int, CLASSES))
    content = batch(data=np.array(COLOUR, order=order), labels=labels)
    path = write(tmp_path / "data_batch_1", pickle.dumps(content, protocol=protocol))
    pictures = packed_pictures(path)
    assert pictures.shape == (7, 32, 32, 3) and type(pictures) is np.ndarray
    np.testing.assert_array_equal(pictures[2, 4, 9], [COLOUR[2, 4 * 32 + 9], COLOUR[2, 1024 + 4 * 32 + 9], COLOUR[2, 2048 + 4 * 32 + 9]])
    assert packed_labels(path).tolist() == labels


def test_cifar_as_python_2_wrote_it(tmp_path):
    """Text is bytes, and NumPy lies where it did then."""
    raw = pickle.dumps(batch(fine_labels=[1] * 7, coarse_labels=[0] * 7), protocol=2).replace(b"numpy._core", b"numpy.core")
    path = write(tmp_path / "train", raw)
    assert packed_labels(path).tolist() == [1] * 7 and packed_labels(path, "coarse").tolist() == [0] * 7
    assert packed_pictures(path).shape == (7, 32, 32, 3)


def test_class_names(tmp_path):
    meta = write(tmp_path / "meta", pickle.dumps({b"fine_label_names": [b"apple", b"bee"], "coarse_label_names": ["food"]}, protocol=2))
    assert packed_names(meta) == ["apple", "bee"] and packed_names(meta, "coarse") == ["food"]
    with pytest.raises(Unreadable, match="holds no fine class names"):
        packed_names(write(tmp_path / "other", pickle.dumps({"x": 1})))


class Runs:
    """Pickled, it asks for a function to be called."""

    def __init__(self, function, *given):
        self.call = function, given

    def __reduce__(self):
        return self.call


PROTO, STOP = b"\x80\x02", b"."
CHANGES = PROTO + b"cnumpy\ndtype\n}(X\x05\x00\x00\x00_makeK\x01ub" + STOP  # a state for the function itself


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({"data": Runs(os.system, "touch ran-by-a-pickle")}), r"it asks for (posix|nt)\.system, which no picture file needs"),
        (pickle.dumps({"data": Runs(eval, "1")}), r"it asks for (__builtin__|builtins)\.eval"),
        (pickle.dumps({"data": Path("x")}), "it asks for pathlib"),
        (CHANGES, "not a plain pickle"),
        (pickle.dumps(batch(data=COLOUR.astype(object))), "an array of 'O8', not of uint8"),
        (pickle.dumps(batch(data=COLOUR.astype(np.int64))), "not of uint8"),
        (pickle.dumps(batch(data=[1, 2])), "a pickle without CIFAR's pictures"),
        (pickle.dumps(batch(data=COLOUR[:, :99])), "a pickle without CIFAR's pictures"),
        (pickle.dumps(batch(labels=[1] * 6)), "holds 7 pictures but 6 fine labels"),
        (pickle.dumps(batch(labels=["a"] * 7)), "not a list of class numbers"),
        (pickle.dumps([1]), "a pickle of a list, not of a dict"),
        (pickle.dumps(batch())[:-100], "not a plain pickle as CIFAR's are"),
        (PROTO + b"r\xff\xff\xff\x7f" + STOP, "not a plain pickle"),
    ],
)
def test_pickles_that_hold_anything_else_are_refused(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unreadable, match=reason) as error:
        packed_pictures(write(tmp_path / "data_batch_1", content))
    assert "\n" not in str(error.value) and not Path("ran-by-a-pickle").exists()


def test_an_array_of_another_size_than_its_bytes_is_refused(tmp_path):
    raw = pickle.dumps(batch(), protocol=2)
    lie = raw.replace(b"K\x07M\x00\x0c", b"K\x09M\x00\x0c")
    assert lie != raw
    with pytest.raises(Unreadable, match="whose size is not that of its bytes"):
        packed_pictures(write(tmp_path / "a", lie))


def test_nothing_that_is_damaged_gets_further_than_its_name(tmp_path):
    whole = pickle.dumps(batch(labels=[1] * 7), protocol=2)
    for number in range(150):
        content = bytearray(whole)
        for place in RNG.integers(0, 250, 3):
            content[place] = RNG.integers(0, 256)
        try:
            packed_pictures(write(tmp_path / str(number), bytes(content)))
        except Unreadable as error:
            assert "\n" not in str(error)


def test_scikit_learns_digits_without_loading_them_twice():
    import sklearn.datasets

    path = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
    grey, digit = sklearn.datasets.load_digits(return_X_y=True)
    scaled = np.floor(np.asarray(grey) * 255 / 16 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(packed_pictures(path).reshape(-1, 64), scaled)
    np.testing.assert_array_equal(packed_labels(path), digit)


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason=f"no MNIST at {SHARED}")
def test_mnist_as_torchvision_reads_it(tmp_path):
    from torchvision.datasets.mnist import read_image_file, read_label_file

    for name, read, ours in (("images-idx3", read_image_file, packed_pictures), ("labels-idx1", read_label_file, packed_labels)):
        zipped = SHARED / "mnist" / f"t10k-{name}-ubyte.gz"
        plain = write(tmp_path / name, gzip.decompress(zipped.read_bytes()))
        np.testing.assert_array_equal(ours(zipped), read(str(plain)).numpy())
        np.testing.assert_array_equal(ours(plain), ours(zipped))
