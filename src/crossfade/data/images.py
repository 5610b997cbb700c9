"""Corpora of pictures: IDX files such as MNIST's, CIFAR's python batches, scikit-learn's digits, or whatever of these lies in a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

from crossfade.clip import Clip, Corpus, UserError
from crossfade.data.files import classes_of, manifest, tree
from crossfade.data.packed import packed_labels, packed_names, packed_pictures

IDX_NAME = re.compile(r"(.+[-_])?(train|t10k|test)[-_](images|labels)[-.]idx[13]-ubyte(\.gz)?", re.IGNORECASE)
IDX_FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (each plain or .gz)"
CIFAR_FILES = {
    "cifar-10": {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"], "names": ["batches.meta"]},
    "cifar-100": {"train": ["train"], "test": ["test"], "names": ["meta"]},
}
# Published class names, for folders so named; torchvision's raw/ lies below a folder of its class's name.
KNOWN_CLASSES = {
    "fashionmnist": ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    "kmnist": ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"],
}
PERSONS = "note: scikit-learn's 1,797 digits were written by 13 people it does not name, so one hand may be on both sides of a split"


class Pair(NamedTuple):
    """Files that together hold labelled pictures of one split."""

    split: str
    pictures: Path
    labels: Path


def any_pictures(
    *,
    root: Path | None = None,
    target: str = "label",
    download: Literal["MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100"] | None = None,
) -> Corpus:
    """Whatever pictures there are: no `root`, the 1,797 digits that ship with scikit-learn; a CSV, as `manifest`; a folder, by what
    lies in it: IDX files as `idx`, CIFAR's batches as `cifar`, else class folders as `tree`.

    `download` lets torchvision fetch a set into `root` where it is not there yet. Raises UserError.
    """
    if download:
        return _downloaded(root, target, download)
    if root is None:
        return scikit_digits(target=target)
    if Path(root).is_file():
        return manifest(path=root, targets=[target], media=["image"])
    return packed_corpus(root, target=target) or _class_folders(Path(root), target)


def packed_corpus(root: Path, *, target: str = "label") -> Corpus | None:
    """The folder's IDX files or CIFAR batches; None where it has neither. Raises UserError."""
    if _idx_folders(Path(root)):
        return idx(root=root, target=target)
    return cifar(root=root, target=target) if _cifar_folders(Path(root)) else None


def idx(
    *,
    root: Path,
    target: str = "label",
    classes: list[str] | None = None,
    download: Literal["MNIST", "FashionMNIST", "KMNIST"] | None = None,
) -> Corpus:
    """IDX files under their published names (`train-images-idx3-ubyte` …, `t10k-…` is test; plain or .gz) in `root` or where
    torchvision puts them below it. Each picture is a group of its own.

    `classes` names the classes in order; by default the published names of Fashion-MNIST and KMNIST where `download` or the
    folder's own name says so (`fashion_mnist_small`, `FashionMNIST/raw`), else the numbers that occur. Raises UserError.
    """
    if download:
        return _downloaded(root, target, download, classes)
    folder = _only(Path(root), _idx_folders(Path(root)), f"idx.root: no IDX files in {root}; it should hold {IDX_FILES}")
    pairs = _idx_pairs(folder)
    return _corpus(pairs, target, classes or _known_classes(folder), "fine")


def cifar(
    *,
    root: Path,
    target: str = "label",
    labels: Literal["fine", "coarse"] = "fine",
    download: Literal["CIFAR10", "CIFAR100"] | None = None,
) -> Corpus:
    """CIFAR-10 or CIFAR-100 as python batches, in `root` or a folder `cifar-10-batches-py` or `cifar-100-python` below it.

    Class names come from its meta file; `labels` coarse are the 20 superclasses of CIFAR-100. Each picture is a group of its own.
    Raises UserError.
    """
    if download:
        return _downloaded(root, target, download)
    missing = f"cifar.root: no CIFAR batches in {root}; it should hold cifar-10-batches-py or cifar-100-python, unpacked"
    folder = _only(Path(root), _cifar_folders(Path(root)), missing)
    files = next(files for files in CIFAR_FILES.values() if _has_all(folder, files["train"]))
    pairs = [Pair(split, folder / name, folder / name) for split in ("train", "test") for name in files[split]]
    lost = [pair.pictures for pair in pairs if not pair.pictures.is_file()] + [
        folder / n for n in files["names"] if not (folder / n).is_file()
    ]
    if lost:
        raise UserError(f"cifar.root: {lost[0]} is missing; unpack the whole archive")
    return _corpus(pairs, target, packed_names(folder / files["names"][0], labels), labels)


def scikit_digits(*, target: str = "label") -> Corpus:
    """The 1,797 handwritten digits of 8 × 8 pixels that ship with scikit-learn; no split is given, each picture is its own group."""
    found = find_spec("sklearn")
    folders = found.submodule_search_locations if found else None
    if not folders:
        raise UserError("scikit_digits: scikit-learn is not installed; install it, or name a folder of pictures with --data")
    path = Path(folders[0]) / "datasets" / "data" / "digits.csv.gz"
    corpus = _corpus([Pair("", path, path)], target, None, "fine")
    return Corpus(corpus.clips, corpus.classes, [(str(path), PERSONS)], corpus.group_name)


# ---- packed files to clips


def _corpus(pairs: Sequence[Pair], target: str, names: Sequence[str] | None, labels: str) -> Corpus:
    """Every picture of every pair a clip; `names` in the order of the class numbers, None = the numbers themselves."""
    numbers = {split: count() for split in {pair.split for pair in pairs}}
    clips = [clip for pair in pairs for clip in _clips(pair, target, names, labels, numbers[pair.split])]
    classes = {target: [*names]} if names else classes_of(clips, [target])
    return Corpus(clips, classes, group_name="picture")


def _clips(pair: Pair, target: str, names: Sequence[str] | None, labels: str, number: count[int]) -> list[Clip]:
    classes = packed_labels(pair.labels, labels)
    many = len(packed_pictures(pair.pictures))
    if many != len(classes):
        raise UserError(
            f"{pair.pictures}: holds {many:,} pictures, but {pair.labels.name} has {len(classes):,} labels; they do not belong together"
        )
    if names and classes.max() >= len(names):
        raise UserError(f"{pair.labels}: holds class {classes.max()}, but {len(names)} classes are named; name one for each number from 0")
    said: dict[int, dict[str, str]] = {place: {target: names[place] if names else str(place)} for place in set(map(int, classes))}
    media, place = {"image": pair.pictures}, pair.split or "digit"
    ids = (f"{place}/{next(number):05d}" for _ in range(many))
    return [
        Clip(id, media, said[label], id, split=pair.split, item=item)
        for item, (id, label) in enumerate(zip(ids, classes.tolist(), strict=True))
    ]


# ---- what lies in a folder


def _idx_folders(root: Path) -> list[Path]:
    """`root`, else the folders where torchvision keeps such files below it."""
    places = [[root], [root / "raw"], sorted(root.glob("*/raw"))]
    return next((found for folders in places if (found := [folder for folder in folders if _idx_files(folder)])), [])


def _idx_files(folder: Path) -> dict[tuple[str, str, str], Path]:
    """(whose, split, what) -> file, of those that hold pictures or labels; where there are both, the plain file and not the .gz."""
    files = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
    named = [(match, path) for path in files if (match := IDX_NAME.fullmatch(path.name)) and path.is_file()]
    return {(match[1] or "", "train" if match[2].lower() == "train" else "test", match[3].lower()): path for match, path in named}


def _idx_pairs(folder: Path) -> list[Pair]:
    files = _idx_files(folder)
    owners = sorted({owner for owner, _, _ in files})
    if len(owners) > 1:
        raise UserError(f"idx.root: {folder} holds files of {' and '.join(map(repr, owners))}; keep each set in a folder of its own")
    held = [split for split in ("train", "test") if any(found == split for _, found, _ in files)]
    for split in held:
        for what in ("images", "labels"):
            if (owners[0], split, what) not in files:
                raise UserError(f"idx.root: {folder} has no {what} file of {split}; it should hold {IDX_FILES}")
    return [Pair(split, files[owners[0], split, "images"], files[owners[0], split, "labels"]) for split in held]


def _cifar_folders(root: Path) -> list[Path]:
    """`root`, else folders below it, in which all files of the training part of a CIFAR are."""
    places = [root, root / "cifar-10-batches-py", root / "cifar-100-python"]
    here = [folder for folder in places if any(_has_all(folder, files["train"] + files["names"][:1]) for files in CIFAR_FILES.values())]
    return here[:1] if here[:1] == [root] else here


def _has_all(folder: Path, names: Sequence[str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _only(root: Path, folders: list[Path], missing: str) -> Path:
    if not folders:
        raise UserError(missing)
    if len(folders) > 1:
        raise UserError(f"{root}: holds {' and '.join(str(folder.relative_to(root)) for folder in folders)}; name one of them")
    return folders[0]


def _known_classes(folder: Path) -> list[str] | None:
    """By the folder's own name, or that of torchvision's folder around raw/; of no other folder, whose name may speak of anything."""
    name = folder.parent.name if folder.name == "raw" else folder.name
    plain = re.sub("[^a-z]", "", name.lower())
    return next((classes for known, classes in KNOWN_CLASSES.items() if known in plain), None)


def _class_folders(root: Path, target: str) -> Corpus:
    if not root.is_dir():
        raise UserError(f"pictures.root: {root} is no folder and no CSV")
    try:
        corpus = tree(root=root, target=target)
    except UserError as error:
        raise UserError(f"{error}; besides class folders, {root} may hold {IDX_FILES}, or CIFAR's python batches") from None
    if not any("image" in clip.media for clip in corpus.clips):
        raise UserError(
            f"pictures.root: {root} holds no picture; expected class folders of pictures, {IDX_FILES}, or CIFAR's python batches"
        )
    return corpus


# ---- from the network, by torchvision


def _downloaded(root: Path | None, target: str, download: str, classes: list[str] | None = None) -> Corpus:
    """The set from where torchvision keeps it below `root`, fetched first where it is not there."""
    if root is None:
        raise UserError(f"download: {download} needs root, the folder to put it in")
    folder, read = _places(Path(root), target, classes)[download]
    if not (_idx_folders(folder) or _cifar_folders(folder)):
        _fetch(Path(root), download, folder)
    return read(folder)


def _places(root: Path, target: str, classes: list[str] | None) -> dict[str, tuple[Path, Callable[[Path], Corpus]]]:
    """download -> the folder that torchvision uses, and who reads it."""

    def idx_files(folder: Path) -> Corpus:
        return idx(root=folder, target=target, classes=classes)

    def batches(folder: Path) -> Corpus:
        return cifar(root=folder, target=target)

    kept = {name: (root / name / "raw", idx_files) for name in ("MNIST", "FashionMNIST", "KMNIST")}
    return kept | {"CIFAR10": (root / "cifar-10-batches-py", batches), "CIFAR100": (root / "cifar-100-python", batches)}


def _fetch(root: Path, download: str, folder: Path) -> None:
    from torchvision import datasets

    try:
        getattr(datasets, download)(str(root), download=True)
    except Exception as error:  # urllib, ssl, sockets and torchvision's own RuntimeError
        files = IDX_FILES if folder.name == "raw" else "the unpacked batches"
        why = f"{type(error).__name__}; is there a network?"
        raise UserError(f"download: {download} could not be fetched ({why}); put {files} into {folder}") from None
