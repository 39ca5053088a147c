"""Build an open_clip model for given weights: sizes from their shapes, heads by width or facts."""

from __future__ import annotations

import logging
from typing import Any

import open_clip
from torch import Tensor

from clip.facts import Facts
from dassl.utils.errors import InputError

logger = logging.getLogger(__name__)

# Width of an attention head in the public models of each width.
IMAGE_HEADS = dict.fromkeys((384, 512, 768, 896, 1024), 64) | {
    1280: 80,  # ViT-H
    1408: 88,  # ViT-g
    1664: 104,  # ViT-bigG
    1792: 112,  # ViT-e
}
TEXT_HEADS = dict.fromkeys((256, 384, 512, 640, 768, 1024, 1280), 64)


def build_model(
    state: dict[str, Tensor], activation: str, facts: Facts | None = None
) -> open_clip.CLIP:
    """Build an open_clip CLIP in float32 with the weights `state`, sizes read off their shapes.

    Differs from upstream: open_clip's own reader of OpenAI's layout rounds the
    weights to float16 on the way; here they stay as they are.
    """
    facts = facts or Facts()
    try:
        model = open_clip.CLIP(
            embed_dim=state["text_projection"].shape[1],
            vision_cfg=vision_config(state, facts),
            text_cfg=_text_config(state, facts),
            quick_gelu=activation == "quick_gelu",
        )
        model.load_state_dict({key: value.float() for key, value in state.items()})
    except (KeyError, RuntimeError, AssertionError) as error:
        raise InputError(
            f"the weights are not those of a whole CLIP model: {' '.join(str(error).split())[:500]}"
        ) from error
    return model.eval()


def vision_config(state: dict[str, Tensor], facts: Facts) -> dict[str, Any]:
    """Return open_clip's `vision_cfg` of the weights `state`: sizes, off their shapes."""
    if "visual.attnpool.positional_embedding" in state:
        side = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
        layers = [_count(state, f"visual.layer{stage}.", 2) for stage in (1, 2, 3, 4)]
        width = state["visual.layer1.0.conv1.weight"].shape[0]
        return {"layers": layers, "width": width, "image_size": side * 32}
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        side = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        hidden = state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    except KeyError as error:
        raise InputError(
            f"the weights hold no image tower of CLIP's: {error} is missing"
        ) from error
    return {
        "layers": _count(state, "visual.transformer.resblocks.", 3),
        "width": width,
        "head_width": _head_width("image", width, facts.vision_heads, IMAGE_HEADS),
        "mlp_ratio": (hidden + 0.5) / width,  # open_clip rounds their product down
        "patch_size": patch,
        "image_size": side * patch,
    }


def _text_config(state: dict[str, Tensor], facts: Facts) -> dict[str, Any]:
    vocabulary, width = state["token_embedding.weight"].shape
    hidden = state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    return {
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": vocabulary,
        "width": width,
        "heads": width // _head_width("text", width, facts.text_heads, TEXT_HEADS),
        "mlp_ratio": (hidden + 0.5) / width,
        "layers": _count(state, "transformer.resblocks.", 2),
    }


def _head_width(tower: str, width: int, heads: int | None, public: dict[int, int]) -> int:
    """Return the width of an attention head, which the shapes of the weights do not show.

    Raises:
        InputError: it cannot be known.
    """
    if heads and width % heads == 0:
        return width // heads
    if width % 64 and width not in public:
        raise InputError(
            f"the {tower} tower is {width} wide and its number of attention heads is not known: "
            "put the open_clip_config.json or config.json of the model beside its weights"
        )
    if width not in public:
        logger.warning(
            "The %s tower is %d wide, as no public CLIP's: %d attention heads are assumed, 64 "
            "wide each. An open_clip_config.json or config.json beside the weights can say others",
            tower,
            width,
            width // 64,
        )
    return public.get(width, 64)


def _count(state: dict[str, Tensor], prefix: str, part: int) -> int:
    """Count the numbered modules behind `prefix`."""
    return len({key.split(".")[part] for key in state if key.startswith(prefix)})
