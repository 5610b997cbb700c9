"""VideoMAE in stages equals transformers' own, with and without padding, and starts from all the forms its weights come in."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossfade import use
from crossfade.clip import UserError
from crossfade.models import ENCODERS
from crossfade.models.encoder import Encoder
from crossfade.models.model import count
from crossfade.models.videomae import Layer, videomae

transformers = pytest.importorskip("transformers")
TINY: dict[str, Any] = {"frames": 6, "size": 16, "layers": 3, "dim": 16, "heads": 2, "mlp": 24, "patch": 8}  # 3 · 2 · 2 = 12 tokens
THEIRS = {
    "num_frames": 6,
    "image_size": 16,
    "num_hidden_layers": 3,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "patch_size": 8,
    "decoder_hidden_size": 8,
    "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1,
    "decoder_intermediate_size": 8,
}


def theirs(kind: str = "VideoMAEModel", **extra: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.VideoMAEConfig(**THEIRS | extra))
    for parameter in model.parameters():  # biases start at zero, norms at one: move them, or they are not tested
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def saved(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


def video() -> torch.Tensor:
    return torch.randn(3, 6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def differs(encoder: Encoder, model: Any) -> float:
    with torch.no_grad():
        return (encoder.eval()(video()).x - model(video()).last_hidden_state).abs().max().item()


def test_base_has_the_originals_size():
    with torch.device("meta"):
        encoder = videomae()
    assert count(encoder) == 86_225_664 and len(encoder.stages) == 13 and encoder.dim == 768
    assert encoder.grid is not None and encoder.grid(torch.empty(1, 16, 3, 224, 224, device="meta")) == (8, 14, 14)
    assert encoder.spec.shape == (16, 3, 224, 224) and encoder.spec.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("pooled", [True, False], ids=["fine-tuned", "pre-trained"])
def test_equals_transformers(tmp_path: Path, pooled: bool):
    model = theirs(use_mean_pooling=pooled)
    encoder = videomae(weights=saved(model, tmp_path))
    assert differs(encoder, model) < 1e-6 and len(encoder.stages) == (4 if pooled else 5)
    assert encoder(video()).x.shape == (3, 12, 16) and encoder.report is not None
    assert len(encoder.report.loaded) == len(model.state_dict()) == len(encoder.state_dict()) and not encoder.report.missing


def test_gradients_equal_transformers(tmp_path: Path):
    model = theirs()
    encoder = videomae(weights=saved(model, tmp_path)).eval()
    model(video()).last_hidden_state.square().sum().backward()
    encoder(video()).x.square().sum().backward()
    for index, layer in enumerate(model.encoder.layer):
        stage: Any = encoder.stages[index + 1]
        ours = dict(stage.layer.named_parameters())
        for name, weight in layer.named_parameters():
            torch.testing.assert_close(ours[name].grad, weight.grad, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_padded_tubelets_are_as_if_they_were_not_there(tmp_path: Path):
    """transformers leaves out tokens by `bool_masked_pos`; a tubelet of which one frame is real stays, with a still second frame."""
    model, x = theirs(), video()
    encoder = videomae(weights=saved(model, tmp_path)).eval()
    mask = torch.tensor([True, True, True, False, False, False]).expand(3, -1)
    tokens = encoder(torch.where(mask[:, :, None, None, None], x, 99.0), mask)
    hidden = torch.tensor([False] * 8 + [True] * 4).expand(3, -1)
    expected = model(x * mask[:, :, None, None, None], bool_masked_pos=hidden).last_hidden_state
    assert tokens.mask is not None and torch.equal(tokens.mask, ~hidden)
    torch.testing.assert_close(tokens.x[:, :8], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["", "module."])
@pytest.mark.parametrize(("kind", "pooled"), [("VideoMAEForVideoClassification", True), ("VideoMAEForPreTraining", False)])
def test_takes_the_encoder_out_of_a_larger_model_and_says_what_is_left(tmp_path: Path, kind: str, pooled: bool, form: str):
    model = theirs(kind, use_mean_pooling=pooled)
    folder = saved(model, tmp_path)
    if form:
        entries = load_file(tmp_path / "model.safetensors")
        torch.save({form + name: tensor for name, tensor in entries.items()}, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    encoder = videomae(weights=folder)
    assert differs(encoder, model.videomae) < 1e-6 and encoder.report is not None
    left = {name.split(".")[0] for name in encoder.report.unexpected}
    assert left == ({"fc_norm", "classifier"} if pooled else {"decoder", "encoder_to_decoder", "mask_token"})
    assert encoder.report.source == folder


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_a_file_alone_takes_its_shape_from_the_options_and_its_norm_from_itself(tmp_path: Path, pooled: bool, ending: str):
    model = theirs("VideoMAEForVideoClassification", use_mean_pooling=pooled)
    saved(model, tmp_path)
    entries = load_file(tmp_path / "model.safetensors")
    (save_file if ending == ".safetensors" else torch.save)(entries, tmp_path / f"weights{ending}")
    encoder = videomae(weights=str(tmp_path / f"weights{ending}"), **TINY)
    assert differs(encoder, model.videomae) < 1e-6 and encoder.rebuild["norm"] is not pooled
    deeper: dict[str, Any] = {**TINY, "layers": 4}
    shallower: dict[str, Any] = {**TINY, "layers": 2}
    with pytest.raises(UserError, match=r"15 of 6\d weights are missing \(stages\.4\.layer"):
        videomae(weights=str(tmp_path / f"weights{ending}"), **deeper)
    with pytest.raises(UserError, match=r"15 of its entries \(encoder\.layer\.2\..*have no place") as error:
        videomae(weights=str(tmp_path / f"weights{ending}"), **shallower)
    assert "\n" not in str(error.value)


def test_a_bundles_recipe_rebuilds_the_shape_without_the_folder(tmp_path: Path):
    model = theirs(use_mean_pooling=False, hidden_act="relu", layer_norm_eps=1e-6)
    encoder = videomae(weights=saved(model, tmp_path / "hub"), checkpointing=True)
    recipe = use.check(ENCODERS, {"use": "videomae", "checkpointing": True}, "model.encoders.video") | encoder.rebuild
    assert recipe["frames"] == 6 and recipe["norm"] and recipe["config"] == {"hidden_act": "relu", "layer_norm_eps": 1e-6}
    again = use.make(ENCODERS, recipe)
    again.load_state_dict(encoder.state_dict())
    assert differs(again, model) < 1e-6
    assert use.make(ENCODERS, recipe | {"weights": str(tmp_path / "hub")}).rebuild == encoder.rebuild, "and agrees with the folder"
    save_file({f"encoders.video.{name}": tensor for name, tensor in encoder.state_dict().items()}, tmp_path / "model.safetensors")
    assert differs(use.make(ENCODERS, recipe | {"weights": str(tmp_path)}), model) < 1e-6, "as a bundle"


def test_a_folder_that_lacks_weights_is_refused(tmp_path: Path):
    folder = saved(theirs(), tmp_path)
    entries = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor for name, tensor in entries.items() if ".layer.2." not in name}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"15 of 47 weights are missing \(stages\.3\.layer\."):
        videomae(weights=folder)
    report = videomae(weights=folder, allow_missing=("stages.3.*",)).report
    assert report is not None and len(report.missing) == 15


def test_what_neither_is_here_nor_on_the_hub_names_the_stand_in(tmp_path: Path):
    with pytest.raises(UserError, match=r"neither here nor on the hub.*`weights: null`.*`use: video_cnn3d`") as error:
        videomae(weights="nobody/nothing-of-the-kind")
    assert "\n" not in str(error.value)


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install crossfade\[videomae\]"):
        videomae(**TINY)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"frames": 5}, "frames: 5 is no multiple of tubelet: 2; 4 or 6 would fit"),
        ({"size": 20}, "size: 20 is no multiple of patch: 8; 16 or 24 would fit"),
        ({"dim": 18, "heads": 4}, "dim: 18 is no multiple of heads: 4; 16 or 20 would fit"),
        ({"layers": 0}, "layers: 0; at least 1 is needed"),
        ({"config": {"num_frames": 8}}, r"config\.num_frames is not one of hidden_act.*; say `frames:` beside config"),
        ({"config": {"hidden_akt": "relu"}}, r"config\.hidden_akt is not one of hidden_act"),
        ({"config": {"hidden_act": "no such"}}, "config: .*no such"),
    ],
)
def test_settings_that_cannot_be_built_say_so_in_one_line(options: dict, says: str):
    with pytest.raises(UserError, match=says) as error:
        videomae(**TINY | options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(8, 3, 16, 16), (6, 3, 32, 32), (6, 1, 16, 16)])
def test_frames_that_do_not_fit_say_what_fits(shape: tuple[int, ...]):
    found = " × ".join(map(str, shape))
    with pytest.raises(UserError, match=f"frames of {found}; it takes 6 × 3 × 16 × 16: set `count: 6, size: 16`"):
        videomae(**TINY)(torch.zeros(1, *shape))


def test_options_that_contradict_the_folder_are_refused_and_others_models_too(tmp_path: Path):
    folder = saved(theirs(), tmp_path)
    assert len(videomae(weights=folder, layers=3).stages) == 4
    with pytest.raises(UserError, match=r"layers: 5, but these weights have 3 \(config\.json of .*leave it out"):
        videomae(weights=folder, layers=5)
    with pytest.raises(UserError, match="norm: true, but these weights have no final norm"):
        videomae(weights=folder, norm=True)
    (tmp_path / "config.json").write_text('{"model_type": "wavlm"}')
    with pytest.raises(UserError, match=r"config\.json is of model_type 'wavlm', not 'videomae'"):
        videomae(weights=folder)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: .*JSON") as error:
        videomae(weights=folder)
    assert "\n" not in str(error.value)


def trained_bytes(encoder: Encoder, x: torch.Tensor, mask: torch.Tensor) -> int:
    """Gradients of a pass in training, and what its layers kept for them."""
    sizes: list[int] = []

    def kept(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    torch.manual_seed(3)
    state = encoder.train().run(encoder.begin(x, mask), 0, 1)
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        state = encoder.run(state, 1)
    state["x"].square().sum().backward()
    return sum(sizes)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_gives_the_same_gradients_out_of_less_memory(dropout: float):
    config: Any = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    plain = videomae(**TINY, config=config)
    again = videomae(**TINY, config=config, checkpointing=True)
    again.load_state_dict(plain.state_dict())
    mask = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]
    needed, left = (trained_bytes(encoder, video(), mask) for encoder in (plain, again))
    assert 0 < left < needed / 10
    for (name, weight), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert weight.grad is not None and other.grad is not None and torch.equal(weight.grad, other.grad), name


@torch.no_grad()
def test_watched_attention_is_transformers_own_and_changes_nothing():
    model = theirs(attn_implementation="eager")
    encoder = videomae(**TINY).eval()
    encoder.load_state_dict(dict(zip(encoder.state_dict(), model.state_dict().values(), strict=True)))
    still = encoder(video()).x
    layers: list[Any] = [stage for stage in encoder.stages if isinstance(stage, Layer)]
    for layer in layers:
        assert layer.watched is None
        layer.watched = []
    torch.testing.assert_close(encoder(video()).x, still, rtol=0, atol=1e-6)
    expected = model(video(), output_attentions=True).attentions
    assert len(layers) == len(expected) == 3
    for layer, probability in zip(layers, expected, strict=True):
        assert layer.watched is not None and len(layer.watched) == 1 and layer.watched[0].shape == (3, 2, 12, 12)
        torch.testing.assert_close(layer.watched[0], probability, rtol=0, atol=1e-6)


@torch.no_grad()
def test_nobody_attends_to_padding():
    encoder = videomae(**TINY).eval()
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4, [False] * 6])
    masked = encoder(video(), mask).x
    layer: Any = encoder.stages[1]
    layer.watched = []
    torch.testing.assert_close(encoder(video(), mask).x, masked, rtol=0, atol=1e-6)
    probability = layer.watched[0]
    assert (probability[1, :, :, 4:] == 0).all() and probability.isfinite().all()
    torch.testing.assert_close(probability.sum(3), torch.ones(3, 2, 12))


def test_copies_and_other_precisions_carry_the_positions():
    encoder = videomae(**TINY).eval()
    assert not any("positions" in name for name in encoder.state_dict())
    twin = copy.deepcopy(encoder).double()
    torch.testing.assert_close(twin(video().double()).x, encoder(video()).x.double(), rtol=0, atol=1e-5)
