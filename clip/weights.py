"""Weights of a CLIP from a file: OpenAI's archives, open_clip's checkpoints, safetensors."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from dassl.utils import load_checkpoint
from dassl.utils.errors import InputError

ACTIVATIONS = ("quick_gelu", "gelu")
# What the state dict of a CLIPN holds beside its CLIP's.
NEGATION_KEYS = (
    "transformer_no.",
    "token_embedding_no.",
    "positional_embedding_no",
    "ln_final_no.",
    "text_projection_no",
    "prompt_no",
)


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], str | None]:
    """Weights of a file in OpenAI's (and open_clip's) layout, and the activation it names.

    Raises:
        InputError: the file cannot be read or holds no CLIP.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        state, activation = _read_safetensors(path)
    elif _is_jit_archive(path):
        state, activation = _read_jit(path), "quick_gelu"
    else:
        state, activation = _read_checkpoint(path)
    # OpenAI's archives carry three numbers beside the weights; nobody else's do.
    markers = [state.pop(k, None) for k in ("input_resolution", "context_length", "vocab_size")]
    if any(marker is not None for marker in markers):
        activation = "quick_gelu"
    missing = [
        key
        for key in ("text_projection", "token_embedding.weight", "logit_scale")
        if key not in state
    ]
    if missing:
        raise InputError(
            f"{path} holds no CLIP model in OpenAI's layout: {', '.join(missing)} not found among "
            f"its {len(state)} entries (first: {', '.join(list(state)[:3]) or 'none'})"
        )
    return _spread_token_rows(state), activation


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(f"cannot read {path} as safetensors: {error}") from error
    activation = metadata.get("activation")
    if activation not in (None, *ACTIVATIONS):
        raise InputError(f"{path} names an unknown activation {json.dumps(activation)}")
    return state, activation


def _is_jit_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_jit(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        # TorchScript is deprecated, OpenAI's files are still written in it.
        warnings.simplefilter("ignore")
        try:
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
        except RuntimeError as error:
            raise InputError(f"cannot read the TorchScript archive {path}: {error}") from error


def _read_checkpoint(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """A state dict, bare or as open_clip's training wraps it."""
    content = load_checkpoint(path)
    state = content["state_dict"] if isinstance(content.get("state_dict"), dict) else content
    state = {
        key.removeprefix("module.").removeprefix("text."): value for key, value in state.items()
    }
    return {key: value for key, value in state.items() if key != "attn_mask"}, None


def negation_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIPN's "no" text encoder among the weights `state`, under the text tower's names; empty
    for a plain CLIP. The 16 learnable prompts keep their name, `prompt_no`."""
    return {
        key if key == "prompt_no" else key.replace("_no", "", 1): value
        for key, value in state.items()
        if key.startswith(NEGATION_KEYS)
    }


def without_negation(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The plain CLIP among the weights `state`."""
    return {key: value for key, value in state.items() if not key.startswith(NEGATION_KEYS)}


def _spread_token_rows(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the embedding rows of a small file at their places in the full vocabulary.

    A CLIP trained on a few hundred words keeps only their rows and says which
    (`token_ids`); words it has never seen embed as zero.
    """
    token_ids = state.pop("token_ids", None)
    if token_ids is not None:
        rows = state["token_embedding.weight"]
        full = rows.new_zeros(49408, rows.shape[1])
        full[token_ids] = rows
        state["token_embedding.weight"] = full
    return state


def weights_hash(state: dict[str, Tensor]) -> str:
    """sha256 over names, shapes and float32 values: the same for every file format."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu()
        value = value.float() if value.is_floating_point() else value
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
