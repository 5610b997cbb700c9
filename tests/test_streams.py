"""Streams against librosa and torchvision, their masks, and the face crop on real clips."""

import json
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import librosa
import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
from torch.nn.functional import interpolate

from crossfade.clip import Clip, Spec, Unreadable, UserError
from crossfade.data.augment import darken, noise_at_snr, spectrogram_masks
from crossfade.data.demo import _write_video
from crossfade.data.log_mel import log_mel
from crossfade.data.media import pictures
from crossfade.data.mel import mel_bank
from crossfade.data.pictures import cut, resize
from crossfade.data.streams import IMAGENET_MEAN, IMAGENET_STD, frames, image, waveform

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
DETECTOR = DATA / "weights" / "yunet" / "yunet_n_dynamic.onnx"
needs_data = pytest.mark.skipif(not DETECTOR.is_file(), reason=f"no real data at {DATA}")


def clip_of(path: Path, kind: str = "audio", **options) -> Clip:
    return Clip("one", {kind: path}, {}, "group", **options)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_shapes_of_the_reference():
    assert waveform().spec == Spec((48000,), rate=16000)
    assert log_mel().spec == Spec((1, 64, 301), rate=16000)
    assert frames().spec == Spec((8, 3, 112, 112), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert image().spec == Spec((1, 3, 224, 224), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert log_mel().finish(noise(48000))[0].shape == (1, 64, 301)
    assert (
        log_mel(seconds=1.3, hop=256, n_fft=512, mels=80).finish(noise(1))[0].shape
        == log_mel(seconds=1.3, hop=256, n_fft=512, mels=80).spec.shape
    )


@pytest.mark.parametrize(
    ("rate", "n_fft", "mels", "low", "high"),
    [(16000, 400, 64, 0.0, None), (44100, 2048, 128, 20.0, 16000.0), (8000, 512, 40, 50.0, 3800.0)],
)
@pytest.mark.parametrize(("scale", "norm"), [("htk", None), ("slaney", "slaney")])
def test_mel_bank_equals_librosa(rate, n_fft, mels, low, high, scale, norm):
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=mels, fmin=low, fmax=high, htk=scale == "htk", norm=norm)
    found = mel_bank(rate=rate, n_fft=n_fft, mels=mels, low=low, high=high or rate / 2, scale=scale).T.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(("scale", "norm"), [("htk", None), ("slaney", "slaney")])
@pytest.mark.parametrize("log", ["db", "natural"])
@pytest.mark.parametrize(("n_fft", "window", "hop", "power"), [(400, 400, 160, 2.0), (512, 320, 128, 1.0)])
def test_log_mel_equals_librosa(scale, norm, log, n_fft, window, hop, power):
    sound = noise(48000)
    mel = librosa.feature.melspectrogram(
        y=sound,
        sr=16000,
        n_fft=n_fft,
        win_length=window,
        hop_length=hop,
        power=power,
        n_mels=64,
        htk=scale == "htk",
        norm=norm,
        pad_mode="reflect",
    )
    expected = librosa.power_to_db(mel, top_db=None) if log == "db" else np.log(mel + 1e-9)
    found, mask = log_mel(scale=scale, log=log, n_fft=n_fft, window=window, hop=hop, power=power).finish(sound)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-3)
    assert mask.all()


@pytest.mark.parametrize(("log", "silence"), [("db", -100.0), ("natural", np.log(1e-9))])
def test_padding_comes_before_the_logarithm_with_a_mask(log, silence):
    spectrogram, mask = log_mel(log=log).finish(noise(16000))
    assert mask.sum() == 101 and mask[:101].all()
    np.testing.assert_allclose(spectrogram[..., 103:].numpy(), silence, rtol=1e-6)
    sound, real = waveform().finish(noise(16000))
    assert real.sum() == 16000 and not sound[16000:].any() and sound.shape == (48000,)


def test_decode_takes_the_first_seconds_of_the_span(tmp_path):
    path, samples = tmp_path / "a.wav", noise(16000 * 6)
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    stream = waveform()
    np.testing.assert_allclose(stream.decode(clip_of(path)), samples[:48000])
    np.testing.assert_allclose(stream.decode(clip_of(path, span=(1.0, None))), samples[16000:64000])
    np.testing.assert_allclose(log_mel().decode(clip_of(path, span=(1.0, 1.5))), samples[16000:24000])
    with pytest.raises(Unreadable, match="holds nothing"):
        stream.decode(clip_of(path, span=(1.0, 1.0)))
    with pytest.raises(UserError, match="has audio; this stream reads video"):
        frames().decode(clip_of(path))


def test_keys_hold_what_changes_decode_and_nothing_else(tmp_path):
    assert waveform().key == log_mel().key == log_mel(mels=80, scale="slaney").key != waveform(seconds=2.0).key
    assert frames().key == frames(mean=(0.5, 0.5, 0.5)).key != frames(size=96).key
    (tmp_path / "a.onnx").write_bytes(b"a")
    (tmp_path / "b.onnx").write_bytes(b"b")
    assert frames(face=tmp_path / "a.onnx").key != frames(face=tmp_path / "b.onnx").key != frames().key
    assert image().key == image(std=(0.5, 0.5, 0.5)).key == image(size=224).key
    options = [{}, {"size": 96}, {"channels": 1}, {"fit": "crop"}, {"fit": "pad"}]
    assert len({json.dumps(image(**option).key) for option in options}) == len(options)
    for stream in (waveform(), log_mel(), frames(face=tmp_path / "a.onnx"), image()):
        assert json.loads(json.dumps(stream.key)) == stream.key


def test_keys_hold_the_version_of_all_that_decodes(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"a")
    made = {stream.key["decode"]: stream.key["made"] for stream in (waveform(), frames(), image())}
    assert all({"crossfade.data.streams", "crossfade.data.media", "crossfade.data.container", "numpy"} <= set(made[kind]) for kind in made)
    assert made["sound"]["av"] == made["frames"]["av"] == av.__version__ and {"soundfile", "soxr", "crossfade.data.sound"} <= set(
        made["sound"]
    )
    assert {"torch", "crossfade.data.pictures"} <= set(made["frames"]) < set(made["image"])
    assert made["image"]["pillow"] == PIL.__version__ and made["image"]["crossfade.data.stills"]
    assert "opencv-python-headless" in frames(face=tmp_path / "a.onnx").key["made"] and "opencv-python-headless" not in made["frames"]


def test_streams_travel_to_workers():
    for stream in (waveform(), log_mel(), frames(), image()):
        again = pickle.loads(pickle.dumps(stream))
        assert again == stream and again.spec == stream.spec
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(log_mel())).finish(noise(48000))[0], log_mel().finish(noise(48000))[0])


def test_frames_are_normalised_as_torchvision_does():
    from torchvision.transforms.functional import normalize

    decoded = np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16)).astype(np.uint8)
    found, mask = frames(size=16).finish(decoded)
    torch.testing.assert_close(found, normalize(torch.from_numpy(decoded) / 255, list(IMAGENET_MEAN), list(IMAGENET_STD)))
    assert mask.all() and mask.shape == (8,)
    one, mask = image(size=16).finish(decoded[:1])
    torch.testing.assert_close(one, found[:1], rtol=0, atol=0)
    assert mask.tolist() == [True]


def test_finishing_leaves_what_is_stored_as_it_was(tmp_path):
    decoded, sound = np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16)).astype(np.uint8), noise(48000)
    before = decoded.copy(), sound.copy()
    for array in (decoded, sound):
        array.setflags(write=False)
    first = [frames(size=16).finish(decoded)[0], log_mel().finish(sound)[0], waveform().finish(sound)[0]]
    for value in first:
        value.mul_(0)
    np.testing.assert_array_equal(decoded, before[0])
    np.testing.assert_array_equal(sound, before[1])
    assert frames(size=16).finish(decoded)[0].any() and log_mel().finish(sound)[0].any()


def test_an_image_is_a_clip_of_one_frame(tmp_path):
    from torchvision.transforms.functional import resize as reference

    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8))
    picture.save(tmp_path / "a.png")
    whole = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    stream = image(size=24)
    decoded = stream.decode(clip_of(tmp_path / "a.png", "image"))
    assert np.abs(decoded[0].astype(int) - reference(whole, [24, 24], antialias=True).numpy()).max() <= 1
    found, _ = stream.finish(decoded, [darken(low=0.5, high=0.5, probability=1.0)], seeded())
    dark = torch.from_numpy(decoded).float() / 255 * 0.5
    torch.testing.assert_close(found, (dark - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1))
    with pytest.raises(UserError, match="has video; this stream reads image"):
        stream.decode(clip_of(tmp_path / "a.png", "video"))


def test_augmentations_act_in_their_domain_on_the_real_part_only():
    loud, masks = noise_at_snr(snr=(0.0,), weights=None, probability=1.0), spectrogram_masks(probability=1.0, frequency=0, time=30)
    sound, _ = waveform().finish(noise(16000), [loud, masks], seeded())
    assert not sound[16000:].any() and not np.array_equal(sound[:16000].numpy(), noise(16000))
    clean, mask = log_mel().finish(noise(16000))
    masked, _ = log_mel().finish(noise(16000), [masks], seeded())
    torch.testing.assert_close(masked[..., ~mask], clean[..., ~mask], rtol=0, atol=0)
    changed = masked != clean
    assert changed.any() and torch.allclose(masked[changed], clean[..., mask].mean())
    decoded = np.full((8, 3, 4, 4), 200, np.uint8)
    dark, _ = frames(size=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).finish(
        decoded, [darken(low=0.5, high=0.5, probability=1.0)], seeded()
    )
    assert torch.allclose(dark, torch.tensor(100 / 255)) and (decoded == 200).all()
    with pytest.raises(ValueError, match="generator"):
        waveform().finish(noise(100), [loud])


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: waveform(seconds=0), "waveform"),
        (lambda: log_mel(high=9000.0), "low < high"),
        (lambda: log_mel(window=500), "n_fft 400"),
        (lambda: log_mel(seconds=0.01), "log_mel.seconds"),
        (lambda: log_mel(floor=0.0), "log_mel.floor"),
        (lambda: frames(count=0), "frames: count 0"),
        (lambda: image(size=0), "image: size 0"),
        (lambda: image(mean=(0.5,)), "image: mean [0.5]"),
        (lambda: image(channels=1, mean=(0.5, 0.5, 0.5)), "one number each (grey)"),
        (lambda: image(std=(0.0, 1.0, 1.0)), "std above 0"),
        (lambda: frames(std=(1.0, 0.0, 1.0)), "std above 0"),
        (lambda: frames(face=Path("no/such.onnx")), "frames.face: no/such.onnx: no such file"),
    ],
)
def test_options_that_cannot_be(build, key):
    with pytest.raises(UserError, match=re.escape(key)):
        build()


@needs_data
@pytest.mark.parametrize("name", ["grid/s1/bbaf4p.mp4", "faces/markey_8s.mp4"])
def test_one_face_box_crops_every_picture(name):
    pytest.importorskip("cv2")
    from crossfade.data.faces import face_box

    clip, stream = clip_of(DATA / name, "video"), frames(face=DETECTOR)
    decoded = stream.decode(clip)
    box = face_box(DATA / name, DETECTOR, count=8)
    assert box is not None and stream.face_found(clip)
    left, top, right, bottom = box
    assert 0.1 < (right - left) < 0.95 and 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    expected = np.stack([resize(cut(picture, box), 112) for picture in pictures(DATA / name, count=8)])
    np.testing.assert_array_equal(decoded, expected)
    assert pickle.loads(pickle.dumps(stream)).face_found(clip)


@needs_data
def test_a_clip_without_a_face_keeps_the_whole_picture(tmp_path):
    pytest.importorskip("cv2")
    from test_media import write_video

    clip = clip_of(write_video(tmp_path / "a.mp4", 10), "video")
    stream = frames(face=DETECTOR, count=4, size=32)
    np.testing.assert_array_equal(stream.decode(clip), frames(count=4, size=32).decode(clip))
    assert not stream.face_found(clip)


@needs_data
def test_a_file_that_is_no_detector(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "a.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match="not a YuNet detector"):
        frames(face=tmp_path / "a.onnx").decode(clip_of(DATA / "grid/s1/bbaf4p.mp4", "video"))


def test_resize_is_bilinear_with_antialias():
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    exact = interpolate(torch.from_numpy(picture).permute(2, 0, 1)[None].double(), (11, 11), mode="bilinear", antialias=True)[0]
    assert np.abs(resize(picture, 11) - exact.numpy()).max() <= 1.0


@needs_data
def test_threads_do_not_share_a_detector():
    """OpenCV's detector keeps its picture inside itself: four threads on one of them crashed."""
    clips = sorted((DATA / "grid" / "s1").glob("*"))[:16]
    stream = frames(face=DETECTOR, count=2, size=32)
    alone = [stream.decode(clip_of(path, "video")) for path in clips]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda path: stream.decode(clip_of(path, "video")), clips))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_grey_pictures_in_one_channel_or_three(tmp_path):
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture).convert("L").save(tmp_path / "g.png")
    one, three = image(size=20, channels=1, fit="crop"), image(size=20, channels=3, fit="crop")
    assert one.spec == Spec((1, 1, 20, 20), mean=(sum(IMAGENET_MEAN) / 3,), std=(sum(IMAGENET_STD) / 3,))
    colour, grey = clip_of(tmp_path / "a.png", "image"), clip_of(tmp_path / "g.png", "image")
    np.testing.assert_array_equal(one.decode(colour), one.decode(grey))
    np.testing.assert_array_equal(three.decode(grey), np.repeat(one.decode(grey), 3, axis=1))
    np.testing.assert_array_equal(three.decode(colour)[0], picture[:, 5:25].transpose(2, 0, 1))
    made, mask = one.finish(one.decode(grey))
    middle, spread = one.mean[0], one.std[0]
    torch.testing.assert_close(made, (torch.from_numpy(one.decode(grey)).float() / 255 - middle) / spread)
    assert made.shape == (1, 1, 20, 20) and mask.tolist() == [True]


@pytest.mark.parametrize(("channels", "size"), [(1, 6), (3, 6), (3, 9)])
def test_a_picture_out_of_a_file_of_many(tmp_path, channels, size):
    from PIL import Image
    from test_packed import idx_bytes, write

    many = np.random.default_rng(0).integers(0, 256, (4, 6, 6), dtype=np.uint8)
    path = write(tmp_path / "many", idx_bytes(many))
    Image.fromarray(many[2]).save(tmp_path / "one.png")
    stream, one = image(size=size, channels=channels), clip_of(tmp_path / "one.png", "image")
    found = stream.decode(replace(one, media={"image": path}, item=2))
    np.testing.assert_array_equal(found, stream.decode(one))
    finished, _ = stream.finish(found)
    finished.zero_()
    assert many[2].any() and np.array_equal(stream.decode(replace(one, media={"image": path}, item=2)), found)
    with pytest.raises(Unreadable, match="holds 4 pictures, so none of number 4"):
        stream.decode(replace(one, media={"image": path}, item=4))


def test_a_region_is_what_pillow_crops(tmp_path):
    """A camera that stands still: only a part of its picture is kept, of every frame the same."""
    path = tmp_path / "still.mp4"
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, 48:], picture[32:, :48] = (255, 255, 255), (255, 0, 0)
    _write_video(path, [picture] * 10)
    kept = frames(count=2, size=16, region=(0.5, 0, 1, 1)).decode(Clip("a", {"video": path}, {}, "a"))
    assert kept.shape == (2, 3, 16, 16)
    assert kept.min() > 225
    red = frames(count=2, size=16, region=(0, 0.5, 0.5, 1)).decode(Clip("a", {"video": path}, {}, "a"))
    assert red[:, 0, 2:, :-2].min() > 200 and red[:, 1:, 2:, :-2].max() < 60
    assert frames(region=(0, 0.5, 0.5, 1)).key != frames().key


@pytest.mark.parametrize("region", [(0.5, 0, 0.5, 1), (0, 0, 1, 1.1), (-0.1, 0, 1, 1)])
def test_a_region_lies_in_the_picture(region):
    with pytest.raises(UserError, match=r"frames.region: found .* it is \[left, top, right, bottom\]"):
        frames(region=region)


def test_without_background_what_moves_is_left():
    decoded = np.full((4, 3, 8, 8), 90, np.uint8)
    decoded[1, :, 2:4, 2:4] = 200
    found, mask = frames(count=4, size=8, background="remove").finish(decoded)
    plain, _ = frames(count=4, size=8).finish(decoded)
    expected = (plain - plain.mean(0)) / (plain - plain.mean(0)).std()
    torch.testing.assert_close(found, expected)
    assert mask.all() and found[:, :, 5:, 5:].abs().max() < 1e-5
    still, _ = frames(count=4, size=8, background="remove").finish(np.full((4, 3, 8, 8), 90, np.uint8))
    assert not still.any()
