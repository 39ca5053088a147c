"""Global and local image features of CLIP's two kinds of image tower.

Local features follow GL-MCM (Miyai et al., IJCV 2025) and LoCoOp (Miyai et al.,
NeurIPS 2023): in the last block every region keeps its own value instead of the
attention's mixture of values.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.blocks import (
    ModifiedResNet,
    ResidualAttentionBlock,
    VisionTransformer,
    attend,
    finish,
    project,
)
from dassl.utils.errors import InputError

# Size limit of the largest activation on a CPU, in bytes. More images at once only push each
# other out of the caches, and the C library asks the system for fresh pages for every tensor of
# 32 MB: ViT-B/16 took 28 s for 96 images at once, and 20 s for three at a time.
CPU_BYTES = 8 << 20


def grid_of(visual: nn.Module) -> tuple[int, int] | None:
    """Return the rows and columns of local regions, None for a tower without local features."""
    if isinstance(visual, ModifiedResNet):
        # The position embedding of attnpool has one row for each cell and one for their mean.
        side = round((visual.attnpool.positional_embedding.shape[0] - 1) ** 0.5)
        return side, side
    return tuple(visual.grid_size) if has_value_path(visual) else None


def encode_image(
    visual: nn.Module, images: Tensor, local: bool, projected: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Return unnormalised global `[B, D]` and, if `local`, local `[B, N, D]` features.

    Regions are in row-major order. Without `local` the second value is None. `projected=False`
    (for a ViT with a projection) returns the local features before the projection, `[B, N, W]`.

    Raises:
        InputError: `local` was asked for and the tower has no local features.
    """
    if isinstance(visual, ModifiedResNet):
        largest = visual.conv3.out_channels * (images.shape[-1] // 2) ** 2  # output of the stem
        encode = partial(_encode_resnet, visual, local=local)
        return _encode_in_batches(encode, largest, images)
    if has_value_path(visual):
        hidden = visual.transformer.resblocks[-1].mlp.c_fc.out_features
        largest = (1 + math.prod(visual.grid_size)) * hidden  # inside an MLP
        encode = partial(_encode_vit, visual, local=local, projected=projected)
        return _encode_in_batches(encode, largest, images)
    if local:
        raise InputError(
            f"the image tower {type(visual).__name__} has no local features: GL-MCM would "
            "silently equal MCM. Use a ViT that pools its class token or a ModifiedResNet, or "
            "scores that need no regions"
        )
    features = visual(images)
    return features[0] if isinstance(features, tuple) else features, None


@contextmanager
def collected_attention(visual: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the attention of regions, `[b, N]` for each batch that is encoded in the context.

    Raises:
        InputError: the tower is no ViT that pools its class token.
    """
    if not has_value_path(visual):
        raise InputError(
            "FoBoR weighs regions by the attention between patches and the class token, and the "
            f"image tower {type(visual).__name__} has none: use a ViT, as --backbone ViT-B/16"
        )
    last, attention = visual.transformer.resblocks[-1], []

    def collect(_, __, normed: Tensor) -> None:
        attention.append(_region_attention(last.attn, normed))

    hook = last.ln_1.register_forward_hook(collect)
    try:
        yield attention
    finally:
        hook.remove()


def _region_attention(attn: nn.MultiheadAttention, normed: Tensor) -> Tensor:
    """Return FoBoR's attention of each region to [CLS], `[B, N]`, as one head in float32.

    With `q = W_o (W_q y + b_q) + b_o` of each region y and k likewise of [CLS]: the softmax over
    regions of `q.k / sqrt(W)`. The biases of q add the same to all regions and do not change the
    softmax; without them q.k is y times `W_q^T W_o^T k`, one vector for each image. `normed`: the
    tokens that enter the last block's attention, `[B, 1 + N, W]`.
    """
    with torch.autocast(normed.device.type, enabled=False):
        y, out = normed.float(), attn.out_proj
        weights, biases = attn.in_proj_weight.float().chunk(3), attn.in_proj_bias.float().chunk(3)
        key = F.linear(
            F.linear(y[:, :1], weights[1], biases[1]), out.weight.float(), out.bias.float()
        )
        direction = key @ out.weight.float() @ weights[0]  # [B, 1, W]
        scores = (y[:, 1:] @ direction.transpose(1, 2)).squeeze(-1)  # [B, N]
        return (scores / y.shape[-1] ** 0.5).softmax(dim=-1)


def _encode_in_batches(
    encode: Callable, activations: int, images: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Encode images; on a CPU, as many at a time as fit into `CPU_BYTES`.

    `activations`: number of elements in the largest activation of one image.
    """
    # A traced graph takes any number of images, so no fixed number of batches may go into it.
    if images.device.type != "cpu" or torch.jit.is_tracing():
        return encode(images)
    at_once = max(1, CPU_BYTES // (activations * images.element_size()))
    features, regions = zip(*map(encode, images.split(at_once)), strict=True)
    return torch.cat(features), None if regions[0] is None else torch.cat(regions)


def has_value_path(visual: nn.Module) -> bool:
    """Return whether a tower is a ViT that pools its class token: its regions have features."""
    return (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and isinstance(visual.transformer.resblocks[-1], ResidualAttentionBlock)
    )


def _encode_vit(
    visual, images: Tensor, local: bool, projected: bool
) -> tuple[Tensor, Tensor | None]:
    x = visual._embeds(images)  # [B, 1 + N, W], [CLS] first
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    cls, regions = _last_block(last, x, local)
    return _project(visual, cls)[:, 0], _project(visual, regions, projected) if local else None


def _project(visual, x: Tensor, projected: bool = True) -> Tensor:
    x = visual.ln_post(x)
    return x @ visual.proj if projected and visual.proj is not None else x


def _last_block(block, x: Tensor, local: bool) -> tuple[Tensor, Tensor | None]:
    """Return the last block's output for [CLS] `[B, 1, W]` and, if `local`, regions `[B, N, W]`.

    [CLS] attends to all tokens as usual; a region takes its own value instead of a mixture. One
    pass gives both kinds of feature, for less than the whole block costs. [CLS] is computed
    apart: how a matrix product rounds depends on its size, and the bits of a global feature
    must not depend on whether regions were asked for.

    Differs from upstream: the public code computes the value path in every
    block beside the normal path, and uses only the last block's result.
    """
    normed = block.ln_1(x)
    query = project(block.attn, normed[:, :1], 0)
    key, value = project(block.attn, normed, 1), project(block.attn, normed, 2)
    mixed = attend(block.attn, query, key, value)  # [B, 1, W]
    regions = finish(block, x[:, 1:], value[:, 1:]) if local else None
    return finish(block, x[:, :1], mixed), regions


def _encode_resnet(visual, images: Tensor, local: bool) -> tuple[Tensor, Tensor | None]:
    x = visual.stem(images)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)  # [B, W, h, w]
    pool = visual.attnpool
    if not local:
        return pool(x), None
    cells = x.flatten(2).transpose(1, 2)  # [B, N, W]
    return pool(x), pool.c_proj(pool.v_proj(cells))
