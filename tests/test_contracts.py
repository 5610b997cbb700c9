"""What every encoder, mixer, merger and head must do, over the tables: a new entry is tested by being in its table."""

from __future__ import annotations

import inspect
from itertools import combinations

import pytest
import torch

from crossfade.clip import Spec, Tokens
from crossfade.models import ENCODERS, HEADS, MERGERS, MIXERS
from crossfade.models.encoder import Encoder
from crossfade.models.masks import full_mask, presence

TINY_WAVLM = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "num_buckets": 16,
    "max_bucket_distance": 20,
}
TINY_VIDEOMAE = {"frames": 4, "size": 32, "layers": 2, "dim": 16, "heads": 2, "mlp": 24}
TINY_NCNN = """7767517
7 8
Input          in     0 1 x
Convolution    stem   1 1 x a 0=8 1=3 3=2 4=1 5=1 6=216 9=1
Split          both   1 2 a b c
Convolution    branch 1 1 b d 0=8 1=3 4=1 5=1 6=576 9=1
BinaryOp       join   2 1 c d e
Pooling        pool   1 1 e f 0=1 4=1
InnerProduct   scores 1 1 f g 0=5 1=1 2=40
"""
OPTIONS = {  # per entry: several sets of small options
    "light_cnn": [{}, {"tokens": 4, "width": 12}],
    "audio_resnet18": [{}, {"tokens": 3}],
    "vggish": [{"frames": 16, "mels": 32}, {"frames": 35, "mels": 16, "rows": "time"}],
    "wavlm": [
        {"config": TINY_WAVLM},
        {"config": TINY_WAVLM | {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}, "normalize": True},
    ],
    "frame_cnn": [{"width": 8}],
    "video_cnn3d": [{"width": 8}],
    "videomae": [TINY_VIDEOMAE, TINY_VIDEOMAE | {"frames": 6, "patch": 8, "norm": True}],
    "picture_cnn": [{"width": 8}, {"width": 4, "depth": 2, "channels": 3}],
    "depthwise_stack": [{}, {"channels": 3}],
    "mobilenet_v2": [{}, {"channels": 1, "stem_stride": 1}],
    "mobilenet_v4": [{}, {"channels": 1, "stem_stride": 1}],
    "efficientnet_lite0": [{"channels": 2}],
    "efficientnet_b0": [{}],
    "resnet18": [{}, {"channels": 1}, {"stem_stride": 1}, {"channels": 1, "tokens": "map"}, {"tokens": "map", "stem_stride": 1}],
    "resnet34": [{}],
    "resnet50": [{}],
    "timm": [
        {"name": "vit_tiny_patch16_224", "options": {"img_size": 32, "depth": 2}},
        {"name": "convnext_atto"},
        {"name": "test_resnet", "channels": 1},
        {"name": "vit_tiny_patch16_224", "options": {"dynamic_img_size": True, "depth": 2}},
    ],
    "ncnn": [{"graph": TINY_NCNN}, {"graph": TINY_NCNN, "cut": "join", "colours": "bgr"}],
}
CASES = [pytest.param(name, options, id=f"{name}-{k}") for name in ENCODERS for k, options in enumerate(OPTIONS.get(name, [{}]))]
SIZES = {1: (4800,), 3: (1, 16, 60), 4: (5, 3, 32, 32)}  # an input a number of axes
TIME = {1: 0, 3: 2, 4: 0}  # the axis of time among them
DIMS = {"audio": 6, "video": 10, "depth": 4}
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(DIMS, size)]


def built(name: str, options: dict) -> Encoder:
    torch.manual_seed(0)
    return ENCODERS[name](**options).eval()


def inputs(spec: Spec, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A random input for a spec and a mask in which the first clip is whole and the second is two thirds real."""
    size = [want or have for want, have in zip(spec.shape, SIZES[len(spec.shape)], strict=True)]
    x = torch.randn(batch, *size, generator=torch.Generator().manual_seed(1))
    steps = size[TIME[len(spec.shape)]]
    lengths = torch.tensor([steps, 2 * steps // 3])[:batch]
    return x, torch.arange(steps) < lengths[:, None]


def with_garbage(x: torch.Tensor, mask: torch.Tensor, value: float) -> torch.Tensor:
    shape = [len(x)] + [1] * (x.ndim - 1)
    shape[1 + TIME[x.ndim - 1]] = -1
    return torch.where(mask.view(shape), x, value)


def test_every_encoder_is_tested_with_options_that_it_has():
    assert set(OPTIONS) == set(ENCODERS)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_tokens_have_the_declared_width_and_a_mask(name: str, options: dict):
    encoder = built(name, options)
    x, mask = inputs(encoder.spec)
    tokens, unmasked = encoder(x, mask), encoder(x)
    assert tokens.x.shape == (2, tokens.x.shape[1], encoder.dim)
    assert tokens.mask is not None and tokens.mask.shape == tokens.x.shape[:2] and tokens.mask.dtype == torch.bool
    assert tokens.mask[0].all() and unmasked.mask is None
    assert torch.allclose(tokens.x[0], unmasked.x[0], atol=1e-5)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_all_parameters_lie_in_stages_and_all_learn(name: str, options: dict):
    encoder = built(name, options).train()
    x, _ = inputs(encoder.spec)
    (encoder(x).x * torch.randn(encoder.dim, generator=torch.Generator().manual_seed(2))).sum().backward()
    assert all(parameter.startswith("stages.") for parameter, _ in encoder.named_parameters())
    without = [parameter for parameter, value in encoder.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize(("name", "options"), CASES)
def test_running_to_a_stage_and_on_from_it_equals_running_whole(name: str, options: dict):
    encoder = built(name, options)
    x, mask = inputs(encoder.spec)
    whole = encoder(x, mask)
    for k in range(len(encoder.stages) + 1):
        state = encoder.run(encoder.begin(x, mask), 0, k)
        assert all(len(entry) == len(x) for entry in state.values()), "batch first"
        stored = {key: entry.detach().clone() for key, entry in state.items()}
        tokens = encoder.finish(encoder.run(stored, k))
        assert torch.equal(tokens.x, whole.x) and torch.equal(full_mask(tokens), full_mask(whole))


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("value", [1e3, -7.0, float("nan")])
def test_what_lies_under_a_false_mask_cannot_reach_the_answer(name: str, options: dict, value: float):
    encoder = built(name, options)
    x, mask = inputs(encoder.spec)
    clean, dirty = encoder(x, mask), encoder(with_garbage(x, mask, value), mask)
    assert torch.equal(clean.x, dirty.x) and torch.equal(clean.mask, dirty.mask)


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_clip_that_is_all_padding_gives_finite_masked_tokens(name: str, options: dict, value: float):
    encoder = built(name, options)
    x, mask = inputs(encoder.spec)
    mask[1] = False
    tokens = encoder(with_garbage(x, mask, value), mask)
    assert tokens.x.isfinite().all() and not tokens.mask[1].any()


@pytest.mark.parametrize("table", [ENCODERS, MIXERS, MERGERS, HEADS], ids=["encoders", "mixers", "mergers", "heads"])
def test_every_factory_is_its_own_schema(table: dict):
    for factory in table.values():
        parameters = inspect.signature(factory, eval_str=True).parameters.values()
        options = [parameter for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
        assert all(p.annotation is not p.empty for p in options), factory
        assert {p.name for p in options if p.default is p.empty} <= {"name", "graph"}, factory  # of these there is no best one
        assert factory.__doc__


def streams(subset: tuple[str, ...], batch: int = 3) -> dict[str, Tokens]:
    """Random tokens; every second stream has a mask, and the last clip's second stream is all padding."""
    generator = torch.Generator().manual_seed(3)
    tokens = {name: Tokens(torch.randn(batch, 4, DIMS[name], generator=generator).requires_grad_()) for name in subset}
    for name in subset[1:]:
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
        tokens[name] = Tokens(tokens[name].x, mask)
    return tokens


@pytest.mark.parametrize("merger", MERGERS)
@pytest.mark.parametrize("mixer", [None, *MIXERS])
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_mixer_and_merger_takes_any_subset_of_streams(mixer: str | None, merger: str, subset: tuple[str, ...]):
    torch.manual_seed(0)
    mix = [MIXERS[mixer](DIMS, dim=8, heads=2)] if mixer else []
    merge = MERGERS[merger](mix[0].dims if mix else DIMS)
    tokens = streams(subset)
    for part in mix:
        tokens = part.eval()(tokens)
        assert {name: found.x.shape[2] for name, found in tokens.items()} == {name: part.dims[name] for name in subset}
    embeddings = merge.eval()(tokens, presence(tokens, merge.takes))
    widths = {name: embedding.shape for name, embedding in embeddings.items() if name in merge.dims}
    assert widths == {name: (3, width) for name, width in merge.dims.items() if name in subset or name == "joint"}
    assert all(embedding.isfinite().all() for embedding in embeddings.values())


@pytest.mark.parametrize("merger", MERGERS)
@pytest.mark.parametrize("mixer", [None, *MIXERS])
def test_an_absent_stream_and_one_that_is_all_padding_are_the_same(mixer: str | None, merger: str):
    torch.manual_seed(0)
    mix = [MIXERS[mixer](DIMS, dim=8, heads=2).eval()] if mixer else []
    merge = MERGERS[merger](mix[0].dims if mix else DIMS).eval()
    there = streams(("audio", "video"))
    padded = there | {"depth": Tokens(torch.full((3, 4, DIMS["depth"]), 9.0), torch.zeros(3, 4, dtype=torch.bool))}
    for part in mix:
        there, padded = part(there), part(padded)
    expected, found = merge(there, presence(there, merge.takes)), merge(padded, presence(padded, merge.takes))
    assert all(torch.allclose(expected[name], found[name], atol=1e-6) for name in expected)


@pytest.mark.parametrize("merger", MERGERS)
@pytest.mark.parametrize("mixer", [None, *MIXERS])
def test_gradients_reach_every_weight_of_mixer_and_merger(mixer: str | None, merger: str):
    torch.manual_seed(0)
    mix = [MIXERS[mixer](DIMS, dim=8, heads=2, drop_path=0.0)] if mixer else []
    merge = MERGERS[merger](mix[0].dims if mix else DIMS)
    tokens = streams(tuple(DIMS))
    for part in mix:
        tokens = part(tokens)
    torch.stack([embedding.square().sum() for embedding in merge(tokens).values()]).sum().backward()
    weights = [*merge.named_parameters(), *[pair for part in mix for pair in part.named_parameters()]]
    assert [name for name, weight in weights if weight.grad is None or not weight.grad.isfinite().all()] == []


@pytest.mark.parametrize("head", HEADS)
def test_heads_give_one_score_a_class(head: str):
    width = 4 if head == "identity" else 6
    assert HEADS[head](width, 4)(torch.randn(3, width)).shape == (3, 4)
