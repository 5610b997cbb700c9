"""Rollout against the product of whole matrices worked in numpy; what is padded gets nothing; nothing stays watched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossfade.clip import Spec, Tokens, UserError
from crossfade.models import ENCODERS, MERGERS, MIXERS
from crossfade.models.encoder import Encoder
from crossfade.models.fusion import cross_attention
from crossfade.models.masks import begin_zero, full_mask
from crossfade.models.model import Fused
from crossfade.models.rollout import WAYS, maps, relevance, watching
from crossfade.models.transformer import Attention, Layer

WIDTHS = {"audio": 4, "video": 6}
STEPS = {"audio": 3, "video": 4}
BOTTLENECKS = 2
MBT = {"dim": 8, "heads": 2, "layers": 3, "fuse_from": 1, "bottlenecks": BOTTLENECKS}


class LayerStage(nn.Module):
    """A transformer layer as a stage."""

    def __init__(self, dim: int):
        super().__init__()
        self.layer = Layer(dim, heads=2, mlp=8, dropout=0.1, norm_first=True)

    def forward(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"x": (B, T, D), "mask": (B, T)} -> the same one layer on"""
        return {**state, "x": self.layer(state["x"], state["mask"])}


class Pass(nn.Module):
    """A stage that does nothing."""

    def forward(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state as it is."""
        return state


def encoder(dim: int, stages: list[nn.Module] | None = None, **options) -> Encoder:
    """Tokens that are the input, or through these stages."""
    return Encoder(stages or [Pass()], dim=dim, spec=Spec((None, dim)), begin=begin_zero, **options)


def model(mix: list, merge: Any, encoders: dict[str, Encoder] | None = None, streams: tuple[str, ...] = ("audio", "video")) -> Fused:
    """Weights large enough that attention is far from even; in training mode, as one may hand it in."""
    made = encoders or {name: encoder(WIDTHS[name]) for name in streams}
    heads: Any = {name: nn.Linear(width, 2) for name, width in merge.dims.items()}
    whole = Fused(made, mix=mix, merge=merge, heads={"label": heads}, drop_stream=0.5)
    torch.manual_seed(3)
    for parameter in whole.parameters():
        nn.init.normal_(parameter, std=0.7)
    return whole.train()


def batch() -> dict[str, Tensor]:
    """Three clips: all there; the last video token and the first audio token padded; no video."""
    generator = torch.Generator().manual_seed(4)
    given = {name: torch.randn(3, STEPS[name], WIDTHS[name], generator=generator) for name in WIDTHS}
    audio, video = torch.ones(3, 3, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)
    audio[1, 0] = video[1, 3] = False
    video[2] = False
    return given | {"audio.mask": audio, "video.mask": video}


def softmax(scores: np.ndarray) -> np.ndarray:
    exponents = np.exp(scores - scores.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def attention(layer: Layer, x: Tensor, real: Tensor) -> np.ndarray:
    """(T, D), real (T,) -> (T, T) of one clip, the mean of two heads, from the weights."""
    asked = layer.attention.ask(layer.norm1(x)).detach().numpy()
    query, key, _ = np.split(asked, 3, 1)
    both = [softmax(np.where(real.numpy(), q @ k.T / np.sqrt(q.shape[1]), -np.inf)) for q, k in zip(*heads(query, key), strict=True)]
    return (both[0] + both[1]) / 2


def heads(*parts: np.ndarray) -> list[list[np.ndarray]]:
    return [np.split(part, 2, 1) for part in parts]


def rolled_by_hand(mixer: Any, clip: dict[str, Tokens], start: dict[str, float]) -> dict[str, np.ndarray]:
    """One clip {stream: (1, T, D)}: the product of joint matrices over [CLS, tokens; of each stream; bottlenecks], from `start` on CLS."""
    begun = {name: mixer.streams[name].begin(tokens) for name, tokens in clip.items()}
    x, real = {name: pair[0][0] for name, pair in begun.items()}, {name: pair[1][0] for name, pair in begun.items()}
    fsn = mixer.bottlenecks
    first = dict(zip(x, np.cumsum([0, *[len(rows) for rows in x.values()]]), strict=False))
    size = sum(len(rows) for rows in x.values()) + BOTTLENECKS
    product, here = np.eye(size), [name for name in x if real[name].any()]
    for index in range(MBT["layers"]):
        matrix, updates = np.zeros((size, size)), {}
        for name in x:
            layer, count = mixer.streams[name].layers[index], len(x[name])
            where = list(range(first[name], first[name] + count))
            own, seen = x[name], real[name]
            if index >= MBT["fuse_from"]:
                own, seen = torch.cat([own, fsn]), torch.cat([seen, torch.ones(BOTTLENECKS, dtype=torch.bool)])
                where += list(range(size - BOTTLENECKS, size))
            if not seen.any():
                continue
            half = (attention(layer, own, seen) + np.eye(len(own))) / 2
            after = layer(own[None], seen[None])[0]
            matrix[np.ix_(where[:count], where)] = half[:count]
            if len(where) > count and name in here:
                matrix[np.ix_(where[count:], where)] += half[count:] / len(here)
                updates[name] = after[count:]
            x[name] = after[:count]
        fsn = torch.stack([*updates.values()]).mean(0) if updates else fsn
        if not updates:
            matrix[-BOTTLENECKS:, -BOTTLENECKS:] = np.eye(BOTTLENECKS)
        product = matrix @ product
    row = np.sum([share * product[first[name]] for name, share in start.items()], 0)
    found = {name: row[first[name] + 1 : first[name] + len(x[name])] for name in x}
    total = sum(rows.sum() for rows in found.values())
    return {name: rows / total for name, rows in found.items()}


def test_through_mbt_it_is_the_product_of_joint_matrices():
    mixer = MIXERS["bottleneck"](WIDTHS, **MBT)
    whole, given = model([mixer], MERGERS["mean"](mixer.dims, project=False)), batch()
    found = relevance(whole, given)
    whole.eval()
    starts = [{"audio": 0.5, "video": 0.5}, {"audio": 0.5, "video": 0.5}, {"audio": 1.0}]
    for k, start in enumerate(starts):
        clip = {name: Tokens(given[name][k : k + 1], given[f"{name}.mask"][k : k + 1]) for name in WIDTHS}
        expected = rolled_by_hand(mixer, clip, start)
        for name in WIDTHS:
            np.testing.assert_allclose(found[name][k].numpy(), expected[name], atol=1e-6)
    assert found["audio"][1, 0] == 0 and found["video"][1, 3] == 0 and (found["video"][2] == 0).all()
    assert found["audio"][0].std() > 1e-3, "far from even"


def test_down_through_the_encoders_layers():
    """Two layers below an even mean of one stream: 1/T · Ã₂ · Ã₁."""
    layers: list[Any] = [LayerStage(6), LayerStage(6)]
    whole = model([], MERGERS["mean"]({"video": 6}), {"video": encoder(6, layers)})
    x, mask = batch()["video"][:2], batch()["video.mask"][:2]
    found = relevance(whole, {"video": x, "video.mask": mask})["video"].numpy()
    for k in range(2):
        whole.eval()
        state, product = x[k].masked_fill(~mask[k][:, None], 0.0), np.eye(4)
        for stage in layers:
            product = (attention(stage.layer, state, mask[k]) + np.eye(4)) / 2 @ product
            state = stage.layer(state[None], mask[k][None])[0]
        np.testing.assert_allclose(found[k], mask[k].numpy() / mask[k].sum().item() @ product, atol=1e-6)


def test_through_cross_attention_half_comes_from_the_others():
    mixer: Any = cross_attention(WIDTHS, dim=8, heads=2)
    whole, given = model([mixer], MERGERS["mean"](mixer.dims, project=False)), batch()
    found = relevance(whole, given)
    whole.eval()
    a, v = (mixer.project[name](given[name][:1]) for name in WIDTHS)
    _, heard_by_audio = mixer.attend["audio"](a, v, v)
    _, heard_by_video = mixer.attend["video"](v, a, a)
    audio = 0.5 / 3 / 2 + (0.5 / 4 / 2) * heard_by_video[0].sum(0)
    video = 0.5 / 4 / 2 + (0.5 / 3 / 2) * heard_by_audio[0].sum(0)
    assert torch.allclose(found["audio"][0], audio, atol=1e-6) and torch.allclose(found["video"][0], video, atol=1e-6)
    assert torch.allclose(found["audio"][2], torch.full((3,), 1 / 3)) and (found["video"][2] == 0).all()


def test_without_attention_it_is_even_over_each_streams_real_tokens():
    found = relevance(model([], MERGERS["concat"](WIDTHS, dim=5)), batch())
    assert torch.allclose(found["audio"], torch.tensor([[1 / 6] * 3, [0, 1 / 4, 1 / 4], [1 / 3] * 3]))
    assert torch.allclose(found["video"], torch.tensor([[1 / 8] * 4, [1 / 6, 1 / 6, 1 / 6, 0], [0.0] * 4]))


def test_a_gate_is_the_share_of_a_stream():
    whole, given = model([], MERGERS["gated"](WIDTHS, dim=5)), batch()
    found, gate = relevance(whole, given), whole.eval()(given)["gate"]
    assert torch.allclose(torch.stack([found["audio"].sum(1), found["video"].sum(1)], 1), gate, atol=1e-6)


def test_the_token_transformers_layers_weigh_the_streams():
    merge: Any = MERGERS["token_transformer"](WIDTHS, dim=8, heads=2, mlp=8, layers=1)
    whole, given = model([], merge), batch()
    found = relevance(whole, given)
    whole.eval()
    means = {name: given[name][:1].mean(1) for name in WIDTHS}
    x = torch.cat([merge.embeddings.project[name](means[name]) for name in WIDTHS]) + merge.rule.marks
    layer = merge.rule.layers[0].attention
    query, key, _ = np.split(layer.ask(x).detach().numpy(), 3, 1)
    seen = sum(softmax(q @ k.T / 2) for q, k in zip(*heads(query, key), strict=True)) / 2
    share = np.array([0.5, 0.5]) @ (seen + np.eye(2)) / 2
    np.testing.assert_allclose([found["audio"][0].sum().item(), found["video"][0].sum().item()], share, atol=1e-6)
    assert found["audio"][2].sum() == pytest.approx(1)


@pytest.mark.parametrize("merger", MERGERS)
@pytest.mark.parametrize("mixer", [None, *MIXERS])
@pytest.mark.parametrize("streams", [("audio",), ("audio", "video")], ids="+".join)
def test_it_sums_to_one_and_gives_padding_nothing(mixer: str | None, merger: str, streams: tuple[str, ...]):
    """Through every mixer twice, where a model has both streams and a batch one of them or both."""
    first = [MIXERS[mixer](WIDTHS, dim=8, heads=2)] if mixer else []
    mix = [*first, MIXERS[mixer](first[0].dims, dim=8, heads=2)] if mixer else []
    whole = model(mix, MERGERS[merger](mix[-1].dims if mix else WIDTHS))
    given = {key: x for key, x in batch().items() if key.split(".")[0] in streams}
    found = relevance(whole, given)
    assert {name: x.shape for name, x in found.items()} == {name: (3, STEPS[name]) for name in streams}
    assert torch.allclose(torch.cat([*found.values()], 1).sum(1), torch.ones(3)) and all((x >= 0).all() for x in found.values())
    assert all((x[~given[f"{name}.mask"]] == 0).all() for name, x in found.items())


def test_a_clip_without_anything_gets_nothing():
    whole, given = model([], MERGERS["mean"](WIDTHS)), batch()
    given["audio.mask"][2] = False
    assert all((x[2] == 0).all() for x in relevance(whole, given).values())


def test_the_answer_and_the_mode_are_as_before():
    mixer = MIXERS["bottleneck"](WIDTHS, **MBT)
    whole, given = model([mixer], MERGERS["mean"](mixer.dims)), batch()
    whole.heads.eval()
    relevance(whole, given)
    assert whole.training and mixer.training and not whole.heads.training
    expected = whole.eval()(given)["label"]
    relevance(whole, given)
    assert torch.equal(whole(given)["label"], expected) and not whole.training


def test_nothing_stays_watched_when_something_breaks():
    mixer = MIXERS["bottleneck"](WIDTHS, **MBT)
    whole = model([mixer, cross_attention(mixer.dims, dim=8, heads=2)], MERGERS["mean"](dict.fromkeys(WIDTHS, 8)))
    with pytest.raises(RuntimeError):
        relevance(whole, {"audio": torch.zeros(2, 3, 99)})
    with pytest.raises(ZeroDivisionError), watching(whole):
        raise ZeroDivisionError
    assert {module.watched for module in whole.modules() if hasattr(module, "watched")} == {None}
    assert not any(module._forward_hooks for module in whole.modules() if isinstance(module, Attention)) and whole.training


def test_maps_lie_as_the_encoder_says():
    made = {"audio": encoder(4), "video": encoder(6, grid=lambda x: (1, 2, x.shape[1] // 2))}
    whole, given = model([], MERGERS["mean"](WIDTHS), made), batch()
    found = maps(whole, given)
    assert set(found) == {"video"} and found["video"].shape == (3, 1, 2, 2)
    assert torch.equal(found["video"].flatten(1), relevance(whole, given)["video"])


def test_over_frames_and_over_the_spectrogram():
    """VideoMAE (four frames in two steps of 2 × 2 tokens) and ResNet18 under MBT, the layers of VideoMAE by hand."""
    made = {
        "video": ENCODERS["videomae"](frames=4, size=32, layers=2, dim=16, heads=2, mlp=16),
        "audio": ENCODERS["resnet18"](channels=1, tokens="map"),
    }
    mixer = MIXERS["bottleneck"]({"video": 16, "audio": 512}, **MBT)
    whole = Fused(made, mix=[mixer], merge=MERGERS["mean"](mixer.dims), heads={"label": {"joint": nn.Linear(256, 2)}})
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    given = {"video": torch.randn(2, 4, 3, 32, 32), "video.mask": mask, "audio": torch.randn(2, 1, 64, 96)}
    found = maps(whole, given)
    assert {name: x.shape for name, x in found.items()} == {"video": (2, 2, 2, 2), "audio": (2, 1, 2, 3)}
    assert (found["video"][1, 1] == 0).all() and torch.allclose(torch.cat([x.flatten(1) for x in found.values()], 1).sum(1), torch.ones(2))
    tokens, seen = encoded_and_watched(whole, given)
    upper = Fused({name: encoder(x.shape[2]) for name, (x, _) in tokens.items()}, mix=[mixer], merge=whole.merge, heads=whole.heads)
    above = relevance(upper, {"video": tokens["video"].x, "video.mask": full_mask(tokens["video"]), "audio": tokens["audio"].x})
    for k in range(2):
        first, second = ((attention[k].mean(0) + torch.eye(8)) / 2 for attention in seen)
        assert torch.allclose(found["video"][k].flatten(), above["video"][k] @ second @ first, atol=1e-6)
    assert torch.allclose(found["audio"].flatten(1), above["audio"], atol=1e-6)


def encoded_and_watched(whole: Fused, given: dict[str, Tensor]) -> tuple[dict[str, Tokens], list[Tensor]]:
    """The encoders' tokens, and what the layers of the video's saw, (B, heads, T, T) each."""
    layers = [stage for stage in whole.encoders["video"].stages if hasattr(stage, "watched")]
    for layer in layers:
        layer.watched = []
    with torch.no_grad():
        tokens = whole.eval().encode(given)
    return tokens, [layer.watched[0] for layer in layers]


def test_it_knows_the_way_through_every_mixer():
    assert {type(make(WIDTHS)) for make in MIXERS.values()} == set(WAYS)


def test_a_mixer_without_a_way_says_so():
    class Other(nn.Module):
        takes, dims = WIDTHS, WIDTHS

        def forward(self, tokens):
            return tokens

    with pytest.raises(UserError, match="not Other"):
        relevance(model([Other()], MERGERS["mean"](WIDTHS)), batch())
