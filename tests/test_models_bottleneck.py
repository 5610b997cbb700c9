"""MBT against a plain loop of the paper's equations, the two-token transformer against torch's; who is absent changes nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossfade.clip import Tokens, UserError
from crossfade.models.bottleneck import Bottleneck, bottleneck
from crossfade.models.fusion import mean
from crossfade.models.token_transformer import token_transformer
from crossfade.models.transformer import Layer

DIMS = {"audio": 6, "video": 10, "depth": 4}
LENGTHS = {"audio": 5, "video": 3, "depth": 2}
HEADS = 2


def tokens(*names: str, batch: int = 3) -> dict[str, Tokens]:
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(batch, LENGTHS[name], DIMS[name], generator=generator) for name in DIMS}
    return {name: Tokens(drawn[name]) for name in names}


def mixer(*names: str, **options: Any) -> Bottleneck:
    """A small one with every parameter moved away from where it starts, biases and norms too."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"dim": 8, "layers": 3, "heads": HEADS, "fuse_from": 1}
    made = bottleneck({name: DIMS[name] for name in names}, **sizes | options)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.eval()


def layer_norm(x: list[float], weight: list[float], bias: list[float]) -> list[float]:
    centre = sum(x) / len(x)
    spread = sum((value - centre) ** 2 for value in x) / len(x)
    return [(value - centre) / math.sqrt(spread + 1e-5) * w + b for value, w, b in zip(x, weight, bias, strict=True)]


def affine(x: list[float], weight: list[list[float]], bias: list[float]) -> list[float]:
    return [sum(w * value for w, value in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def added(x: list[float], y: list[float]) -> list[float]:
    return [a + b for a, b in zip(x, y, strict=True)]


def self_attention(z: list[list[float]], get) -> list[list[float]]:
    """MSA: for each head softmax(q k / √d) v, heads side by side, then a linear layer."""
    width = len(z[0])
    side = width // HEADS
    asked = [affine(x, get("attention.ask.weight"), get("attention.ask.bias")) for x in z]
    outputs = []
    for query in asked:
        heard: list[float] = []
        for first in range(0, width, side):
            q = query[first : first + side]
            scores = [sum(a * b for a, b in zip(q, k[width + first :], strict=False)) / math.sqrt(side) for k in asked]
            exponents = [math.exp(score) for score in scores]
            values = [v[2 * width + first : 2 * width + first + side] for v in asked]
            heard += [sum(e * v[j] for e, v in zip(exponents, values, strict=True)) / sum(exponents) for j in range(side)]
        outputs.append(affine(heard, get("attention.tell.weight"), get("attention.tell.bias")))
    return outputs


def transformer(z: list[list[float]], get) -> list[list[float]]:
    """y = MSA(LN(z)) + z, then MLP(LN(y)) + y, on a list of tokens."""
    normed = [layer_norm(x, get("norm1.weight"), get("norm1.bias")) for x in z]
    y = [added(a, x) for a, x in zip(self_attention(normed, get), z, strict=True)]
    return [added(mlp(layer_norm(x, get("norm2.weight"), get("norm2.bias")), get), x) for x in y]


def mlp(x: list[float], get) -> list[float]:
    hidden = affine(x, get("mlp.0.weight"), get("mlp.0.bias"))
    return affine([h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden], get("mlp.3.weight"), get("mlp.3.bias"))


def published(made: Bottleneck, clip: dict[str, Tensor], *, layers: int, fuse_from: int, positions: bool) -> dict[str, list[list[float]]]:
    """The paper's network on one clip {stream: (T, D)} in plain Python: [z_cls ∥ z] of each stream, z_fsn, the mean of its updates."""
    weights = {name: value.double().tolist() for name, value in made.state_dict().items()}
    z = {}
    for name, x in clip.items():
        own = f"streams.{name}"
        z[name] = [affine(row, weights[f"{own}.project.weight"], weights[f"{own}.project.bias"]) for row in x.double().tolist()]
        z[name] = [added(row, place) for row, place in zip(z[name], weights[f"{own}.positions"], strict=False)] if positions else z[name]
        z[name] = [*weights[f"{own}.cls"], *z[name]]
    fsn = weights["bottlenecks"]
    for index in range(layers):
        updates = []
        for name in z:

            def get(part: str, at: str = f"streams.{name}.layers.{index}"):
                return weights[f"{at}.{part}"]

            if index < fuse_from:
                z[name] = transformer(z[name], get)
            else:
                both = transformer([*z[name], *fsn], get)
                z[name], update = both[: len(z[name])], both[len(z[name]) :]
                updates.append(update)
        if updates:
            fsn = [[sum(column) / len(updates) for column in zip(*rows, strict=True)] for rows in zip(*updates, strict=True)]
    return {name: [layer_norm(x, weights["norm.weight"], weights["norm.bias"]) for x in rows] for name, rows in z.items()}


@pytest.mark.parametrize("names", [("audio",), ("audio", "video"), ("audio", "video", "depth")], ids="+".join)
@pytest.mark.parametrize(("fuse_from", "positions"), [(0, False), (1, True)])
def test_it_is_the_papers_equations(names: tuple[str, ...], fuse_from: int, positions: bool):
    given = tokens(*names)
    made = mixer(
        *names, fuse_from=fuse_from, out="all", bottlenecks=2, positions={name: LENGTHS[name] for name in names} if positions else None
    )
    found = made.double()({name: Tokens(x.double()) for name, (x, _) in given.items()})
    for clip in range(2):
        expected = published(made, {name: x[clip] for name, (x, _) in given.items()}, layers=3, fuse_from=fuse_from, positions=positions)
        for name in names:
            assert torch.allclose(found[name].x[clip], torch.tensor(expected[name], dtype=torch.double), atol=1e-6, rtol=0), name


def test_cls_alone_and_its_mean_are_the_papers_average():
    made, short = (mixer("audio", "video", out=out) for out in ("all", "cls"))
    given = tokens("audio", "video")
    every, cls = made(given), short(given)
    assert all(cls[name].x.shape == (3, 1, 8) and torch.equal(cls[name].x[:, 0], every[name].x[:, 0]) for name in given)
    joint = mean(short.dims, project=False)(cls)["joint"]
    head = nn.Linear(8, 4)
    average = (head(every["audio"].x[:, 0]) + head(every["video"].x[:, 0])) / 2
    assert torch.allclose(head(joint), average, atol=1e-6)


@pytest.mark.parametrize("value", [9.0, -1e4, float("nan")])
def test_padding_cannot_change_an_answer(value: float):
    made = mixer("audio", "video", out="all")
    given = tokens("audio", "video")
    expected = made(given)
    padding = torch.full((3, 4, DIMS["audio"]), value)
    mask = torch.arange(9).expand(3, -1) < 5
    found = made(given | {"audio": Tokens(torch.cat([given["audio"].x, padding], 1), mask)})
    assert torch.allclose(found["audio"].x[:, :6], expected["audio"].x, atol=1e-5)
    assert torch.allclose(found["video"].x, expected["video"].x, atol=1e-5)
    assert found["audio"].mask is not None and found["audio"].mask[0].tolist() == [True] * 6 + [False] * 4


@pytest.mark.parametrize("value", [9.0, float("nan")])
def test_a_stream_absent_in_one_clip_leaves_that_clip_to_the_others(value: float):
    """Clip 0 has no video, clip 1 has no audio, clip 2 has both: each as it would be in a batch of its own."""
    made = mixer("audio", "video", "depth")
    given = tokens("audio", "video", "depth")
    masked = dict(given)
    for clip, name in ((0, "video"), (1, "audio")):
        mask = torch.ones(3, LENGTHS[name], dtype=torch.bool)
        mask[clip] = False
        masked[name] = Tokens(torch.where(mask[:, :, None], given[name].x, value), mask)
    found, here = made(masked), [("audio", "depth"), ("video", "depth"), ("audio", "video", "depth")]
    for clip, names in enumerate(here):
        alone = made({name: Tokens(given[name].x[clip : clip + 1]) for name in names})
        assert all(torch.allclose(found[name].x[clip], alone[name].x[0], atol=1e-5) for name in names)
        assert {name: bool(found[name].mask[clip]) for name in DIMS} == {name: name in names for name in DIMS}


def test_streams_hear_of_one_another_from_the_second_fused_layer_on():
    made, given = mixer("audio", "video", layers=4, fuse_from=1), tokens("audio", "video")
    outputs: list[Tensor] = []
    for layer in made.streams["audio"].layers:
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(output[:, :6]))
    made(given)
    made(given | {"video": Tokens(given["video"].x + 1)})
    assert [torch.equal(outputs[k], outputs[4 + k]) for k in range(4)] == [True, True, False, False]


def test_sizes_of_the_parts():
    """Per stream: projection, CLS, positions, layers of 4d² + 4d + 2·d·mlp + mlp + d + 4d; shared: bottlenecks and a norm."""
    d, wide, layers = 16, 40, 2
    layer = 4 * d * d + 4 * d + 2 * d * wide + wide + d + 4 * d
    streams = sum(width * d + d + d + layers * layer for width in DIMS.values()) + 7 * d
    made = bottleneck(DIMS, dim=d, layers=layers, heads=4, mlp=wide, bottlenecks=5, positions={"video": 7})
    assert sum(parameter.numel() for parameter in made.parameters()) == streams + 5 * d + 2 * d


def test_in_training_whole_layers_are_skipped_and_more_so_further_on():
    made = bottleneck(DIMS, dim=8, layers=3, heads=2, drop_path=0.4)
    assert [layer.drop_path for layer in made.streams["audio"].layers] == [0.0, 0.2, 0.4]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dim": 10, "heads": 4}, "dim 10 is not a multiple of heads 4"),
        ({"layers": 3, "fuse_from": 2}, r"fuse_from: found 2; of 3 layers at least two must fuse .*: 0 … 1"),
        ({"fuse_from": -1}, "found -1"),
        ({"bottlenecks": 0}, "layers 4, bottlenecks 0; at least 2 and 1"),
        ({"layers": 1}, "layers 1, bottlenecks 4; at least 2 and 1"),
        ({"positions": {"sound": 4}}, "positions.sound: no such stream; there are audio, video, depth"),
    ],
)
def test_what_cannot_be_built_says_so(options: dict, says: str):
    with pytest.raises(UserError, match=says):
        bottleneck(DIMS, **options)


def test_more_tokens_than_positions_says_so():
    with pytest.raises(UserError, match=r"positions\.audio: found 4, but the stream has 5 tokens"):
        mixer("audio", positions={"audio": 4})(tokens("audio"))


def like_torchs(layer: Layer, dim: int, mlp: int, norm_first: bool) -> nn.TransformerEncoderLayer:
    theirs = nn.TransformerEncoderLayer(dim, HEADS, mlp, 0.0, "gelu", batch_first=True, norm_first=norm_first)
    names = {"attention.ask.": "self_attn.in_proj_", "attention.tell": "self_attn.out_proj", "mlp.0": "linear1", "mlp.3": "linear2"}
    state = layer.state_dict()
    for ours, other in names.items():
        state = {name.replace(ours, other): value for name, value in state.items()}
    theirs.load_state_dict(state)
    return theirs.eval()


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_layer_is_torchs_encoder_layer(norm_first: bool):
    torch.manual_seed(0)
    layer = Layer(8, heads=HEADS, mlp=12, dropout=0.0, norm_first=norm_first).eval()
    x, real = torch.randn(2, 4, 8), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    theirs = like_torchs(layer, 8, 12, norm_first)(x, src_key_padding_mask=~real)
    assert torch.allclose(layer(x, real)[real], theirs[real], atol=1e-5)


def test_watching_a_layer_keeps_its_answer_and_its_probabilities():
    layer = Layer(8, heads=HEADS, mlp=12, dropout=0.0, norm_first=True).eval()
    x, real = torch.randn(2, 4, 8), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    before, layer.attention.watched = layer(x, real), []
    assert torch.equal(layer(x, real), before)
    [seen] = layer.attention.watched
    assert seen.shape == (2, HEADS, 4, 4) and torch.allclose(seen.sum(3), torch.ones(2, HEADS, 4)) and (seen[1, :, :, 2:] == 0).all()


def test_the_two_token_transformer_is_the_originals_graph():
    """Linear a stream -> two tokens -> nn.TransformerEncoder (post-norm) -> mean -> LayerNorm, with marks at their start of 0."""
    torch.manual_seed(0)
    dims = {"video": 6, "audio": 4}
    merge: Any = token_transformer(dims, dim=8, heads=HEADS, mlp=12).eval()
    video, audio = torch.randn(3, 6), torch.randn(3, 4)
    x = torch.stack([merge.embeddings.project["video"](video), merge.embeddings.project["audio"](audio)], 1)
    for layer in merge.rule.layers:
        x = like_torchs(layer, 8, 12, False)(x)
    found = merge({"video": Tokens(video[:, None]), "audio": Tokens(audio[:, None])})["joint"]
    assert torch.allclose(found, merge.rule.norm(x.mean(1)), atol=1e-5) and (merge.rule.marks == 0).all()


def test_a_token_of_an_absent_stream_is_not_seen():
    torch.manual_seed(0)
    merge: Any = token_transformer({"video": 6, "audio": 4}, dim=8, heads=HEADS, mlp=12).eval()
    nn.init.normal_(merge.rule.marks)
    video, audio = Tokens(torch.randn(3, 1, 6)), Tokens(torch.randn(3, 1, 4))
    hidden = Tokens(torch.full((3, 1, 4), 1e3), torch.zeros(3, 1, dtype=torch.bool))
    alone = merge({"video": video})["joint"]
    assert torch.allclose(merge({"video": video, "audio": hidden})["joint"], alone, atol=1e-6)
    assert not torch.allclose(merge({"video": video, "audio": audio})["joint"], alone, atol=1e-3)
