"""Attention rollout (arXiv 2005.00928): how much of a model's joint embedding comes from which token of which stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfade.clip import Tokens, UserError
from crossfade.models.bottleneck import Bottleneck
from crossfade.models.fusion import CrossAttention
from crossfade.models.masks import full_mask, presence

if TYPE_CHECKING:
    from crossfade.clip import Named
    from crossfade.models.model import Fused

Seen = Mapping[nn.Module, list[Tensor]]  # module -> its attentions (B, Q, K), heads averaged, in the order in which they were made


def relevance(model: Fused, batch: Named) -> Named:
    """Batch as in `Fused.forward` -> {stream: (B, T)}, ≥ 0, 0 where padded; all streams together sum to 1 in every clip.

    A layer is half its attention and half what passes by it. Layers that cannot be watched pass every token on as it is; what comes from
    learnt tokens is left out. Where nothing weighs the streams (mean, concat, each), those present have the same share, and their real
    tokens too. The model runs in eval mode and is as before afterwards.
    """
    with torch.no_grad(), watching(model) as seen:
        levels = [model.encode(batch)]
        for mixer in model.mix:
            levels.append(mixer(levels[-1]))
        merged = model.merge(levels[-1], presence(levels[0], model.merge.takes))
        found = _merged(model.merge, levels[-1], merged, seen)
        for mixer, tokens in zip(reversed(model.mix), reversed(levels[:-1]), strict=True):
            found = _way_through(mixer)(mixer, tokens, found, seen)
        return _normalised({name: _through_layers(model.encoders[name], given, seen) for name, given in found.items()})


def maps(model: Fused, batch: Named) -> Named:
    """`relevance` of the streams whose encoders say how their tokens lie -> {stream: (B, steps, rows, columns)}.

    The batch must hold the streams themselves, not stored states.
    """
    found = relevance(model, batch)
    grids = {name: model.encoders[name].grid(batch[name]) for name in found if model.encoders[name].grid and name in batch}
    return {name: found[name].unflatten(1, grid) for name, grid in grids.items()}


@contextmanager
def watching(model: nn.Module) -> Iterator[Seen]:
    """Within, the model is in eval mode, and what its attention saw is collected, heads averaged at once, as they are many."""
    modes = [(module, module.training) for module in model.modules()]
    watched: dict[Any, list[Tensor]] = {module: [] for module in model.modules() if hasattr(module, "watched")}
    hooks = [module.register_forward_hook(partial(_collect, found)) for module, found in watched.items()]
    try:
        model.eval()
        for module in watched:
            module.watched = []
        yield watched
    finally:
        for hook in hooks:
            hook.remove()
        for module in watched:
            module.watched = None
        for module, training in modes:
            module.training = training


def _collect(found: list[Tensor], module: Any, inputs: object, output: object) -> None:
    found += [attention.mean(1) for attention in module.watched]
    module.watched = []


def rolled(relevance: Tensor, attention: Tensor) -> Tensor:
    """Relevance after a layer (B, T), its attention (B, T, T) -> relevance before it (B, T)."""
    return (relevance + (relevance[:, None] @ attention)[:, 0]) / 2


def _through_layers(module: nn.Module, relevance: Tensor, seen: Seen) -> Tensor:
    """(B, T) after all layers of a module that can be watched, which lie one after another -> (B, T) before them."""
    attentions = [attention for layer in module.modules() for attention in seen.get(layer, [])]
    for attention in reversed(attentions):
        relevance = rolled(relevance, attention)
    return relevance


def _merged(merge: Any, tokens: Mapping[str, Tokens], merged: Named, seen: Seen) -> Named:
    """{stream: (B, T)}: what the merger weighs each stream with, spread evenly over its real tokens, as mergers take their mean."""
    present = presence(tokens, merge.takes)
    share = merged.get("gate", present / present.sum(1, keepdim=True).clamp(min=1)) * present
    columns = dict(zip(merge.takes, _through_layers(merge, share, seen).T, strict=True))
    return {name: columns[name][:, None] * _even(full_mask(found)) for name, found in tokens.items()}


def _even(real: Tensor) -> Tensor:
    return real / real.sum(1, keepdim=True).clamp(min=1)


def _through_bottleneck(mixer: Bottleneck, tokens: Mapping[str, Tokens], after: Named, seen: Seen) -> Named:
    """One joint graph of all streams' tokens and the shared ones, an update of which counts for every present stream alike."""
    weights = _even(presence(tokens, tokens))
    own = {name: F.pad(given, (0, 1 + tokens[name].x.shape[1] - given.shape[1])) for name, given in after.items()}
    shared = weights.new_zeros(len(weights), len(mixer.bottlenecks))
    for layer in reversed(range(mixer.depth)):
        attention = {name: seen[mixer.streams[name].layers[layer].attention][0] for name in own}
        if layer < mixer.fuse_from:
            own = {name: rolled(given, attention[name]) for name, given in own.items()}
        else:
            own, shared = _through_meeting(own, shared, weights, attention)
    return {name: given[:, 1:] for name, given in own.items()}


def _through_meeting(own: Named, shared: Tensor, weights: Tensor, attention: Named) -> tuple[Named, Tensor]:
    """{stream: (B, 1 + T)}, shared (B, N) after a layer that sees both; weights (B, n) -> the same before it"""
    both = {name: torch.cat([given, shared * weight[:, None]], 1) for (name, given), weight in zip(own.items(), weights.T, strict=True)}
    before = {name: rolled(given, attention[name]) for name, given in both.items()}
    count = shared.shape[1]
    return {name: x[:, :-count] for name, x in before.items()}, torch.stack([x[:, -count:] for x in before.values()]).sum(0)


def _through_cross_attention(mixer: CrossAttention, tokens: Mapping[str, Tokens], after: Named, seen: Seen) -> Named:
    """Half of each token comes from the other streams, all of it from itself where no other stream is there."""
    before = dict(after)
    for name, attention in zip(tokens, seen[mixer], strict=False):  # a stream alone asks nobody
        others = [other for other in tokens if other != name]
        heard = torch.cat([full_mask(tokens[other]) for other in others], 1).any(1)
        passed = after[name] / 2 * heard[:, None]
        parts = (passed[:, None] @ attention)[:, 0].split([tokens[other].x.shape[1] for other in others], 1)
        before[name] = before[name] - passed
        before |= {other: before[other] + part for other, part in zip(others, parts, strict=True)}
    return before


WAYS: dict[type, Callable[..., Named]] = {Bottleneck: _through_bottleneck, CrossAttention: _through_cross_attention}


def _way_through(mixer: nn.Module) -> Callable[..., Named]:
    """The relevance of a mixer's inputs from that of its outputs."""
    if type(mixer) not in WAYS:
        raise UserError(f"rollout: it knows the way through {', '.join(kind.__name__ for kind in WAYS)}, not {type(mixer).__name__}")
    return WAYS[type(mixer)]


def _normalised(found: Named) -> Named:
    total = torch.stack([given.sum(1) for given in found.values()]).sum(0)[:, None]
    return {name: given / torch.where(total > 0, total, 1.0) for name, given in found.items()}
