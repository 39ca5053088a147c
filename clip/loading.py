"""From a name or a file to a `ClipModel` and its preprocessing.

Three kinds of name: OpenAI's (`ViT-B/16`), open_clip's `model/tag` pairs
(`ViT-B-16/laion2b_s34b_b88k`), and files (OpenAI's JIT archives and state dicts,
open_clip checkpoints, safetensors).
"""

from __future__ import annotations

import os
from pathlib import Path

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from clip.model import ClipModel
from clip.precision import resolve_precision
from clip.weights import (
    ACTIVATIONS,
    negation_state,
    read_state_dict,
    weights_hash,
    without_negation,
)
from dassl.data.transforms import Preprocess
from dassl.utils import nearest_name
from dassl.utils.errors import InputError

OPENAI_TRANSFORM = {
    "mean": OPENAI_DATASET_MEAN,
    "std": OPENAI_DATASET_STD,
    "interpolation": "bicubic",
}
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
    """OpenAI's names and the bundled ones; open_clip's pairs: `open_clip.list_pretrained()`."""
    return [*OPENAI_MODELS, *BUNDLED]


def load(
    name: str,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    activation: str | None = None,
) -> tuple[ClipModel, Preprocess]:
    """Load a frozen CLIP and the transform from a PIL image to its input `[3, H, W]`.

    Args:
        name: OpenAI name, open_clip `model/tag`, or path of a file.
        precision: fp32, amp, amp_bf16 or fp16 (see `clip.precision`).
        activation: "quick_gelu" or "gelu", for files that do not say. The
            same weights under the other activation lose points of accuracy
            without any error, so a file that says otherwise is refused.

    Raises:
        InputError: unknown name, unreadable file, activation missing or wrong,
            no connection to download from.
    """
    if activation not in (None, *ACTIVATIONS):
        raise InputError(f"unknown activation {activation!r}: use one of {', '.join(ACTIVATIONS)}")
    if name in OPENAI_MODELS:
        model = _from_file(_download_openai(name), name, activation)
    elif name in BUNDLED:
        model = _from_file(BUNDLED[name], name, activation)
    elif os.path.exists(name):
        model = _from_file(name, name, activation)
    else:
        model = _from_open_clip(name, activation)
    model.to_dtype(resolve_precision(precision, device).weights).to(device)
    return model, preprocessing(model)


def input_settings(name: str) -> dict[str, object]:
    """What a model reads, as the config's INPUT keys, without loading a named model's weights.

    Raises:
        InputError: `name` is neither a name nor the file of a CLIP.
    """
    path = BUNDLED.get(name, name)
    transform = dict(OPENAI_TRANSFORM)
    if name in OPENAI_MODELS:
        size = _image_size(OPENAI_MODELS[name])
    elif os.path.exists(path):
        size = _vision_config(without_negation(read_state_dict(path)[0]))["image_size"]
    else:
        architecture, tag = _open_clip_pair(name)
        size = _image_size(architecture)
        transform |= {
            key: value
            for key, value in open_clip.get_pretrained_cfg(architecture, tag).items()
            if key in transform
        }
    return {
        "SIZE": (size, size),
        "INTERPOLATION": transform["interpolation"],
        "PIXEL_MEAN": list(transform["mean"]),
        "PIXEL_STD": list(transform["std"]),
    }


def _image_size(architecture: str) -> int:
    return open_clip.get_model_config(architecture)["vision_cfg"]["image_size"]


def preprocessing(model: ClipModel) -> Preprocess:
    """Return the evaluation transform of `model`, from a PIL image to its input `[3, H, W]`."""
    return Preprocess((model.image_size,) * 2, model.mean, model.std, model.interpolation)


def _download_openai(name: str) -> str:
    """Path of OpenAI's own archive, downloaded (and checked by its sha256) at first use."""
    url = open_clip.get_pretrained_cfg(OPENAI_MODELS[name], "openai")["url"]
    try:
        return open_clip.download_pretrained_from_url(url)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"cannot download {name} from {url} ({error}). Without a connection, fetch that file "
            "elsewhere and give its path as MODEL.BACKBONE.NAME, or put it into ~/.cache/clip"
        ) from error


def _open_clip_pair(name: str) -> tuple[str, str]:
    """Architecture and tag; InputError for a name that nobody knows."""
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
    return architecture, tag


def _from_open_clip(name: str, activation: str | None) -> ClipModel:
    architecture, tag = _open_clip_pair(name)
    pretrained = open_clip.get_pretrained_cfg(architecture, tag)
    quick = open_clip.get_model_config(architecture).get("quick_gelu", False)
    trained_quick = pretrained.get("quick_gelu", False)
    if quick != trained_quick:
        fitting = (
            f"{architecture}-quickgelu"
            if trained_quick
            else architecture.removesuffix("-quickgelu")
        )
        raise InputError(
            f"{name}: these weights were trained with {ACTIVATIONS[not trained_quick]}, the "
            f"architecture computes {ACTIVATIONS[not quick]}: use {fitting}/{tag}"
        )
    _check_activation(name, ACTIVATIONS[not quick], activation)
    try:
        model = open_clip.create_model(architecture, pretrained=tag, precision="fp32")
    except OSError as error:
        raise InputError(
            f"cannot download {name} ({error}). Without a connection, fetch the weights "
            "elsewhere and give the file's path as MODEL.BACKBONE.NAME"
        ) from error
    transform = open_clip.get_model_preprocess_cfg(model)
    return ClipModel(
        model,
        name=name,
        activation=ACTIVATIONS[not quick],
        weights_hash=weights_hash(model.state_dict()),
        **{key: transform[key] for key in OPENAI_TRANSFORM},
    )


def _from_file(path: str | Path, name: str, activation: str | None) -> ClipModel:
    state, says = read_state_dict(path)
    negation = negation_state(state)
    if says is not None:
        _check_activation(name, says, activation)
        activation = says
    if activation is None:
        raise InputError(
            f"{name} does not say its activation, and computing with the wrong one loses points of "
            "accuracy without any error: set MODEL.BACKBONE.ACTIVATION quick_gelu (OpenAI's "
            "models, open_clip's -quickgelu ones) or gelu (open_clip's others, LAION's, CLIPN's "
            "published files)"
        )
    if negation and says is None and activation != "gelu":
        logger.warning(
            "%s is a CLIPN file: the published ones stand on LAION's CLIP, whose activation "
            "is gelu, not %s",
            name,
            activation,
        )
    model = build_model(without_negation(state), activation)
    return ClipModel(
        model,
        name=name,
        activation=activation,
        weights_hash=weights_hash(model.state_dict()),
        has_negation=bool(negation),
        **OPENAI_TRANSFORM,
    )


def _check_activation(name: str, found: str, asked: str | None) -> None:
    if asked not in (None, found):
        raise InputError(
            f"{name} was trained with {found}, asked was {asked}: computing the one's weights "
            "with the other loses accuracy silently, so it is refused. Leave "
            "MODEL.BACKBONE.ACTIVATION empty"
        )


def build_model(state: dict[str, Tensor], activation: str) -> open_clip.CLIP:
    """An open_clip CLIP in float32 with the weights `state`, sizes read off their shapes.

    Differs from upstream: open_clip's own reader of OpenAI's layout rounds the
    weights to float16 on the way; here they stay as they are.
    """
    try:
        model = open_clip.CLIP(
            embed_dim=state["text_projection"].shape[1],
            vision_cfg=_vision_config(state),
            text_cfg=_text_config(state),
            quick_gelu=activation == "quick_gelu",
        )
        model.load_state_dict(
            {
                key: value.float() if value.is_floating_point() else value
                for key, value in state.items()
            }
        )
    except (KeyError, RuntimeError, AssertionError) as error:
        raise InputError(f"the weights are not those of a whole CLIP model: {error}") from error
    return model.eval()


def _vision_config(state: dict[str, Tensor]) -> dict:
    if "visual.proj" in state:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        side = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        layers = _count(state, "visual.transformer.resblocks.", 3)
        return {"layers": layers, "width": width, "patch_size": patch, "image_size": side * patch}
    side = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    layers = [_count(state, f"visual.layer{stage}.", 2) for stage in (1, 2, 3, 4)]
    width = state["visual.layer1.0.conv1.weight"].shape[0]
    return {"layers": layers, "width": width, "image_size": side * 32}


def _text_config(state: dict[str, Tensor]) -> dict:
    vocabulary, width = state["token_embedding.weight"].shape
    return {
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": vocabulary,
        "width": width,
        "heads": width // 64,  # of every OpenAI and open_clip model in this layout
        "layers": _count(state, "transformer.resblocks.", 2),
    }


def _count(state: dict[str, Tensor], prefix: str, part: int) -> int:
    """How many numbered modules stand behind `prefix`."""
    return len({key.split(".")[part] for key in state if key.startswith(prefix)})
