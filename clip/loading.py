"""From a name or a file to a `ClipModel` and its preprocessing.

Three kinds of name: OpenAI's (`ViT-B/16`), open_clip's `model/tag` pairs
(`ViT-B-16/laion2b_s34b_b88k`), and paths of files or folders (see `clip.weights`).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import open_clip
import torch

from clip.building import build_model, vision_config
from clip.facts import ACTIVATIONS, OPENAI_TRANSFORM, openai_facts
from clip.model import ClipModel
from clip.precision import resolve_precision
from clip.weights import (
    VOCABULARY,
    ClipWeights,
    negation_state,
    read_weights,
    weights_hash,
    without_negation,
)
from dassl.data.transforms import RESIZE_MODES, Preprocess
from dassl.utils import nearest_name
from dassl.utils.errors import InputError

logger = logging.getLogger(__name__)

# Small models that come with this repository.
BUNDLED = {
    "generated-ViT-S/8": Path(__file__).parents[1]
    / "generated/weights/generated_vit_s8.safetensors"
}
# OpenAI's names and what open_clip calls the same architecture.
OPENAI_MODELS = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}


def available_models() -> list[str]:
    """Return OpenAI's names and the bundled ones (`open_clip.list_pretrained()`: open_clip's)."""
    return [*OPENAI_MODELS, *BUNDLED]


def load(
    name: str,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    activation: str | None = None,
) -> tuple[ClipModel, Preprocess]:
    """Load a frozen CLIP and the transform from a PIL image to its input `[3, H, W]`.

    Args:
        name: OpenAI name, open_clip `model/tag`, or path of a file or folder.
        precision: fp32, tf32, amp, amp_bf16 or fp16 (see `clip.precision`).
        activation: "quick_gelu" or "gelu", for files that do not say. The
            same weights under the other activation lose points of accuracy
            without any error, so a file that says otherwise is refused.

    Raises:
        InputError: unknown name, unreadable file, activation missing or wrong, a tokenizer other
            than OpenAI's, no connection to download from.
    """
    if activation not in (None, *ACTIVATIONS):
        raise InputError(f"unknown activation {activation!r}: use one of {', '.join(ACTIVATIONS)}")
    if name in OPENAI_MODELS:
        weights = read_weights(_download(name, OPENAI_MODELS[name], "openai"))
        weights.facts = openai_facts(weights.state)
        model = _from_weights(weights, name, activation)
    elif name in BUNDLED:
        weights = read_weights(BUNDLED[name])
        weights.facts.transform = OPENAI_TRANSFORM
        model = _from_weights(weights, name, activation)
    elif os.path.exists(name):
        model = _from_weights(read_weights(name), name, activation)
    else:
        model = _from_open_clip(name, activation)
    model.to_dtype(resolve_precision(precision, device).weights).to(device)
    return model, preprocessing(model)


def input_settings(name: str) -> dict[str, object]:
    """Return what a model reads, as the config's INPUT keys, without downloading any weights.

    Raises:
        InputError: `name` is neither a name nor the file of a CLIP that can be driven here.
    """
    path = BUNDLED.get(name, name)
    if name in OPENAI_MODELS:
        size, transform = _image_size(OPENAI_MODELS[name]), OPENAI_TRANSFORM
    elif os.path.exists(path):
        weights = read_weights(path)
        size = vision_config(without_negation(weights.state), weights.facts)["image_size"]
        transform = _transform(name, weights.facts.transform)
    else:
        architecture, tag = _open_clip_pair(name)
        size = _image_size(architecture)
        transform = _transform(name, open_clip.get_pretrained_cfg(architecture, tag))
    return {
        "SIZE": (size, size),
        "INTERPOLATION": transform["interpolation"],
        "RESIZE_MODE": transform["resize_mode"],
        "PIXEL_MEAN": list(transform["mean"]),
        "PIXEL_STD": list(transform["std"]),
    }


def check_same_backbone(asked: str, trained: str) -> None:
    """Refuse, before any download, a model by name other than the one a run was trained on.

    Of files nothing can be said by their names: their weights are compared once they are loaded.

    Raises:
        InputError: both are names, of different weights.
    """
    names = [_weights_name(asked), _weights_name(trained)]
    if None not in names and names[0] != names[1]:
        raise InputError(
            f"--backbone {asked}, but the run was trained on {trained}: what it learned means "
            f"nothing to another model. Leave --backbone out, or name {trained} or its file"
        )


def _weights_name(name: str) -> str | None:
    """Return one name for all names of the same weights; None for a path."""
    if name in BUNDLED:
        return name
    if name in OPENAI_MODELS:
        return f"{OPENAI_MODELS[name]}/openai"
    architecture, _, tag = name.rpartition("/")
    known = not os.path.exists(name) and open_clip.get_pretrained_cfg(architecture, tag)
    return f"{architecture.removesuffix('-quickgelu')}/{tag}" if known else None


def _image_size(architecture: str) -> int:
    return open_clip.get_model_config(architecture)["vision_cfg"]["image_size"]


def _transform(name: str, said: dict[str, Any]) -> dict[str, Any]:
    """Return mean, std, interpolation and resize_mode as `said`, OpenAI's where it says nothing."""
    transform = OPENAI_TRANSFORM | {key: said[key] for key in OPENAI_TRANSFORM if key in said}
    if transform["resize_mode"] not in RESIZE_MODES:
        raise InputError(
            f"{name} was trained on images resized as {transform['resize_mode']!r}; only "
            f"{' and '.join(RESIZE_MODES)} can be done here, and on other images its figures "
            "would be of another model. Use another backbone"
        )
    return transform


def preprocessing(model: ClipModel) -> Preprocess:
    """Return the evaluation transform of `model`, from a PIL image to its input `[3, H, W]`."""
    size = (model.image_size,) * 2
    return Preprocess(size, model.mean, model.std, model.interpolation, model.resize_mode)


def _download(name: str, architecture: str, tag: str) -> str:
    """Return the path of the weights of an open_clip pair, downloaded at first use.

    OpenAI's own archives are preferred to their copies elsewhere: open_clip checks their sha256.
    """
    config = dict(open_clip.get_pretrained_cfg(architecture, tag))
    if config.get("url"):
        config.pop("hf_hub", None)
    source = config.get("url") or config.get("hf_hub")
    try:
        path = open_clip.download_pretrained(config)
    except Exception as error:  # the hub's client raises classes of several packages
        raise InputError(
            f"cannot download {name} from {source} ({' '.join(str(error).split())[:200]}). Without "
            "a connection, fetch that file elsewhere and give its path as --backbone (the config's "
            "MODEL.BACKBONE.NAME), or put it where open_clip looks for it (~/.cache/clip, or "
            "Hugging Face's cache)"
        ) from error
    if not path:
        raise InputError(f"open_clip has no weights of {name} to download: give a file's path")
    return path


def _open_clip_pair(name: str) -> tuple[str, str]:
    """Return architecture and tag of a pair that can be driven here, before any download.

    Raises:
        InputError: a name that nobody knows, or a tokenizer other than OpenAI's.
    """
    architecture, _, tag = name.rpartition("/")
    pairs = open_clip.list_pretrained(as_str=False)
    if (architecture, tag) not in pairs:
        known = [*available_models(), *("/".join(pair) for pair in pairs)]
        raise InputError(
            f"unknown CLIP model {name!r}: it is neither a file nor a name. "
            f"Nearest name: {nearest_name(name, known)!r}. OpenAI's names: "
            f"{', '.join(OPENAI_MODELS)}; open_clip's are written model/tag, such as "
            "ViT-B-16/laion2b_s34b_b88k; or give the path of a file"
        )
    text = open_clip.get_model_config(architecture)["text_cfg"]
    tokenizer = text.get("hf_tokenizer_name") or text.get("hf_model_name")
    _check_tokenizer(name, tokenizer, text.get("vocab_size", VOCABULARY))
    return architecture, tag


def _check_tokenizer(name: str, tokenizer: str | None, vocabulary: int) -> None:
    if tokenizer or vocabulary != VOCABULARY:
        raise InputError(
            f"{name} reads texts through another tokenizer ({tokenizer or 'not named'}, "
            f"{vocabulary} tokens) than OpenAI's ({VOCABULARY} tokens), the only one here: its "
            "text features would be noise. Use a CLIP with OpenAI's tokenizer, such as ViT-B/16 "
            "or ViT-B-16/laion2b_s34b_b88k"
        )


def _from_open_clip(name: str, activation: str | None) -> ClipModel:
    architecture, tag = _open_clip_pair(name)
    pretrained = open_clip.get_pretrained_cfg(architecture, tag)
    transform = _transform(name, pretrained)
    quick = open_clip.get_model_config(architecture).get("quick_gelu", False)
    trained_quick = pretrained.get("quick_gelu", False)
    if quick != trained_quick:
        fitting = architecture.removesuffix("-quickgelu") + "-quickgelu" * trained_quick
        raise InputError(
            f"{name}: these weights were trained with {ACTIVATIONS[not trained_quick]}, the "
            f"architecture computes {ACTIVATIONS[not quick]}: use {fitting}/{tag}"
        )
    _check_activation(name, ACTIVATIONS[not quick], activation)
    path = _download(name, architecture, tag)
    model = open_clip.create_model(architecture, pretrained=path, precision="fp32")
    return ClipModel(
        model,
        name=name,
        activation=ACTIVATIONS[not quick],
        weights_hash=weights_hash(model.state_dict()),
        **transform,
    )


def _from_weights(weights: ClipWeights, name: str, activation: str | None) -> ClipModel:
    state, facts = weights.state, weights.facts
    _check_tokenizer(name, facts.tokenizer, len(state["token_embedding.weight"]))
    negation = negation_state(state)
    if facts.activation is not None:
        _check_activation(name, facts.activation, activation)
    if facts.activation is None and activation is None:
        raise InputError(
            f"{name} does not say its activation, and computing with the wrong one loses points of "
            "accuracy without any error: set MODEL.BACKBONE.ACTIVATION (detect.py: --activation) "
            "quick_gelu (OpenAI's models, open_clip's -quickgelu ones) or gelu (open_clip's "
            "others, LAION's, CLIPN's published files)"
        )
    if negation and facts.activation is None and activation != "gelu":
        logger.warning(
            "%s is a CLIPN file: the published ones stand on LAION's CLIP, whose activation "
            "is gelu, not %s",
            name,
            activation,
        )
    activation = facts.activation or activation
    transform = _transform(name, facts.transform)
    if not facts.transform:
        logger.info(
            "%s does not say how its images were prepared: OpenAI's mean %s and std %s are "
            "assumed; INPUT.PIXEL_MEAN and INPUT.PIXEL_STD set others",
            name,
            transform["mean"],
            transform["std"],
        )
    model = build_model(without_negation(state), activation, facts)
    return ClipModel(
        model,
        name=name,
        activation=activation,
        weights_hash=weights_hash(model.state_dict()),
        has_negation=bool(negation),
        transform_known=bool(facts.transform),
        **transform,
    )


def _check_activation(name: str, found: str, asked: str | None) -> None:
    if asked not in (None, found):
        raise InputError(
            f"{name} was trained with {found}, asked was {asked}: computing the one's weights "
            "with the other loses accuracy silently, so it is refused. Leave "
            "MODEL.BACKBONE.ACTIVATION empty"
        )
