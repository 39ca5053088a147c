"""The parts of open_clip's `ResidualAttentionBlock`, for passes that need only some of it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def project(attn: nn.MultiheadAttention, x: Tensor, part: int) -> Tensor:
    """Query (`part` 0), key (1) or value (2) of every token, `[B, L, W]` as `x`."""
    weight, bias = attn.in_proj_weight.chunk(3)[part], attn.in_proj_bias.chunk(3)[part]
    return F.linear(x, weight, bias)


def attend(
    attn: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, **mask
) -> Tensor:
    """What each query `[B, L, W]` mixes of the values `[B, K, W]`, before the output projection."""
    query, key, value = (
        t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (query, key, value)
    )  # [B, H, tokens, W / H]
    return F.scaled_dot_product_attention(query, key, value, **mask).transpose(1, 2).flatten(2)


def finish(block: nn.Module, x: Tensor, mixed: Tensor) -> Tensor:
    """The block's output for tokens `x` whose attention gave `mixed`."""
    x = x + block.ls_1(block.attn.out_proj(mixed))
    return x + block.ls_2(block.mlp(block.ln_2(x)))
