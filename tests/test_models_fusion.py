"""Fusion: gates that are σ, masks that are kept, absent streams that leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossfade.clip import Tokens, UserError
from crossfade.models import MERGERS
from crossfade.models.fusion import concat, cross_attention, drop_path, each, gated, mean
from crossfade.models.masks import full_mask, masked_mean

DIMS = {"audio": 6, "video": 10}


def tokens(batch: int = 4, dims: dict[str, int] = DIMS) -> dict[str, Tokens]:
    generator = torch.Generator().manual_seed(0)
    return {name: Tokens(torch.randn(batch, 3, width, generator=generator)) for name, width in dims.items()}


def test_the_gate_of_two_streams_is_a_sigmoid():
    torch.manual_seed(0)
    merge = gated(DIMS, dim=8).eval()
    found = merge(tokens())
    a, v = merge.embeddings(tokens(), torch.ones(4, 2, dtype=torch.bool))
    g = torch.sigmoid(merge.rule.gate(torch.cat([a, v], 1)))
    assert torch.allclose(found["gate"], torch.cat([g, 1 - g], 1), atol=1e-6)
    assert torch.allclose(found["joint"], g * a + (1 - g) * v, atol=1e-6)


def test_gates_sum_to_one_and_absent_streams_get_none():
    torch.manual_seed(0)
    merge = gated(DIMS | {"depth": 4}, dim=8).eval()
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 0]], dtype=torch.bool)
    gate = merge(tokens(dims=DIMS | {"depth": 4}), present)["gate"]
    assert torch.allclose(gate.sum(1), torch.ones(4)) and (gate[~present] == 0).all() and (gate[present] > 0).all()
    assert gate[2, 2] == 1 and gate[3, 1] == 1


@pytest.mark.parametrize("merge", [mean, concat, gated])
def test_an_absent_stream_passes_no_bias_of_its_projection(merge):
    torch.manual_seed(0)
    module = merge(DIMS, dim=8).eval()
    present = torch.tensor([[True, False]]).expand(4, -1)
    before = module(tokens(), present)["joint"]
    nn.init.constant_(module.embeddings.project["video"].bias, 100.0)
    assert torch.equal(module(tokens(), present)["joint"], before)
    assert torch.equal(module({"audio": tokens()["audio"]})["joint"], before)


def test_mean_counts_the_present_only():
    found = mean({"audio": 6, "video": 6}, project=False)(same_width(), torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]]).bool())
    a, v = (stream.x.mean(1) for stream in same_width().values())
    assert torch.allclose(found["joint"], torch.stack([(a[0] + v[0]) / 2, a[1], v[2], torch.zeros(6)]), atol=1e-6)


def same_width() -> dict[str, Tokens]:
    return tokens(dims={"audio": 6, "video": 6})


def test_each_keeps_the_streams_apart():
    found = each(DIMS)(tokens())
    assert torch.equal(found["video"], tokens()["video"].x.mean(1)) and set(found) == set(DIMS)


@pytest.mark.parametrize("name", MERGERS)
def test_a_merger_that_takes_means_is_content_with_one_token_a_stream(name: str):
    """So that of a frozen encoder its mean is stored, not its tokens."""
    torch.manual_seed(0)
    merge = MERGERS[name](DIMS).eval()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0], [0, 1, 0]]).bool()
    given = tokens() | {"video": Tokens(tokens()["video"].x, mask)}
    means = {stream: Tokens(masked_mean(found)[:, None], full_mask(found).any(1, keepdim=True)) for stream, found in given.items()}
    present = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1]]).bool()
    whole, short = merge(given, present), merge(means, present)
    assert merge.takes_means and whole.keys() == short.keys() and all(torch.equal(whole[key], short[key]) for key in whole)


def test_cross_attention_is_torchs_between_two_streams():
    torch.manual_seed(0)
    mixer = cross_attention(DIMS, dim=8, heads=2).eval()
    mask = torch.tensor([[True, True, False]]).expand(4, -1)
    given = tokens() | {"video": Tokens(tokens()["video"].x, mask)}
    a, v = mixer.project["audio"](given["audio"].x), mixer.project["video"](given["video"].x)
    heard, _ = mixer.attend["audio"](a, v[:, :2], v[:, :2])
    assert torch.allclose(mixer(given)["audio"].x, mixer.norm["audio"](a + heard), atol=1e-5)


def test_a_stream_alone_is_projected_and_normalised():
    torch.manual_seed(0)
    mixer = cross_attention(DIMS, dim=8, heads=2).eval()
    alone = mixer({"audio": tokens()["audio"]})
    assert torch.equal(alone["audio"].x, mixer.norm["audio"](mixer.project["audio"](tokens()["audio"].x)))


def test_drop_path_takes_whole_clips_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    dropped = drop_path(x, 0.25, training=True)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(dropped.amax((1, 2)), dropped.amin((1, 2))) and abs(dropped.mean() - 1) < 0.05
    assert torch.equal(drop_path(x, 0.25, training=False), x)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: cross_attention(DIMS, dim=10, heads=4), "dim 10 is not a multiple of heads 4"),
        (lambda: gated(DIMS, project=False), "different widths .audio 6, video 10"),
        (lambda: gated({"audio": 6}), "at least two; found audio"),
        (lambda: concat({"type": 6}), "stream name among type"),
    ],
)
def test_what_cannot_be_built_says_so(build, says: str):
    with pytest.raises(UserError, match=says):
        build()
