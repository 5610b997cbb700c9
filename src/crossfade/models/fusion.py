"""Fusion in two small steps: a mixer (tokens -> tokens) lets streams see one another, a merger (tokens -> embeddings) joins them.

Every one of them is defined for any non-empty subset of its streams, in the batch (an absent key) and in one clip (a mask all False).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from crossfade.clip import Tokens, UserError
from crossfade.models.masks import attendable, full_mask, masked_mean, presence

if TYPE_CHECKING:
    from crossfade.clip import Named


class Mixer(Protocol):
    """{stream: (B, T_s, D_s)} -> {stream: (B, T_s, D)}. `takes` and `dims`: stream -> width before and after."""

    takes: dict[str, int]
    dims: dict[str, int]

    def __call__(self, tokens: Mapping[str, Tokens]) -> dict[str, Tokens]: ...


class Merger(Protocol):
    """{stream: (B, T, D_s)} -> {embedding: (B, D)}. `takes`: stream -> width, ordered as `present` (B, n); `dims`: embedding -> width.

    `takes_means`: whether it looks at nothing but each stream's mean token, so that one token is as good as all.
    """

    takes: dict[str, int]
    dims: dict[str, int]
    takes_means: bool

    def __call__(self, tokens: Mapping[str, Tokens], present: Tensor | None = None) -> Named: ...


class CrossAttention(nn.Module):
    """Each stream, brought to one width, asks the tokens of all others, and adds what it hears: a Mixer.

    While `watched` is a list, each forward adds every stream's attention (B, heads, T, T_o) to it, streams in the order of the tokens.
    """

    def __init__(self, dims: Mapping[str, int], *, dim: int, heads: int, dropout: float, drop_path: float):
        super().__init__()
        self.takes, self.dims = dict(dims), dict.fromkeys(dims, dim)
        self.project = module_dict("stream", {name: nn.Linear(width, dim) for name, width in dims.items()})
        self.attend = nn.ModuleDict({name: nn.MultiheadAttention(dim, heads, dropout, batch_first=True) for name in dims})
        self.norm = nn.ModuleDict({name: nn.LayerNorm(dim) for name in dims})
        self.drop_path = drop_path
        self.watched: list[Tensor] | None = None

    def forward(self, tokens: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """{stream: (B, T_s, D_s)} -> {stream: (B, T_s, dim)}"""
        own = {name: Tokens(self.project[name](x), mask) for name, (x, mask) in tokens.items()}
        return {name: self._mixed(name, own) for name in own}

    def _mixed(self, name: str, own: Mapping[str, Tokens]) -> Tokens:
        x, mask = own[name]
        others = [tokens for other, tokens in own.items() if other != name]
        if others:
            x = x + drop_path(self._heard(name, x, others), self.drop_path, training=self.training)
        return Tokens(self.norm[name](x), mask)

    def _heard(self, name: str, x: Tensor, others: list[Tokens]) -> Tensor:
        """(B, T, dim), others (B, T_o, dim) -> (B, T, dim); zero for a clip in which no other stream is real."""
        keys = torch.cat([other.x for other in others], 1)
        real = torch.cat([full_mask(other) for other in others], 1)
        options = {"key_padding_mask": ~attendable(real), "need_weights": self.watched is not None, "average_attn_weights": False}
        heard, attention = self.attend[name](x, keys, keys, **options)
        if self.watched is not None:
            self.watched.append(attention)
        return heard.masked_fill(~real.any(1)[:, None, None], 0.0)


def cross_attention(
    dims: dict[str, int], *, dim: int = 128, heads: int = 4, dropout: float = 0.1, drop_path: float = 0.1
) -> CrossAttention:
    """A projection, a multi-head attention (with dropout on its weights) and a LayerNorm for each stream of `dims` (stream -> width).

    `drop_path` is the chance that a clip skips the attention while training (arXiv 1603.09382). UserError where heads do not divide dim.
    """
    if dim % heads:
        raise UserError(f"cross_attention: dim {dim} is not a multiple of heads {heads}")
    return CrossAttention(dims, dim=dim, heads=heads, dropout=dropout, drop_path=drop_path)


class Each(nn.Module):
    """No joint embedding: every stream keeps its own mean token, for late fusion by heads of its own."""

    takes_means = True

    def __init__(self, dims: Mapping[str, int]):
        super().__init__()
        self.takes, self.dims = dict(dims), dict(dims)

    def forward(self, tokens: Mapping[str, Tokens], present: Tensor | None = None) -> Named:
        """{stream: (B, T, D_s)} -> {stream: (B, D_s)}"""
        return {name: masked_mean(tokens[name]) for name in self.takes if name in tokens}


class Embeddings(nn.Module):
    """One embedding a stream, each through a Linear of its own where `dim` is given; exactly zero where the stream is absent."""

    def __init__(self, dims: Mapping[str, int], dim: int | None):
        super().__init__()
        self.takes = dict(dims)
        self.dims = {name: dim or width for name, width in dims.items()}
        self.project = module_dict("stream", {name: nn.Linear(width, dim) if dim else nn.Identity() for name, width in dims.items()})

    def forward(self, tokens: Mapping[str, Tokens], present: Tensor) -> list[Tensor]:
        """{stream: (B, T, D_s)}, (B, n) -> n × (B, D)"""
        like = next(iter(tokens.values())).x
        absent = {name: like.new_zeros(like.shape[0], width) for name, width in self.dims.items() if name not in tokens}
        found = {name: self.project[name](masked_mean(tokens[name])) for name in self.dims if name in tokens}
        return [(found | absent)[name].masked_fill(~here[:, None], 0.0) for name, here in zip(self.dims, present.T, strict=True)]


class Joint(nn.Module):
    """A Merger with one embedding, "joint": embeddings of the streams, then a rule (list of (B, D), present (B, n)) -> outputs."""

    takes_means = True

    def __init__(self, embeddings: Embeddings, rule: nn.Module, *, dim: int):
        super().__init__()
        self.embeddings, self.rule = embeddings, rule
        self.takes, self.dims = embeddings.takes, {"joint": dim}

    def forward(self, tokens: Mapping[str, Tokens], present: Tensor | None = None) -> Named:
        """{stream: (B, T, D_s)}, present (B, n) in the order of `takes` -> {"joint": (B, dim), and "gate": (B, n) where it has one}"""
        present = presence(tokens, self.takes) if present is None else present
        return self.rule(self.embeddings(tokens, present), present)


class Mean(nn.Module):
    """The plain mean over the streams that are present."""

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Named:
        """n × (B, D), (B, n) -> {"joint": (B, D)}"""
        return {"joint": torch.stack(embeddings, 1).sum(1) / present.sum(1, keepdim=True).clamp(min=1)}


class Concat(nn.Module):
    """All embeddings side by side through one hidden layer."""

    def __init__(self, width: int, dim: int, dropout: float):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Named:
        """n × (B, D_s), (B, n) -> {"joint": (B, dim)}"""
        return {"joint": self.hidden(torch.cat(embeddings, 1))}


class Gated(nn.Module):
    """A weight for each stream, from all of them: g·audio + (1 − g)·video. The last logit is fixed at 0, so two streams need one."""

    def __init__(self, streams: int, dim: int, dropout: float):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(streams * dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, streams - 1))

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Named:
        """n × (B, D), (B, n) -> {"joint": (B, D), "gate": (B, n)}; absent streams get weight 0"""
        logits = nn.functional.pad(self.gate(torch.cat(embeddings, 1)), (0, 1))
        gate = logits.masked_fill(~attendable(present), -torch.inf).softmax(1)
        return {"joint": (gate[:, :, None] * torch.stack(embeddings, 1)).sum(1), "gate": gate}


def each(dims: dict[str, int]) -> Each:
    """Late fusion: {stream: (B, T, D_s)} -> {stream: (B, D_s)}; the model averages the class probabilities of the streams' heads."""
    return Each(dims)


def mean(dims: dict[str, int], *, dim: int = 256, project: bool = True) -> Joint:
    """The mean of the present streams, each brought to `dim` by a Linear of its own; `project: false` takes equal widths as they are."""
    embeddings = Embeddings(dims, dim if project else None)
    return Joint(embeddings, Mean(), dim=_one_width("mean", embeddings))


def concat(dims: dict[str, int], *, dim: int = 256, dropout: float = 0.2, project: bool = True) -> Joint:
    """Streams side by side, then Linear, ReLU, dropout -> (B, dim). `project` first brings each to `dim` (not needed after a mixer)."""
    embeddings = Embeddings(dims, dim if project else None)
    return Joint(embeddings, Concat(sum(embeddings.dims.values()), dim, dropout), dim=dim)


def gated(dims: dict[str, int], *, dim: int = 256, dropout: float = 0.2, project: bool = True) -> Joint:
    """A convex sum of the streams, weighted clip by clip -> (B, dim). `project: false` keeps the streams' width, which must be one."""
    if len(dims) < 2:
        raise UserError(f"merge: gated weighs streams against one another and needs at least two; found {', '.join(dims) or 'none'}")
    embeddings = Embeddings(dims, dim if project else None)
    width = _one_width("gated", embeddings)
    return Joint(embeddings, Gated(len(dims), width, dropout), dim=width)


def drop_path(x: Tensor, probability: float, *, training: bool) -> Tensor:
    """(B, T, D) -> the same, whole clips at zero with this probability while training, the others scaled to keep the mean."""
    if not training or probability == 0:
        return x
    kept = torch.rand(len(x), 1, 1, device=x.device, dtype=x.dtype) >= probability
    return x * kept / (1 - probability)


def module_dict(where: str, modules: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """nn.ModuleDict, with a message for a person about the few names that PyTorch cannot use."""
    try:
        return nn.ModuleDict(modules)
    except KeyError as error:
        raise UserError(f"{where} name among {', '.join(modules)}: {error.args[0]}; rename it") from error


def _one_width(merger: str, embeddings: Embeddings) -> int:
    widths = set(embeddings.dims.values())
    if len(widths) > 1:
        raise UserError(f"merge: {merger}: the streams have different widths ({widths_text(embeddings.dims)}); set `project: true`")
    return widths.pop()


def widths_text(dims: Mapping[str, int]) -> str:
    """ "audio 128, video 512", for messages."""
    return ", ".join(f"{name} {width}" for name, width in dims.items())
