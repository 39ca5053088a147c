"""open_clip's towers and blocks, which are not its public API, and the steps of a block.

No other file of `clip` imports them from open_clip or relies on the inside of a block.
"""

import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer
from torch import Tensor, nn


def project(attn: nn.MultiheadAttention, x: Tensor, part: int) -> Tensor:
    """Return the query (`part` 0), key (1) or value (2) of every token of `x`, `[B, L, W]`."""
    weight, bias = attn.in_proj_weight.chunk(3)[part], attn.in_proj_bias.chunk(3)[part]
    return F.linear(x, weight, bias)


def attend(
    attn: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, **mask
) -> Tensor:
    """Return attention of queries `[B, L, W]` to keys `[B, K, W]`, before the output projection."""
    query, key, value = (
        t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (query, key, value)
    )  # [B, H, tokens, W / H]
    mixed = F.scaled_dot_product_attention(query, key, value, **mask)
    return mixed.transpose(1, 2).flatten(2)  # [B, L, W]


def finish(block: nn.Module, x: Tensor, mixed: Tensor) -> Tensor:
    """Return the block's output for tokens `x` and the result of `attend`, both `[B, L, W]`."""
    x = x + block.ls_1(block.attn.out_proj(mixed))
    return x + block.ls_2(block.mlp(block.ln_2(x)))
