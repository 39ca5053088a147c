"""What weights do not say of themselves: activation, heads, and the images they were trained on.

open_clip writes `open_clip_config.json` beside its weights, Hugging Face `config.json` and
`preprocessor_config.json`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from dassl.utils import InputError, read_json

logger = logging.getLogger(__name__)

ACTIVATIONS = ("quick_gelu", "gelu")
OPENAI_TRANSFORM = {
    "mean": OPENAI_DATASET_MEAN,
    "std": OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
PILLOW_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}


@dataclass
class Facts:
    """What is known of a CLIP beside its weights; None, or no entry, is unknown.

    Attributes:
        activation: "quick_gelu" or "gelu". vision_heads, text_heads: of each attention.
        transform: some of mean, std, interpolation, resize_mode. tokenizer: other than OpenAI's.
    """

    activation: str | None = None
    vision_heads: int | None = None
    text_heads: int | None = None
    transform: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None


def openai_facts(state: dict[str, Tensor]) -> Facts:
    """Return the facts of all of OpenAI's CLIPs: among them, heads that are 64 wide."""
    image, text = state["visual.conv1.weight"].shape[0], state["text_projection"].shape[0]
    return Facts("quick_gelu", image // 64, text // 64, OPENAI_TRANSFORM)


def read_facts(path: Path, state: dict[str, Tensor], hugging_face: bool) -> Facts:
    """Read what the JSON files beside the weights `path` (a file or folder) say of `state`."""
    folder = path if path.is_dir() else path.parent
    theirs = folder / ("config.json" if hugging_face else "open_clip_config.json")
    config = read_object(theirs)
    described, facts = _of_hugging_face(config) if hugging_face else _of_open_clip(config)
    if described is None:
        facts = Facts()
    elif described != (found := tuple(state["text_projection"].shape)):
        logger.warning(
            "%s is of another model than %s (text tower and features are %s wide there, %s here): "
            "nothing is read from it",
            theirs,
            path,
            described,
            found,
        )
        return Facts()
    if facts.activation not in (None, *ACTIVATIONS):
        raise InputError(
            f"{theirs} names the activation {facts.activation}: CLIPs with "
            f"{' or '.join(ACTIVATIONS)} can be computed here"
        )
    preprocessor = read_object(folder / "preprocessor_config.json")
    facts.transform = facts.transform or _of_preprocessor(preprocessor)
    return facts


def read_object(path: Path) -> dict:
    """Read a JSON object; empty if there is no such file. InputError if it is damaged."""
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _of_open_clip(config: dict) -> tuple[tuple[int, int] | None, Facts]:
    """Return the widths of the model that an `open_clip_config.json` describes, and its facts."""
    model = config.get("model_cfg")
    if not model:
        return None, Facts()
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    head_width = vision.get("head_width", 64)
    transform = config.get("preprocess_cfg", {})
    facts = Facts(
        activation=ACTIVATIONS[not model.get("quick_gelu", False)],
        # A ResNet's layers are a list, and its width is not that of an attention.
        vision_heads=vision["width"] // head_width
        if isinstance(vision.get("layers"), int)
        else None,
        text_heads=text.get("heads"),
        transform={key: transform[key] for key in OPENAI_TRANSFORM if key in transform},
        tokenizer=text.get("hf_tokenizer_name") or text.get("hf_model_name"),
    )
    return (text.get("width", 512), model.get("embed_dim")), facts


def _of_hugging_face(config: dict) -> tuple[tuple[int, int] | None, Facts]:
    """Return the same of a `config.json`, with CLIPConfig's defaults for what it leaves out."""
    if "vision_config" not in config:
        return None, Facts()
    vision, text = config["vision_config"], config.get("text_config") or {}
    activations = {part.get("hidden_act", "quick_gelu") for part in (vision, text)}
    facts = Facts(
        activation=" and ".join(sorted(activations)),
        vision_heads=vision.get("num_attention_heads", 12),
        text_heads=text.get("num_attention_heads", 8),
    )
    return (text.get("hidden_size", 512), config.get("projection_dim", 512)), facts


def _of_preprocessor(config: dict) -> dict[str, Any]:
    """Return the transform that a `preprocessor_config.json` describes."""
    if "image_mean" not in config or "image_std" not in config:
        return {}
    size, filter_ = config.get("size"), config.get("resample", 3)
    squash = isinstance(size, dict) and "shortest_edge" not in size
    return {
        "mean": tuple(config["image_mean"]),
        "std": tuple(config["image_std"]),
        "interpolation": PILLOW_FILTERS.get(filter_, f"Pillow's filter {filter_}"),
        "resize_mode": "squash" if squash else "shortest",
    }
