"""What is trained and what is evaluated: images against class prompts, as cosine similarities."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip import ClipModel


class PromptedCLIP(nn.Module):
    """A frozen CLIP whose C classes are described by `prompts`.

    Args:
        prompts: returns unnormalised text features `[C, D]`; a module if learned.
    """

    def __init__(self, clip: ClipModel, prompts: Callable[[], Tensor]):
        super().__init__()
        self.clip, self.prompts = clip, prompts

    @property
    def scale(self) -> Tensor:
        """The factor between cosine similarities and logits."""
        return self.clip.scale

    def text_features(self) -> Tensor:
        """Normalised text features `[C, D]`, float32."""
        return F.normalize(self.prompts().float(), dim=-1)

    def image_features(self, images: Tensor, local: bool) -> tuple[Tensor, Tensor | None]:
        """Normalised global `[B, D]` and local `[B, N, D]` (or None) features, float32."""
        if not local:
            return F.normalize(self.clip.encode_image(images).float(), dim=-1), None
        features, regions = self.clip.encode_image(images, local=True)
        return F.normalize(features.float(), dim=-1), F.normalize(regions.float(), dim=-1)

    def forward(
        self, images: Tensor, text: Tensor | None = None, local: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Cosines with every class: `[B, C]`, and of the regions `[B, N, C]` (or None).

        Args:
            text: text features `[C, D]` computed before, to spare encoding the
                prompts again for every batch.
        """
        features, regions = self.image_features(images, local)
        text = self.text_features() if text is None else text
        return cosines(features, text), None if regions is None else cosines(regions, text)


def cosines(features: Tensor, text: Tensor) -> Tensor:
    """Cosine similarities `[..., C]` of normalised features `[..., D]` with `text` `[C, D]`."""
    # Outside autocast: in half precision a cosine is off by a hundredth of
    # a logit, and softmax scores fall onto a few hundred distinct values.
    with torch.autocast(features.device.type, enabled=False):
        return features @ text.T
