"""WavLM in stages equals transformers' own, and starts from all the forms its weights come in."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from crossfade.clip import UserError
from crossfade.models.encoder import Encoder
from crossfade.models.wavlm import _staged, span_mask, token_count, wavlm

transformers = pytest.importorskip("transformers")
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "num_buckets": 16,
    "max_bucket_distance": 20,
}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}  # the form of wavlm-large


def theirs(extra: dict | None = None, seed: int = 0):
    torch.manual_seed(seed)
    model = transformers.WavLMModel(transformers.WavLMConfig(**TINY, **(extra or {})))
    for parameter in model.parameters():  # biases start at zero, norms at one: move them, or they are not tested
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def waveform() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(3, 8000, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(8000) < torch.tensor([8000, 5000, 410])[:, None]
    return x * mask, mask


@pytest.mark.parametrize("extra", [{}, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_transformers(extra: dict, masked: bool):
    model = theirs(extra)
    ours = _staged(copy.deepcopy(model), False).eval()
    x, mask = waveform()
    expected = model(x, attention_mask=mask.long() if masked else None).last_hidden_state
    tokens = ours(x, mask if masked else None)
    real = tokens.mask if masked else torch.ones(expected.shape[:2], dtype=torch.bool)
    assert torch.allclose(tokens.x[real], expected[real], atol=1e-5)


def test_gradients_equal_transformers():
    model = theirs()
    ours = _staged(copy.deepcopy(model), False).eval()
    x, _ = waveform()
    model(x).last_hidden_state.square().sum().backward()
    ours(x).x.square().sum().backward()
    expected = model.encoder.layers[0].attention.rel_attn_embed.weight.grad  # reaches all layers through the carried bias
    assert torch.allclose(ours.stages[1].layer.attention.rel_attn_embed.weight.grad, expected, rtol=1e-3, atol=1e-4)


def test_token_masks_are_transformers():
    model, (_, mask) = theirs(), waveform()
    expected = model._get_feat_extract_output_lengths(mask.sum(1))
    assert torch.equal(token_count(mask.sum(1), model.config), expected)
    assert token_count(torch.tensor([0, 1, 399, 400, 720]), model.config).tolist() == [0, 1, 1, 1, 2]


def test_normalize_is_the_feature_extractors():
    x, mask = waveform()
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    clips = [(clip[keep] + 3.0).numpy() for clip, keep in zip(x, mask, strict=True)]
    expected = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt").input_values
    found = wavlm(config=TINY | LARGE, normalize=True).begin(x + 3.0, mask)["x"]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def equal(encoder: Encoder, model) -> bool:
    x, _ = waveform()
    return torch.allclose(encoder.eval()(x).x, model(x).last_hidden_state, atol=1e-6)


@pytest.mark.parametrize("extra", [{}, LARGE], ids=["base", "large"])
def test_starts_from_a_hugging_face_folder(tmp_path: Path, extra: dict):
    model = theirs(extra)
    model.save_pretrained(tmp_path)
    encoder = wavlm(weights=str(tmp_path))
    assert equal(encoder, model) and encoder.report is not None
    assert len(encoder.report.loaded) == len(model.state_dict()) and encoder.report.missing == ()


def test_a_folder_that_lacks_weights_is_refused(tmp_path: Path):
    theirs().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    entries = {name: value for name, value in load_file(file).items() if "encoder.layers.2." not in name}
    save_file(entries, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"weights are missing \(stages\.3\.layer\.") as error:
        wavlm(weights=str(tmp_path))
    assert "\n" not in str(error.value)
    assert wavlm(weights=str(tmp_path), allow_missing=("stages.3.*",)).report is not None


@pytest.mark.parametrize("extra", [{}, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("prefix", ["", "wavlm."])
def test_starts_from_a_file_with_transformers_names(tmp_path: Path, extra: dict, prefix: str):
    model = theirs(extra)
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {prefix + name: value for name, value in model.state_dict().items()}
    for new, name in old.items():
        state = {key.replace(new, name): value for key, value in state.items()}
    torch.save({"state_dict": state | {"classifier.weight": torch.zeros(2, 2)}}, tmp_path / "w.pth")
    assert equal(wavlm(weights=str(tmp_path / "w.pth"), config=TINY | extra), model)


def test_starts_from_a_bundle_with_our_names(tmp_path: Path):
    model = theirs()
    ours = _staged(copy.deepcopy(model), False).eval()
    save_file({f"encoders.audio.{name}": value for name, value in ours.state_dict().items()}, tmp_path / "model.safetensors")
    assert equal(wavlm(weights=str(tmp_path), config=TINY), model)


def test_an_unreachable_hub_name_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect\nsecond line")

    monkeypatch.setattr(transformers.utils.hub, "cached_file", offline)
    with pytest.raises(UserError, match=r"microsoft/wavlm-base.*hf download microsoft/wavlm-base.*`weights: null`") as error:
        wavlm(weights="microsoft/wavlm-base")
    assert "\n" not in str(error.value)


def test_without_transformers_it_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install crossfade\[wavlm\]"):
        wavlm()


def test_a_mistyped_setting_is_refused():
    with pytest.raises(UserError, match=r"config\.hiden_size"):
        wavlm(config={"hiden_size": 8})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"num_hidden_layers": "three"}, "config: .*num_hidden_layers"),
        ({"num_attention_heads": 5}, "config: embed_dim must be divisible"),
        ({"add_adapter": True}, r"config\.add_adapter"),
    ],
)
def test_settings_that_cannot_be_built_say_so_in_one_line(config: dict, says: str):
    with pytest.raises(UserError, match=says) as error:
        wavlm(config=TINY | config)
    assert "\n" not in str(error.value)


def test_a_waveform_without_room_for_one_token_is_refused():
    with pytest.raises(UserError, match=r"399 samples; it needs at least 400 \(25 ms"):
        wavlm(config=TINY)(torch.zeros(1, 399))
    assert wavlm(config=TINY)(torch.zeros(1, 400)).x.shape == (1, 1, 16)


def test_spans_are_hidden_while_training_only_and_only_where_real():
    encoder, (x, mask) = _staged(theirs(), False).eval(), waveform()
    still = encoder(x, mask).x
    torch.manual_seed(0)
    moved = encoder.train()(x, mask).x
    torch.manual_seed(0)
    assert torch.equal(moved, encoder(x, mask).x), "same seed, same numbers"
    assert not torch.allclose(moved, still) and torch.equal(still, encoder.eval()(x, mask).x)
    spans = span_mask(torch.tensor([100, 40, 5]), 100, 0.2, 10, 2)
    assert spans.shape == (3, 100) and spans[0].sum() >= 10 and not spans[1, 40:].any()
    assert spans[2, :5].all() and not spans[2, 10:].any()


def test_the_stored_position_bias_does_not_grow_with_the_square_of_the_clip():
    encoder, (x, mask) = _staged(theirs(), False).eval(), waveform()
    state = encoder.run(encoder.begin(x, mask), 0, 2)
    steps = state["x"].shape[1]
    assert state["bias"].shape == (3, 2, 2 * steps - 1)
