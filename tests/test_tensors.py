"""Streams of stored tensors: bit for bit what was stored, every damaged file named, and the way through intake, loader and store."""

import pickle

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from crossfade.clip import Clip, Unreadable, UserError
from crossfade.data import STREAMS
from crossfade.data.files import manifest
from crossfade.data.inputs import clips_of
from crossfade.data.intake import Reader, take_in
from crossfade.data.loader import Loader, Samples, label_indices
from crossfade.data.streams import IMAGENET_MEAN, IMAGENET_STD
from crossfade.data.tensors import stored_frames, stored_mel
from crossfade.data.warp import flip, jitter
from crossfade.store import Store


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 4, size: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=seeded(1))


def saved_frames(folder, name="a.pt", frames: torch.Tensor | None = None):
    normalised = reference.normalize(pictures() if frames is None else frames, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.save(normalised.transpose(0, 1).contiguous(), folder / name)
    return folder / name


def saved_mel(folder, name="a.npy", shape=(8, 12)):
    np.save(folder / name, np.random.default_rng(0).random(shape, dtype=np.float32))
    return folder / name


def clip(**media) -> Clip:
    return Clip("c", media, {}, "g")


def test_the_originals_shapes(tmp_path):
    assert STREAMS["stored_frames"] is stored_frames and STREAMS["stored_mel"] is stored_mel
    torch.save(torch.randn(3, 16, 224, 224, generator=seeded()), tmp_path / "v.pt")
    np.save(tmp_path / "v.npy", np.linspace(0, 1, 128 * 128, dtype=np.float32).reshape(128, 128))
    frames, mel = stored_frames(), stored_mel()
    assert frames.spec.shape == (16, 3, 224, 224) and (frames.spec.mean, frames.spec.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert mel.spec.shape == (1, 128, 128) and mel.spec.rate is None
    shown, seen = frames.finish(frames.decode(clip(frames=tmp_path / "v.pt")))
    heard, real = mel.finish(mel.decode(clip(mel=tmp_path / "v.npy")))
    assert torch.equal(shown, torch.load(tmp_path / "v.pt").transpose(0, 1)) and shown.dtype == torch.float32
    assert torch.equal(heard, torch.from_numpy(np.load(tmp_path / "v.npy"))[None])
    assert seen.shape == (16,) and real.shape == (128,) and seen.all() and real.all()


def test_augmentations_see_pictures_and_one_change_for_all_frames(tmp_path):
    stream, path = stored_frames(count=4, size=8), saved_frames(tmp_path)
    decoded = stream.decode(clip(frames=path))
    flipped, _ = stream.finish(decoded, [flip(horizontal=1.0)], seeded())
    torch.testing.assert_close(flipped, torch.from_numpy(decoded).flip(-1), atol=1e-5, rtol=0)
    lit, _ = stream.finish(decoded, [jitter(brightness=0.4, contrast=0.0, saturation=0.0)], seeded(3))
    bright = 1 + 0.4 * (2 * torch.rand(4, generator=seeded(3))[1] - 1)
    expected = reference.normalize((pictures() * bright).clamp(0, 1), list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(lit, expected, atol=1e-5, rtol=0)
    assert np.array_equal(decoded, stream.decode(clip(frames=path))), "what was decoded is not touched"
    assert np.abs(stream.shown(decoded) / 255 - pictures().numpy()).max() <= 0.5 / 255 + 1e-6
    mel = stored_mel(mels=8, columns=12)
    assert mel.shown(mel.decode(clip(mel=saved_mel(tmp_path)))).shape == (1, 1, 8, 12)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (torch.zeros(4, 3, 8, 8), r"holds float32 \(4, 3, 8, 8\); float32 \(3, 4, 8, 8\) is right: channels, frames, height, width"),
        (torch.zeros(3, 4, 8, 8, dtype=torch.float64), "holds a tensor of float64; dense float32 is right"),
        (torch.zeros(3, 4, 8, 8, dtype=torch.uint8), "holds a tensor of uint8"),
        (torch.zeros(3, 4, 8, 8).fill_(float("nan")), "holds values that are not finite"),
        ({"video": torch.zeros(3, 4, 8, 8)}, "holds a dict; one tensor is right"),
    ],
)
def test_a_wrong_pt_is_named_and_what_would_be_right(tmp_path, content, says):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(Unreadable, match=says) as error:
        stored_frames(count=4, size=8).decode(clip(frames=tmp_path / "x.pt"))
    assert error.value.path == str(tmp_path / "x.pt")


def test_an_old_pt_of_before_the_zip_format_is_read(tmp_path):
    torch.save(torch.ones(3, 4, 8, 8), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert stored_frames(count=4, size=8).decode(clip(frames=tmp_path / "old.pt")).sum() == 3 * 4 * 64


class Evil:
    def __reduce__(self):
        return AssertionError, ("code in the file was run",)


@pytest.mark.parametrize("make", ["empty", "text", "cut", "pickle", "absent", "folder"])
@pytest.mark.parametrize("ending", ["pt", "npy"])
def test_damaged_files(tmp_path, make, ending):
    path = tmp_path / f"x.{ending}"
    good = {"pt": saved_frames, "npy": saved_mel}[ending](tmp_path).read_bytes()
    makers = {
        "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text("not a tensor"),
        "cut": lambda: path.write_bytes(good[: len(good) // 2]),
        "pickle": lambda: path.write_bytes(pickle.dumps(Evil())) if ending == "pt" else np.save(path, np.array([Evil()], dtype=object)),
        "absent": lambda: None,
        "folder": path.mkdir,
    }
    makers[make]()
    stream = {"pt": stored_frames(count=4, size=8), "npy": stored_mel(mels=8, columns=12)}[ending]
    with pytest.raises(Unreadable) as error:
        stream.decode(clip(**{stream.reads[0]: path}))
    assert error.value.path == str(path) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((12, 8), np.float32), r"holds float32 \(12, 8\); float32 \(8, 12\) is right: mels, columns"),
        (np.zeros((8, 12)), "holds float64"),
        (np.full((8, 12), np.inf, np.float32), "not finite"),
    ],
)
def test_a_wrong_npy(tmp_path, array, says):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(Unreadable, match=says):
        stored_mel(mels=8, columns=12).decode(clip(mel=tmp_path / "x.npy"))


def test_a_manifest_of_tensors_through_intake_and_loader(tmp_path):
    for name in "abc":
        saved_frames(tmp_path, f"{name}.pt", pictures() * (ord(name) - 96) / 3)
        saved_mel(tmp_path, f"{name}.npy")
    (tmp_path / "c.pt").write_bytes(b"junk")
    (tmp_path / "m.csv").write_text("frames,mel,y\na.pt,a.npy,u\nb.pt,,v\nc.pt,c.npy,u\n")
    corpus = manifest(path=tmp_path / "m.csv")
    assert [set(each.media) for each in corpus.clips] == [{"frames", "mel"}, {"frames"}, {"frames", "mel"}]
    reader = Reader({"video": stored_frames(count=4, size=8), "audio": stored_mel(mels=8, columns=12)}, Store(tmp_path / "store"))
    intake = take_in(corpus.clips, reader)
    assert list(intake.streams.values()) == [("video", "audio"), ("video",), ("audio",)]
    assert intake.failed == [(str(tmp_path / "c.pt"), "is not a tensor written by torch.save, or is damaged")]
    assert not (tmp_path / "store").exists(), "what is stored ready is not stored again"
    loader = Loader(Samples(intake.clips, intake.streams, reader), {"y": label_indices(intake.clips, "y", corpus.classes["y"])}, batch=4)
    batches = {tuple(batch["index"].tolist()): batch for batch in loader.in_order()}
    assert set(batches) == {(0,), (1,), (2,)}
    both = batches[(0,)]
    assert both["video"].shape == (1, 4, 3, 8, 8) and both["video.mask"].all() and both["audio"].shape == (1, 1, 8, 12)
    assert torch.equal(both["video"][0], torch.load(tmp_path / "a.pt").transpose(0, 1))


def test_tensors_named_for_prediction(tmp_path):
    corpus = clips_of([saved_frames(tmp_path), saved_mel(tmp_path)])
    assert [set(each.media) for each in corpus.clips] == [{"frames"}, {"mel"}]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: stored_frames(count=0), "stored_frames: count 0"),
        (lambda: stored_frames(std=(1.0, 1.0)), "three numbers each"),
        (lambda: stored_mel(columns=0), "stored_mel: mels 128, columns 0"),
    ],
)
def test_options_that_cannot_be(build, says):
    with pytest.raises(UserError, match=says):
        build()


def test_no_stretch_of_time_is_taken_of_a_tensor(tmp_path):
    """It was the whole tensor each time, however many segments were asked for."""
    piece = Clip("c#1", {"frames": saved_frames(tmp_path)}, {}, "g", span=(1.0, 2.0))
    with pytest.raises(UserError, match="is a stored tensor: no stretch of time can be taken of it"):
        stored_frames(count=4, size=8).decode(piece)
