"""Load a `ClipModel` and its preprocessing from a name or a file.

A name is one of OpenAI's (`ViT-B/16`), a pair `model/tag` of open_clip's
(`ViT-B-16/laion2b_s34b_b88k`), or the path of a file or folder (see `clip.weights`).
"""

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import torch

from clip.building import build_model, model_config
from clip.facts import ACTIVATIONS, OPENAI, OPENAI_TRANSFORM
from clip.model import ClipModel
from clip.precision import resolve_precision
from clip.weights import IN_FOLDER, VOCABULARY, ClipWeights, read_weights, weights_hash
from dassl.data.transforms import RESIZE_MODES, Preprocess
from dassl.utils import InputError, check_availability, nearest_name

logger = logging.getLogger(__name__)

# Small models that come with this repository.
BUNDLED = {
    "generated-ViT-S/8": Path(__file__).parents[1]
    / "generated/weights/generated_vit_s8.safetensors"
}
# OpenAI's names -> open_clip's names of the same architectures.
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
# Absolute, relative to a folder or home, or with a suffix of weight files.
LIKE_A_PATH = re.compile(r"^[/~.]|\.(?:pt|pth|bin|ckpt|safetensors|json)\b", re.IGNORECASE)


def available_models() -> list[str]:
    """Return OpenAI's names and the bundled ones (open_clip's: `open_clip.list_pretrained()`)."""
    return [*OPENAI_MODELS, *BUNDLED]


def load(
    name: str | os.PathLike,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    activation: str | None = None,
) -> tuple[ClipModel, Preprocess]:
    """Load a frozen CLIP and the transform from a PIL image to its input `[3, H, W]`.

    Args:
        name: OpenAI name, open_clip `model/tag`, or path of a file or folder.
        precision: fp32, tf32, amp, amp_bf16 or fp16 (see `clip.precision`).
        activation: "quick_gelu" or "gelu", for files that do not state it. With the wrong one,
            the same weights lose points of accuracy without any error, so a file that states
            another is refused.

    Raises:
        InputError: unknown name, unreadable file, activation missing or wrong, a tokenizer other
            than OpenAI's, no connection to download from.
    """
    if activation is not None:
        check_availability(activation, ACTIVATIONS, what="activation")
    name = os.fspath(name)
    path = _path(name)
    if name in OPENAI_MODELS:
        path = _download(name, OPENAI_MODELS[name], "openai")
    if path:
        model = _from_weights(_read(path, name), name, activation)
    else:
        model = _from_open_clip(name, activation)
    model.to_dtype(resolve_precision(precision, device).weights).to(device)
    return model, model.preprocess


def input_settings(name: str) -> dict[str, object]:
    """Return what a model reads, as the config's INPUT keys, without downloading any weights.

    Raises:
        InputError: `name` is neither a name nor the file of a CLIP that can be driven here.
    """
    if path := _path(name):
        weights = _read(path, name)
        vision = model_config(weights.state, weights.facts)["vision_cfg"]
        known = weights.facts.transform
    else:
        architecture, tag = _open_clip_pair(name)
        vision = open_clip.get_model_config(architecture)["vision_cfg"]
        known = open_clip.get_pretrained_cfg(architecture, tag)
    return Preprocess((vision["image_size"],) * 2, **_transform(name, known)).settings()


def check_same_backbone(asked: str, trained: str) -> None:
    """Refuse, before any download, a model name other than the one a run was trained on.

    A file's name shows nothing: its weights are compared once they are loaded.

    Raises:
        InputError: both are names, and they mean different weights.
    """
    names = [_weights_name(asked), _weights_name(trained)]
    if None not in names and names[0] != names[1]:
        raise InputError(
            f"--backbone {asked}, but the run was trained on {trained}, and what it learned does "
            f"not fit another model. Leave --backbone out, or name {trained} or its file"
        )


def _path(name: str) -> str | Path | None:
    """Return the file or folder that `name` means, None for a name to download."""
    path = BUNDLED.get(name, name)
    return path if name not in OPENAI_MODELS and os.path.exists(path) else None


def _read(path: str | Path, name: str) -> ClipWeights:
    weights = read_weights(path)
    if name in available_models():  # known by name, whatever JSON files lie beside it
        weights.facts = OPENAI
    return weights


def _weights_name(name: str) -> str | None:
    """Return the same name for all names of the same weights, and None for a path."""
    if name in BUNDLED:
        return name
    if name in OPENAI_MODELS:
        return f"{OPENAI_MODELS[name]}/openai"
    architecture, _, tag = name.rpartition("/")
    known = not os.path.exists(name) and open_clip.get_pretrained_cfg(architecture, tag)
    return f"{architecture.removesuffix('-quickgelu')}/{tag}" if known else None


def _transform(name: str, known: dict[str, Any]) -> dict[str, Any]:
    """Return the `known` mean, std, interpolation and resize_mode, else OpenAI's."""
    transform = OPENAI_TRANSFORM | {key: known[key] for key in OPENAI_TRANSFORM if key in known}
    if transform["resize_mode"] not in RESIZE_MODES:
        raise InputError(
            f"{name} was trained on images resized as {transform['resize_mode']!r}; only "
            f"{' and '.join(RESIZE_MODES)} are supported. Use another backbone"
        )
    return transform


def _download(name: str, architecture: str, tag: str) -> str:
    """Return the path of the weights of an open_clip pair, downloaded at first use."""
    config = dict(open_clip.get_pretrained_cfg(architecture, tag))
    if config.get("url"):  # OpenAI's own archives, whose sha256 open_clip checks
        config.pop("hf_hub", None)
    source = config.get("url") or config.get("hf_hub")
    try:
        if not config.get("url"):
            _check_hub_answers(source)
        path = open_clip.download_pretrained(config)
    except Exception as error:  # the hub's client raises classes of several packages
        raise InputError(
            f"cannot download {name} from {source} ({' '.join(str(error).split())[:200]}). Without "
            "a connection, fetch that file elsewhere and give its path as --backbone (the config's "
            "MODEL.BACKBONE.NAME)"
        ) from error
    if not path:
        raise InputError(
            f"open_clip has no weights of {name} to download: give the path of a file instead"
        )
    return path


def _check_hub_answers(source: str) -> None:
    """Raise at once if the hub cannot be reached, as its client would retry for nearly a minute.

    `source`: `owner/repository/`, followed by a file if that has an unusual name.
    """
    repository = "/".join(source.split("/")[:2])
    if any(huggingface_hub.try_to_load_from_cache(repository, name) for name in IN_FOLDER):
        return
    with suppress(huggingface_hub.utils.HfHubHTTPError):  # any answer shows that it is reached
        page = huggingface_hub.hf_hub_url(repository, "README.md")
        huggingface_hub.get_hf_file_metadata(page, timeout=10)


def _nearest(name: str, pairs: list[tuple[str, str]]) -> str:
    """Return the known name nearest to `name`, which may also be a name on Hugging Face."""
    hubs = {open_clip.get_pretrained_cfg(*pair).get("hf_hub", ""): "/".join(pair) for pair in pairs}
    # Hugging Face calls OpenAI's ViT-B/16 openai/clip-vit-base-patch16.
    openai_name = re.sub(r"^openai/clip-vit-(.)\w*-patch", r"ViT-\1/", name)
    known = [*available_models(), *hubs.values()]
    return hubs.get(f"{name}/") or nearest_name(openai_name, known)


def _open_clip_pair(name: str) -> tuple[str, str]:
    """Return the architecture and tag of a supported model, before any download.

    Raises:
        InputError: an unknown name, or a tokenizer other than OpenAI's.
    """
    if name in OPENAI_MODELS:
        return OPENAI_MODELS[name], "openai"
    architecture, _, tag = name.rpartition("/")
    pairs = open_clip.list_pretrained(as_str=False)
    if (architecture, tag) not in pairs:
        unknown = f"unknown CLIP model {name!r}: it is neither a file nor a name."
        if LIKE_A_PATH.search(name):
            path = os.path.abspath(name)
            raise InputError(f"{unknown} There is no file or folder {path}: check the path")
        raise InputError(
            f"{unknown} Nearest name: {_nearest(name, pairs)!r}. OpenAI's names: "
            f"{', '.join(OPENAI_MODELS)}; open_clip's are written model/tag, such as "
            "ViT-B-16/laion2b_s34b_b88k"
        )
    text = open_clip.get_model_config(architecture)["text_cfg"]
    tokenizer = text.get("hf_tokenizer_name") or text.get("hf_model_name")
    _check_tokenizer(name, tokenizer, text.get("vocab_size", VOCABULARY))
    return architecture, tag


def _check_tokenizer(name: str, tokenizer: str | None, vocabulary: int) -> None:
    if tokenizer or vocabulary != VOCABULARY:
        raise InputError(
            f"{name} reads texts with another tokenizer ({tokenizer or 'not named'}, "
            f"{vocabulary} tokens) than OpenAI's ({VOCABULARY} tokens), the only one supported. "
            "Use a CLIP with OpenAI's, such as ViT-B/16 or ViT-B-16/laion2b_s34b_b88k"
        )


def _check_activation(name: str, trained: str, asked: str | None) -> None:
    if asked not in (None, trained):
        raise InputError(
            f"{name} was trained with {trained}, but MODEL.BACKBONE.ACTIVATION asks for {asked}, "
            "which would lose accuracy silently: leave it empty"
        )


def _from_open_clip(name: str, activation: str | None) -> ClipModel:
    architecture, tag = _open_clip_pair(name)
    pretrained = open_clip.get_pretrained_cfg(architecture, tag)
    transform = _transform(name, pretrained)
    computed, trained = (
        ACTIVATIONS[not config.get("quick_gelu", False)]
        for config in (open_clip.get_model_config(architecture), pretrained)
    )
    if computed != trained:
        fitting = architecture.removesuffix("-quickgelu")
        fitting += "-quickgelu" if trained == "quick_gelu" else ""
        raise InputError(
            f"{name}: these weights were trained with {trained}, but the architecture computes "
            f"{computed}: use {fitting}/{tag}"
        )
    _check_activation(name, trained, activation)
    path = _download(name, architecture, tag)
    model = open_clip.create_model(architecture, pretrained=path, precision="fp32")
    hash_ = weights_hash(model.state_dict())
    return ClipModel(model, name=name, activation=trained, weights_hash=hash_, **transform)


def _from_weights(weights: ClipWeights, name: str, activation: str | None) -> ClipModel:
    state, facts = weights.state, weights.facts
    _check_tokenizer(name, facts.tokenizer, len(state["token_embedding.weight"]))
    if facts.activation is not None:
        _check_activation(name, facts.activation, activation)
    elif activation is None:
        raise InputError(
            f"{name} does not state its activation, and the wrong one loses accuracy without any "
            "error: set MODEL.BACKBONE.ACTIVATION (detect.py: --activation) to quick_gelu "
            "(OpenAI's models, open_clip's -quickgelu ones) or gelu (open_clip's others, LAION's, "
            "CLIPN's published files)"
        )
    elif weights.negation and activation != "gelu":
        logger.warning(
            "%s is a CLIPN file; the published ones were trained on LAION's CLIP, whose activation "
            "is gelu, not %s",
            name,
            activation,
        )
    transform = _transform(name, facts.transform)
    if not facts.transform:
        logger.info(
            "%s does not state how its images were prepared: OpenAI's mean %s and std %s are "
            "assumed; set INPUT.PIXEL_MEAN and INPUT.PIXEL_STD for others",
            name,
            transform["mean"],
            transform["std"],
        )
    activation = facts.activation or activation
    model = build_model(state, activation, facts)
    return ClipModel(
        model,
        name=name,
        activation=activation,
        weights_hash=weights_hash(model.state_dict()),
        has_negation=bool(weights.negation),
        transform_known=facts.transform is OPENAI_TRANSFORM,
        **transform,
    )
