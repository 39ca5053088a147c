"""Build the open_clip model that given weights belong to, from their shapes and known facts."""

import logging
from typing import Any

import open_clip
from torch import Tensor

from clip.facts import Facts
from dassl.utils.errors import InputError

logger = logging.getLogger(__name__)

# Widths of the towers of public models. Their attention heads are 64 wide, except in the image
# towers of ViT-H, g, bigG and e.
PUBLIC_WIDTHS = (256, 384, 512, 640, 768, 896, 1024, 1280)
WIDE_IMAGE_HEADS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}


def build_model(
    state: dict[str, Tensor], activation: str, facts: Facts | None = None
) -> open_clip.CLIP:
    """Build an open_clip CLIP in float32 with the weights `state`.

    Differs from upstream: open_clip's own reader of OpenAI's layout rounds the
    weights to float16; here they keep their values.
    """
    config = model_config(state, facts or Facts())
    try:
        model = open_clip.CLIP(**config, quick_gelu=activation == "quick_gelu")
        model.load_state_dict({key: value.float() for key, value in state.items()})
    except (RuntimeError, AssertionError) as error:
        raise _incomplete(" ".join(str(error).split())[:500]) from error
    return model.eval()


def model_config(state: dict[str, Tensor], facts: Facts) -> dict[str, Any]:
    """Return open_clip's config of the model with the weights `state`.

    Raises:
        InputError: weights are missing, or the number of attention heads cannot be known.
    """
    try:
        return {
            "embed_dim": state["text_projection"].shape[1],
            "vision_cfg": _vision_config(state, facts),
            "text_cfg": _text_config(state, facts),
        }
    except KeyError as error:
        raise _incomplete(f"{error} is missing") from error


def _incomplete(reason: str) -> InputError:
    return InputError(f"the weights are not those of a whole CLIP model: {reason}")


def _vision_config(state: dict[str, Tensor], facts: Facts) -> dict[str, Any]:
    if "visual.attnpool.positional_embedding" in state:
        side = round((len(state["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
        layers = [_count(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)]
        width = len(state["visual.layer1.0.conv1.weight"])
        return {"layers": layers, "width": width, "image_size": side * 32}
    width, _, patch, _ = state["visual.conv1.weight"].shape
    side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    return {
        **_tower(state, "visual.transformer.resblocks.", width),
        "head_width": _head_width("image", width, facts.image_head, WIDE_IMAGE_HEADS),
        "patch_size": patch,
        "image_size": side * patch,
    }


def _text_config(state: dict[str, Tensor], facts: Facts) -> dict[str, Any]:
    vocabulary, width = state["token_embedding.weight"].shape
    return {
        **_tower(state, "transformer.resblocks.", width),
        "heads": width // _head_width("text", width, facts.text_head, {}),
        "context_length": len(state["positional_embedding"]),
        "vocab_size": vocabulary,
    }


def _tower(state: dict[str, Tensor], blocks: str, width: int) -> dict[str, Any]:
    hidden = len(state[f"{blocks}0.mlp.c_fc.weight"])
    # Half a unit more, because open_clip rounds the product of width and ratio down.
    return {"layers": _count(state, blocks), "width": width, "mlp_ratio": (hidden + 0.5) / width}


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """Count the numbered modules whose names begin with `prefix`."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def _head_width(tower: str, width: int, known: int | None, wide: dict[int, int]) -> int:
    """Return the width of an attention head: `known` from a config, else that of public towers.

    Raises:
        InputError: no config states it, and `width` is no multiple of 64.
    """
    if known and width % known == 0:
        return known
    if width in wide or width in PUBLIC_WIDTHS:
        return wide.get(width, 64)
    if width % 64:
        raise InputError(
            f"the number of attention heads of the {tower} tower (width {width}) is not known: "
            "put the open_clip_config.json or config.json of the model beside its weights"
        )
    logger.warning(
        "The %s tower is %d wide, unlike any public CLIP's; %d attention heads are assumed. If "
        "that is wrong, put the model's open_clip_config.json or config.json beside its weights",
        tower,
        width,
        width // 64,
    )
    return 64
