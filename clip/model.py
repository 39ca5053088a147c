"""The frozen CLIP: global, local and text features of every open_clip model."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from clip.blocks import ModifiedResNet, TextTransformer
from clip.image import encode_image, grid_of, has_value_path
from clip.prefix import can_share
from dassl.data.transforms import Preprocess
from dassl.utils.errors import InputError


class TextTower(nn.Module):
    """The causal text transformer of CLIP, which reads embeddings of tokens or learned ones."""

    def __init__(self, source: nn.Module):
        """Take the modules of `source`, an open_clip CLIP or TextTransformer."""
        super().__init__()
        self.token_embedding = source.token_embedding
        self.positional_embedding = source.positional_embedding
        self.transformer = source.transformer
        self.ln_final = source.ln_final
        self.text_projection = source.text_projection
        self.register_buffer("attn_mask", source.attn_mask, persistent=False)

    @property
    def context_length(self) -> int:
        """Return how many tokens a text may have, [SOT] and [EOT] included."""
        return len(self.positional_embedding)

    def forward(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        """Return text features `[T, D]` of token embeddings `[T, L, W]`, [EOT] at `eot` `[T]`.

        Attention is causal: tokens after [EOT] change nothing, and `L` may end at the last one.
        """
        length = embeddings.shape[1]
        x = embeddings + self.positional_embedding[:length]
        x = self.transformer(x, attn_mask=self.attn_mask[:length, :length])
        return self.project(x[torch.arange(len(x), device=x.device), eot])

    def project(self, x: Tensor) -> Tensor:
        """Return text features `[T, D]` of the blocks' output at [EOT], `[T, W]`."""
        x = self.ln_final(x)
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(x)
        return x @ self.text_projection


class ClipModel(nn.Module):
    """A frozen CLIP with local features, in evaluation mode.

    Attributes:
        name: under which it was loaded. activation: "quick_gelu" or "gelu".
        weights_hash: sha256 of its float32 weights.
        preprocess: the transform of its training, from a PIL image to its input.
        transform_known: whether that is certain; if not (a file), the config may override it.
        has_negation: whether its file holds a "no" text encoder (CLIPN, see `clip.negation`).
        image_size: side of the square input, pixels. grid: rows and columns of
            regions, None if the image tower has no local features.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        activation: str,
        weights_hash: str,
        transform_known: bool = True,
        has_negation: bool = False,
        **transform: Any,
    ):
        """Take the towers of open_clip's `model`; `transform` goes to `Preprocess`."""
        super().__init__()
        self.name, self.activation, self.weights_hash = name, activation, weights_hash
        self.transform_known = transform_known
        self.has_negation = has_negation
        self.visual = model.visual
        if isinstance(self.visual, ModifiedResNet):
            # This saves a fifth of the convolutions' time on a CPU; a ViT gains nothing.
            self.visual.to(memory_format=torch.channels_last)
        self.text = TextTower(_text_source(model, name))
        self.logit_scale = model.logit_scale
        size = model.visual.image_size
        self.image_size = size[0] if isinstance(size, (tuple, list)) else size
        self.preprocess = Preprocess((self.image_size,) * 2, **transform)
        self.grid = grid_of(model.visual)
        self.autocast_dtype: torch.dtype | None = None
        self.requires_grad_(False).eval()

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the towers, and of their features outside autocast."""
        return self.text.positional_embedding.dtype

    @property
    def context_length(self) -> int:
        return self.text.context_length

    @property
    def token_embedding(self) -> nn.Embedding:
        return self.text.token_embedding

    @property
    def region_projection(self) -> Tensor | None:
        """Return the matrix that projects regions, `[W, D]`; None for a tower without one."""
        return self.visual.proj if has_value_path(self.visual) else None

    @property
    def scale(self) -> Tensor:
        """Return the factor between cosine similarities and logits, exp(logit_scale)."""
        return self.logit_scale.exp()

    def to_dtype(self, dtype: torch.dtype) -> ClipModel:
        """Cast the towers. logit_scale stays float32, as half precision would change the scale."""
        self.visual.to(dtype)
        self.text.to(dtype)
        return self

    def store_for_autocast(self, dtype: torch.dtype) -> ClipModel:
        """Store in `dtype` the weights that autocast would otherwise cast anew in every step.

        Autocast keeps only casts of weights that are trained. From now on the towers run under
        autocast, with the same features bit for bit; embeddings and norms stay float32.
        """
        self.autocast_dtype = dtype
        # Image towers of timm stay as they are: some of their layers read their weights' dtype.
        for tower in (self.visual, self.text) if self.grid else (self.text,):
            for module in tower.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.to(dtype)
            for name, weight in tower.named_parameters():
                if name.endswith(("in_proj_weight", "in_proj_bias", "proj", "text_projection")):
                    weight.data = weight.data.to(dtype)
        return self

    def autocast(self, inputs: Tensor) -> torch.autocast | nullcontext:
        """Return the context that weights stored for autocast need."""
        device = inputs.device.type
        if self.autocast_dtype is None or torch.is_autocast_enabled(device):
            return nullcontext()
        return torch.autocast(device, dtype=self.autocast_dtype)

    def train(self, mode: bool = True) -> ClipModel:
        """Stay in evaluation mode: the towers are frozen, batch statistics included."""
        return super().train(False)

    def encode_image(self, images: Tensor, local: bool = False, projected: bool = True):
        """Return unnormalised features of images `[B, 3, H, W]`.

        Returns:
            Global features `[B, D]`; with `local` a pair of global `[B, D]` and local `[B, N, D]`
            features, regions in row-major order. With `projected=False` the local features are
            not yet multiplied by `region_projection`, `[B, N, W]`.

        Raises:
            InputError: the images have another size than the model reads, or `local` was asked
                for and the image tower has no local features.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            height, width = images.shape[-2:]
            raise InputError(
                f"{self.name} reads images of {self.image_size} x {self.image_size} pixels, "
                f"got {height} x {width}: set INPUT.SIZE to the model's size"
            )
        with self.autocast(images):
            features, regions = encode_image(self.visual, images.to(self.dtype), local, projected)
        return (features, regions) if local else features

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return unnormalised text features `[T, D]` of token ids `[T, L]`."""
        with self.autocast(tokens):
            # [EOT] has the highest id of the vocabulary.
            return self.text(self.token_embedding(tokens), tokens.argmax(dim=-1))


def _text_source(model: nn.Module, name: str) -> nn.Module:
    """Return the module that holds the text tower.

    Raises:
        InputError: prompts cannot be learned for this kind of text tower.
    """
    source = getattr(model, "text", model)
    if source is model:
        pool, mask = model.text_pool_type, model.attn_mask
    elif isinstance(source, TextTransformer) and source.cls_emb is None:
        pool, mask = source.pool_type, source.attn_mask
    else:
        pool, mask = type(source).__name__, None
    if pool != "argmax" or mask is None or not can_share(source):
        raise InputError(
            f"the text tower of {name} ({pool}) is not supported: prompt learning needs a causal "
            "transformer of the usual blocks, read at its end-of-text token, as in OpenAI's "
            "models and open_clip's ViT and RN models"
        )
    return source
