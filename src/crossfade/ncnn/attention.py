"""Attention: ncnn's MultiHeadAttention with its four linear layers, and the bare product."""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor, nn
from torch.nn import functional

from crossfade.ncnn.convolutions import Arrays, holding

# number of inputs without the mask -> which of them are queries, keys and values
TAKEN = {1: (0, 0, 0), 2: (0, 1, 1), 3: (0, 1, 2)}


class MultiHeadAttention(nn.Module):
    """(B, T, qdim), and keys (B, S, kdim), values (B, S, vdim) and a mask (B, T, S) that is added where given -> (B, T, qdim)."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        if p.kv_cache:
            raise ValueError("keeps keys and values between calls (kv_cache), which is not supported")
        if p.num_heads < 1 or p.embed_dim % p.num_heads:
            raise ValueError(f"embed_dim {p.embed_dim} is no multiple of {p.num_heads} heads")
        self.heads, self.mask, self.scale = p.num_heads, bool(p.attn_mask), p.scale or None
        self.q, self.k, self.v, self.out = (self._linear(arrays, name) for name in ("q", "k", "v", "out"))

    @staticmethod
    def _linear(arrays: Arrays, name: str) -> nn.Linear:
        own = {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}
        return holding(nn.Linear(own["weight"].shape[1], own["weight"].shape[0], device="meta"), own)

    def forward(self, *inputs: Tensor) -> Tensor:
        given, mask = (inputs[:-1], inputs[-1]) if self.mask else (inputs, None)
        parts = zip((self.q, self.k, self.v), TAKEN[len(given)], strict=True)
        queries, keys, values = (linear(given[place]).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear, place in parts)
        mask = mask[:, None] if mask is not None and mask.dim() == 3 else mask
        y = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=self.scale)
        return self.out(y.transpose(1, 2).flatten(2))


class ScaledDotProduct(nn.Module):
    """Queries (B, heads, T, D), keys (B, groups, S, D), values (B, groups, S, E), and a mask (B, …, T, S) -> (B, heads, T, E)."""

    def __init__(self, p: SimpleNamespace, arrays: Arrays):
        super().__init__()
        if p.kv_cache:
            raise ValueError("keeps keys and values between calls (kv_cache), which is not supported")
        self.scale = p.scale or None

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, *masks: Tensor) -> Tensor:
        mask = masks[0] if masks else None
        mask = mask[:, None] if mask is not None and mask.dim() == 3 else mask
        shared = bool(queries.shape[1] != keys.shape[1])  # torch.jit.trace makes it a tensor
        return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=self.scale, enable_gqa=shared)
