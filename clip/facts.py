"""Facts that weights do not show: the activation, the attention heads, the image transform.

open_clip writes them to `open_clip_config.json` beside its weights, Hugging Face to `config.json`
and `preprocessor_config.json`.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL.Image import Resampling

from dassl.utils import InputError, read_json

logger = logging.getLogger(__name__)

ACTIVATIONS = ("quick_gelu", "gelu")
OPENAI_TRANSFORM = {
    "mean": OPENAI_DATASET_MEAN,
    "std": OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


@dataclass(frozen=True)
class Facts:
    """Facts about a CLIP model beside its weights; an unknown one is None or has no entry.

    Attributes:
        activation: "quick_gelu" or "gelu". image_head, text_head: width of an attention head.
        transform: some of mean, std, interpolation, resize_mode.
        tokenizer: a name, if it is not OpenAI's. widths: of the text tower and of the features.
    """

    activation: str | None = None
    image_head: int | None = None
    text_head: int | None = None
    transform: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    widths: tuple[int, int] | None = None


OPENAI = Facts("quick_gelu", 64, 64, OPENAI_TRANSFORM)


def read_facts(path: Path, widths: tuple[int, int]) -> Facts:
    """Read the facts in the JSON files beside the weights `path` of a model of these `widths`."""
    folder = path if path.is_dir() else path.parent
    open_clip_config, hugging_face_config, preprocessor = (
        read_object(folder / name)
        for name in ("open_clip_config.json", "config.json", "preprocessor_config.json")
    )
    facts = Facts()
    try:
        if open_clip_config.get("model_cfg"):
            facts = _facts_of_open_clip(open_clip_config)
        elif hugging_face_config.get("vision_config"):
            facts = _facts_of_hugging_face(hugging_face_config)
        transform = facts.transform or _transform_of_preprocessor(preprocessor)
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"a JSON file beside the weights in {folder} does not describe a CLIP ({error}): mend "
            "open_clip_config.json, config.json or preprocessor_config.json, or move them away"
        ) from error
    if facts.widths not in (None, widths):
        logger.warning(
            "The config in %s belongs to another model than %s (text tower and features are %s "
            "wide in it, %s in the weights): it is ignored",
            folder,
            path,
            facts.widths,
            widths,
        )
        return Facts()
    return replace(facts, transform=transform)


def read_object(path: Path) -> dict:
    """Read a JSON object; empty if there is no such file. InputError if it is damaged."""
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _facts_of_open_clip(config: dict) -> Facts:
    model, transform = config["model_cfg"], config.get("preprocess_cfg", {})
    text = model.get("text_cfg", {})
    width = text.get("width", 512)
    return Facts(
        activation=ACTIVATIONS[not model.get("quick_gelu", False)],
        image_head=model.get("vision_cfg", {}).get("head_width", 64),
        text_head=width // (text.get("heads") or 8),
        transform={key: transform[key] for key in OPENAI_TRANSFORM if key in transform},
        tokenizer=text.get("hf_tokenizer_name") or text.get("hf_model_name"),
        widths=(width, model.get("embed_dim")),
    )


def _facts_of_hugging_face(config: dict) -> Facts:
    """Return the facts in a `config.json`, which omits what equals the defaults of CLIPConfig."""
    vision, text = config["vision_config"], config.get("text_config") or {}
    width = text.get("hidden_size", 512)
    activations = {part.get("hidden_act", "quick_gelu") for part in (vision, text)}
    return Facts(
        activation=" and ".join(sorted(activations)),
        image_head=vision.get("hidden_size", 768) // (vision.get("num_attention_heads") or 12),
        text_head=width // (text.get("num_attention_heads") or 8),
        widths=(width, config.get("projection_dim", 512)),
    )


def _transform_of_preprocessor(config: dict) -> dict[str, Any]:
    """Return the transform that a `preprocessor_config.json` describes."""
    if "image_mean" not in config or "image_std" not in config:
        return {}
    size, resample = config.get("size"), config.get("resample", 3)
    squash = isinstance(size, dict) and "shortest_edge" not in size
    filters = {resampling.value: resampling.name.lower() for resampling in Resampling}
    return {
        "mean": tuple(config["image_mean"]),
        "std": tuple(config["image_std"]),
        "interpolation": filters.get(resample, f"Pillow's filter {resample}"),
        "resize_mode": "squash" if squash else "shortest",
    }
