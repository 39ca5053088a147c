"""One face for every open_clip model: global, local and text features."""

from __future__ import annotations

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from clip.image import encode_image, grid_of
from clip.prefix import CHUNK, Packing, can_share, encode_packed
from dassl.utils.errors import InputError


class TextTower(nn.Module):
    """The causal text transformer of CLIP, fed with tokens or with embeddings."""

    def __init__(self, source: nn.Module):
        """`source`: what holds the text tower's parts (an open_clip CLIP or TextTransformer)."""
        super().__init__()
        self.token_embedding = source.token_embedding
        self.positional_embedding = source.positional_embedding
        self.transformer = source.transformer
        self.ln_final = source.ln_final
        self.text_projection = source.text_projection
        self.register_buffer("attn_mask", source.attn_mask, persistent=False)

    def forward(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        """Text features `[T, D]` of token embeddings `[T, L, W]` whose [EOT] stands at `eot` `[T]`.

        `L` may be shorter than the context length: attention is causal, so what
        follows the last [EOT] changes nothing.
        """
        length = embeddings.shape[1]
        x = embeddings + self.positional_embedding[:length]
        x = self.transformer(x, attn_mask=self.attn_mask[:length, :length])
        return self.project(x[torch.arange(len(x), device=x.device), eot])

    def project(self, x: Tensor) -> Tensor:
        """Text features `[T, D]` of what the blocks made of [EOT], `[T, W]`."""
        x = self.ln_final(x)
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(x)
        return x @ self.text_projection


class ClipModel(nn.Module):
    """A frozen CLIP with local features, in evaluation mode.

    Attributes:
        name: what it was loaded as. activation: "quick_gelu" or "gelu".
        weights_hash: sha256 of its float32 weights.
        mean, std, interpolation: of the transform it was trained with.
        has_negation: its file also holds a "no" text encoder (CLIPN, see `clip.negation`).
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
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: str,
        has_negation: bool = False,
    ):
        super().__init__()
        self.name, self.activation, self.weights_hash = name, activation, weights_hash
        self.mean, self.std, self.interpolation = mean, std, interpolation
        self.has_negation = has_negation
        self.visual = model.visual
        if isinstance(self.visual, ModifiedResNet):
            # A fifth off the convolutions' time on a CPU; a ViT gains nothing.
            self.visual.to(memory_format=torch.channels_last)
        self.text = TextTower(_text_source(model, name))
        self.logit_scale = model.logit_scale
        size = model.visual.image_size
        self.image_size = size[0] if isinstance(size, (tuple, list)) else size
        self.grid = grid_of(model.visual)
        self.requires_grad_(False).eval()

    @property
    def dtype(self) -> torch.dtype:
        """Of the towers' weights; features come in it, outside autocast."""
        return self.text.positional_embedding.dtype

    @property
    def token_embedding(self) -> nn.Embedding:
        return self.text.token_embedding

    @property
    def scale(self) -> Tensor:
        """The factor between cosine similarities and logits, exp(logit_scale)."""
        return self.logit_scale.exp()

    def to_dtype(self, dtype: torch.dtype) -> ClipModel:
        """Cast the towers; logit_scale stays float32, half precision would move the scale."""
        self.visual.to(dtype)
        self.text.to(dtype)
        return self

    def train(self, mode: bool = True) -> ClipModel:
        """Always evaluation mode: the towers are frozen, batch statistics included."""
        return super().train(False)

    def encode_image(self, images: Tensor, local: bool = False):
        """Unnormalised features of images `[B, 3, H, W]`.

        Returns:
            Global features `[B, D]`; with `local` a pair of global `[B, D]` and
            local `[B, N, D]` features, regions in row-major order.

        Raises:
            InputError: images of another size than the model's, or local
                features asked of a tower that has none.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            height, width = images.shape[-2:]
            raise InputError(
                f"{self.name} reads images of {self.image_size} x {self.image_size} pixels, "
                f"got {height} x {width}: set INPUT.SIZE to the model's size"
            )
        features, regions = encode_image(self.visual, images.to(self.dtype), local)
        return (features, regions) if local else features

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Unnormalised text features `[T, D]` of token ids `[T, 77]`."""
        eot = tokens.argmax(dim=-1)  # [EOT] has the highest id of the vocabulary
        tokens = tokens[:, : int(eot.max()) + 1]
        return self.text(self.token_embedding(tokens), eot)

    def encode_prompts(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        """Return unnormalised text features `[T, D]` of prompts `[T, L, W]`; `eot` `[T]`: [EOT]."""
        return self.text(embeddings.to(self.dtype), eot)

    @property
    def shares_prefix(self) -> bool:
        """Whether `encode_packed` can be used: the text tower's blocks are of the usual kind."""
        return can_share(self.text)

    def encode_packed(
        self,
        prefix: Tensor,
        suffixes: Tensor,
        packing: Packing,
        chunk: int = CHUNK,
        over_ranks: bool = False,
    ) -> Tensor:
        """Unnormalised text features `[T, D]` of embeddings that share a prefix, see `clip.prefix`.

        The same as `encode_prompts` of the whole prompts, for a fraction of its cost.
        """
        return encode_packed(
            self.text, prefix.to(self.dtype), suffixes.to(self.dtype), packing, chunk, over_ranks
        )


def _text_source(model: nn.Module, name: str) -> nn.Module:
    """The module that holds the text tower; refuses towers prompts cannot be learned for."""
    source = getattr(model, "text", model)
    if source is model:
        pool, mask = model.text_pool_type, model.attn_mask
    elif isinstance(source, TextTransformer) and source.cls_emb is None:
        pool, mask = source.pool_type, source.attn_mask
    else:
        pool, mask = type(source).__name__, None
    if pool not in ("argmax", "eos") or mask is None:
        raise InputError(
            f"{name} has a text tower that prompt learning here cannot drive ({pool}): a causal "
            "transformer read at its end-of-text token is needed, as in OpenAI's models and "
            "open_clip's ViT and RN models"
        )
    return source
