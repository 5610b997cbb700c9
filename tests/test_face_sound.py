"""Rows of sound features: against librosa, aligned to the block, the same in pieces as in one; other people's encoders, and wrong files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import librosa
import numpy as np
import pytest

from crossfade import use
from crossfade.clip import UserError
from crossfade.data.face import FEATURES
from crossfade.data.face.sound_rows import Line, SoundRows, logmel256, window, windows
from crossfade.data.face.wenet import front_end, wenet

DATA = Path(os.environ.get("CROSSFADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
BLOCK = 640


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise that swells and falls, float32 at 16 kHz."""
    count = round(seconds * 16000)
    swell = np.abs(np.sin(np.arange(count) / 3000))
    return (0.1 * swell * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def expected_logmel(sound: np.ndarray, frames: int) -> np.ndarray:
    """By librosa: transforms of 2048 whose middles are the middles of blocks −11 … frames + 7."""
    before = 11 * BLOCK - BLOCK // 2 + 1024
    line = np.concatenate([np.zeros(before, np.float32), sound, np.zeros(30 * BLOCK, np.float32)])
    mel = librosa.feature.melspectrogram(
        y=line, sr=16000, n_fft=2048, win_length=800, hop_length=BLOCK, center=False, n_mels=256, fmin=0, fmax=8000
    )
    return ((np.log(mel + 1e-5) + 8.3) / 3.8).T[: frames + 19]


@pytest.mark.parametrize(("seconds", "frames"), [(1.3, 33), (0.1, 3), (2.0, 30)])
def test_logmel256_is_what_librosa_makes_with_the_true_future(seconds: float, frames: int):
    sound, make = speech(seconds), logmel256()
    rows = make(sound, frames)
    assert (make.dim, rows.shape, rows.dtype) == (256, (frames + 19, 256), np.float32)
    np.testing.assert_allclose(rows, expected_logmel(sound, frames), atol=2e-3)


def test_before_and_after_the_sound_there_is_silence():
    rows = logmel256()(speech(1.0), 25)
    silence = (np.log(1e-5) + 8.3) / 3.8
    np.testing.assert_allclose(rows[:10], silence, rtol=1e-5)  # row 10 is block −1, whose window reaches 80 samples into the sound
    np.testing.assert_allclose(rows[37:], silence, rtol=1e-5)  # 25 blocks of sound, rows 11 … 35; row 36 still hears its end
    assert (rows[11:36].max(axis=1) > silence + 1).all()


def test_a_click_is_heard_in_the_row_of_its_block():
    sound = np.zeros(25 * BLOCK, np.float32)
    sound[7 * BLOCK + 320] = 1.0
    rows = logmel256()(sound, 25)
    assert rows.mean(axis=1).argmax() == 7 + 11
    seen = window(rows, 7)
    assert seen.shape == (20, 256)
    assert seen.mean(axis=1).argmax() == 11  # eleven blocks before, then its own, then eight after


def test_in_pieces_the_rows_are_the_same():
    sound, frames = speech(48.0), 1200
    make = logmel256()
    blocks = np.split(sound, [1000, 1001, 90_000, 500_000])
    pieces = list(make.pieces(blocks, frames))
    assert [len(piece) for piece in pieces] == [500, 500, 219]
    np.testing.assert_array_equal(np.concatenate(pieces), make(sound, frames))
    np.testing.assert_allclose(np.concatenate(pieces), expected_logmel(sound, frames), atol=2e-3)


def test_windows_over_pieces_are_those_over_all_rows():
    rows = np.arange(60, dtype=np.float32).repeat(2).reshape(60, 2)
    for cuts in ([], [5, 9], [20], [19, 40, 59]):
        found = list(windows(np.split(rows, cuts)))
        assert len(found) == 41
        for k, seen in enumerate(found):
            np.testing.assert_array_equal(seen, window(rows, k))


def test_a_line_forgets_what_lies_behind():
    line = Line(np.split(np.arange(1, 101, dtype=np.float32), 10))
    assert line.samples(-3, 2).tolist() == [0, 0, 0, 1, 2]
    assert line.samples(1, 4).tolist() == [2, 3, 4]
    assert line.samples(35, 38).tolist() == [36, 37, 38]
    assert len(line._held) <= 10
    assert line.samples(98, 103).tolist() == [99, 100, 0, 0, 0]
    assert line.samples(200, 202).tolist() == [0, 0]


def test_by_name_with_a_key():
    made = use.make(FEATURES, use.check(FEATURES, "logmel256", "data.features"))
    assert isinstance(made, SoundRows)
    assert "logmel256" in made.key
    with pytest.raises(UserError, match=r"data.features.use: found 'mfcc'"):
        use.check(FEATURES, "mfcc", "data.features")


# ---- WeNet


def test_the_front_end_is_the_references():
    sound = speech(1.7)
    risen = np.append(0, sound[1:] - 0.97 * sound[:-1]).astype(np.float32)
    hann = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, 801) / 801))
    mel = librosa.feature.melspectrogram(
        y=risen, sr=16000, n_fft=1024, win_length=800, hop_length=160, window=hann, center=True, pad_mode="reflect", n_mels=80, fmax=8000
    )
    found = front_end(sound)
    assert found.shape == (27200 // 160 + 1, 80)
    np.testing.assert_allclose(found, (10 * np.log10(mel + 1e-5) - 20).T, atol=2e-3)


def tiny_wenet(path: Path, *, bands: int = 80, width: int = 256) -> Path:
    """A convolution of kernel 7 and stride 4, which makes int(0.25 T − 0.75) rows: band c of mel frame 4 r + 3 is number c of row r."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.zeros((width, bands, 7), np.float32)
    weight[np.arange(bands), np.arange(bands), 3] = 1
    nodes = [
        helper.make_node("Transpose", ["speech"], ["bands"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["bands", "weight"], ["rows"], strides=[4]),
        helper.make_node("Transpose", ["rows"], ["encoder_out"], perm=[0, 2, 1]),
    ]
    takes = [
        helper.make_tensor_value_info("speech", TensorProto.FLOAT, [1, "T", bands]),
        helper.make_tensor_value_info("speech_lengths", TensorProto.INT32, [1]),
    ]
    gives = [helper.make_tensor_value_info("encoder_out", TensorProto.FLOAT, [1, "rows", width])]
    graph = helper.make_graph(nodes, "tiny", takes, gives, [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize(("seconds", "frames"), [(3.0, 75), (0.1, 3)])
def test_wenet_rows_are_aligned_without_the_off_by_one(tmp_path: Path, seconds: float, frames: int):
    sound = speech(seconds)
    make = wenet(weights=tiny_wenet(tmp_path / "wenet.onnx"))
    rows = make(sound, frames)
    assert (make.dim, rows.shape) == (256, (frames + 19, 256))
    padded = np.concatenate([np.zeros(11 * BLOCK, np.float32), sound, np.zeros(9 * BLOCK, np.float32)])
    mels = front_end(np.pad(padded, (0, (frames + 20) * BLOCK - len(padded))))
    np.testing.assert_allclose(rows[:, :80], mels[3::4][: frames + 19], atol=1e-4)
    assert rows[:, 80:].max() == 0


def test_a_long_sound_goes_through_wenet_in_pieces(tmp_path: Path):
    """This encoder hears 70 ms, so pieces with 2 s around them change nothing."""
    sound, frames = speech(44.0), 1100
    rows = wenet(weights=tiny_wenet(tmp_path / "wenet.onnx"))(sound, frames)
    mels = front_end(np.concatenate([np.zeros(11 * BLOCK, np.float32), sound, np.zeros(9 * BLOCK, np.float32)]))
    np.testing.assert_allclose(rows[:, :80], mels[3::4][: frames + 19], atol=1e-3)


def test_the_key_names_the_file(tmp_path: Path):
    one, other = wenet(weights=tiny_wenet(tmp_path / "a.onnx")), wenet(weights=tiny_wenet(tmp_path / "b.onnx"))
    assert one.key.startswith("wenet ")
    assert one.key != other.key


def test_another_onnx_file_is_told_by_its_inputs_and_outputs(tmp_path: Path):
    with pytest.raises(UserError, match=r"takes speech \[1, T, 40\].*gives encoder_out \[1, rows, 128\]; right is speech \[1, T, 80\]"):
        wenet(weights=tiny_wenet(tmp_path / "other.onnx", bands=40, width=128))
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(UserError, match=r"text.onnx: is not an ONNX model"):
        wenet(weights=tmp_path / "text.onnx")
    with pytest.raises(UserError, match=r"gone.onnx: no such file"):
        wenet(weights=tmp_path / "gone.onnx")


def test_a_public_encoder_of_another_kind_is_refused_in_one_line():
    path = DATA / "weights" / "moonshine_tiny_encoder_q.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with pytest.raises(UserError) as error:
        wenet(weights=path)
    assert "\n" not in str(error.value)
    assert "right is speech [1, T, 80] and speech_lengths (int32) → encoder_out" in str(error.value)


# ---- WavLM


@pytest.fixture(scope="module")
def tiny_wavlm(tmp_path_factory) -> Path:
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    config = transformers.WavLMConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    folder = tmp_path_factory.mktemp("wavlm")
    transformers.WavLMModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_wavlm_rows_are_the_means_of_two_states(tiny_wavlm: Path, layer: int):
    import torch
    import transformers

    sound, frames = speech(1.0), 25
    make = use.make(FEATURES, use.check(FEATURES, {"use": "wavlm", "weights": str(tiny_wavlm), "layer": layer}, "features"))
    rows = make(sound, frames)
    assert (make.dim, rows.shape, rows.dtype) == (16, (44, 16), np.float32)
    model = transformers.WavLMModel.from_pretrained(tiny_wavlm).eval()
    padded = np.concatenate([np.zeros(11 * BLOCK, np.float32), sound, np.zeros(8 * BLOCK + 80, np.float32)])
    with torch.no_grad():
        states = model(torch.from_numpy(padded)[None], output_hidden_states=True).hidden_states[layer][0].numpy()
    assert len(states) == 88
    np.testing.assert_allclose(rows, (states[::2] + states[1::2]) / 2, atol=1e-5)


def test_wavlm_that_wants_unit_variance_gets_it(tiny_wavlm: Path):
    plain = FEATURES["wavlm"](weights=tiny_wavlm)(speech(1.0), 25)
    (tiny_wavlm / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    try:
        make = FEATURES["wavlm"](weights=tiny_wavlm)
        np.testing.assert_allclose(make(speech(1.0), 25), make(speech(1.0) * 3, 25), atol=1e-4)
        assert np.abs(make(speech(1.0), 25) - plain).max() > 1e-3
    finally:
        (tiny_wavlm / "preprocessor_config.json").unlink()


def test_wrong_wavlms(tiny_wavlm: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"layer: found 3; the model in .* has 2, so -3 to 2 are possible"):
        FEATURES["wavlm"](weights=tiny_wavlm, layer=3)
    with pytest.raises(UserError, match=r"no folder with config.json"):
        FEATURES["wavlm"](weights=tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="model_type 'hubert'; 'wavlm' is right"):
        FEATURES["wavlm"](weights=tmp_path)
