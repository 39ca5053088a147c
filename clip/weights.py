"""Read the weights of a CLIP from a file or folder, whatever wrote and wrapped them.

Read are OpenAI's TorchScript archives, PyTorch checkpoints (open_clip's, Lightning's, CLIPN's),
safetensors, and Hugging Face's layout of any of these. What a file is, its content decides, not
its ending. No code in a file is ever run.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from clip.facts import ACTIVATIONS, Facts, openai_facts, read_facts, read_object
from clip.hugging_face import is_hugging_face, to_openai_layout
from dassl.utils import load_checkpoint
from dassl.utils.errors import InputError

VOCABULARY = 49408  # tokens of OpenAI's byte-pair encoding
# Weight files that a folder of open_clip or Hugging Face holds, the preferred first.
IN_FOLDER = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
# Keys under which training code puts the weights in a checkpoint.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# What training code puts before the name of each weight: DataParallel, Lightning, open_clip's
# CustomTextCLIP. torch.compile's mark may stand anywhere in a name.
PREFIXES = re.compile(r"^(?:(?:module|model|clip|clip_model|text)\.)+")
COMPILED = "_orig_mod."
# No weights: the causal mask, which follows from the context length; the bias of a sigmoid loss,
# the same for all classes; OpenAI's three numbers.
OPENAI_MARKERS = ("input_resolution", "context_length", "vocab_size")
NOT_WEIGHTS = ("attn_mask", "logit_bias", *OPENAI_MARKERS)
# What the state dict of a CLIPN holds beside its CLIP's.
NEGATION_KEYS = (
    "transformer_no.",
    "token_embedding_no.",
    "positional_embedding_no",
    "ln_final_no.",
    "text_projection_no",
    "prompt_no",
)


@dataclass
class ClipWeights:
    """Weights in OpenAI's layout, and what is known beside them.

    Attributes:
        state: tensors by OpenAI's names. facts: activation, heads and transform, each as far as
            the file, or a JSON file beside it, says it.
    """

    state: dict[str, Tensor]
    facts: Facts = field(default_factory=Facts)


def read_weights(path: str | Path) -> ClipWeights:
    """Read the weights of a CLIP from a file, an index of shards, or a folder.

    Raises:
        InputError: the file cannot be read, or holds no CLIP that can be driven here.
    """
    path = Path(path)
    state: dict[str, Tensor] = {}
    activation = None
    for file in _files(path):
        part, says = _read_file(file)
        activation = activation or says
        state |= plain_names(part)
    from_openai = any(marker in state for marker in OPENAI_MARKERS)
    state = {key: value for key, value in state.items() if key not in NOT_WEIGHTS}
    hugging_face = is_hugging_face(state)
    if hugging_face:
        state = to_openai_layout(state)
    _check_layout(path, state)
    facts = openai_facts(state) if from_openai else read_facts(path, state, hugging_face)
    facts.activation = facts.activation if from_openai else activation or facts.activation
    return ClipWeights(_spread_token_rows(state), facts)


def _files(path: Path) -> list[Path]:
    """List the weight files that `path` stands for: itself, those of an index or of a folder."""
    if path.is_dir():
        found = [path / name for name in IN_FOLDER if (path / name).is_file()]
        if not found:
            raise InputError(
                f"the folder {path} holds no weights of a CLIP: one of {', '.join(IN_FOLDER)} is "
                f"looked for, it has {', '.join(sorted(p.name for p in path.iterdir())[:10])}. "
                "Give the path of the file"
            )
        path = found[0]
    if not path.name.endswith(".index.json"):
        return [path]
    shards = sorted(set(read_object(path).get("weight_map", {}).values()))
    missing = [name for name in shards if not (path.parent / Path(name).name).is_file()]
    if missing or not shards:
        raise InputError(f"{path} names {len(shards)} weight files; missing: {missing[:3]}")
    return [path.parent / Path(name).name for name in shards]


def _read_file(path: Path) -> tuple[dict, str | None]:
    """Read one file: its content, and the activation it names."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if head.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path} is a pointer of git-lfs, not the weights: run `git lfs pull` in its folder, "
            "or download the file itself"
        )
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(
            f"{path} is a web page, not weights: its address answered with a page (of a login, a "
            "missing file or a limit). Download the file itself"
        )
    if head[8:9] == b"{":  # behind the length of the header, 8 bytes
        return _read_safetensors(path)
    if _is_jit_archive(path):
        return _read_jit(path), "quick_gelu"
    return load_checkpoint(path), None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
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


def plain_names(content: dict) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by their plain names, out of all wrappers.

    >>> plain_names({"state_dict": {"module._orig_mod.text.ln_final.bias": torch.zeros(1)}})
    {'ln_final.bias': tensor([0.])}
    """
    while inner := [content[key] for key in WRAPPERS if isinstance(content.get(key), dict)]:
        content = inner[0]
    return {
        PREFIXES.sub("", str(key).replace(COMPILED, "")): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }


def _check_layout(path: Path, state: dict[str, Tensor]) -> None:
    if any(key.startswith("visual.trunk.") for key in state):
        raise InputError(
            f"{path} holds a CLIP with an image tower of timm (visual.trunk), whose architecture "
            "cannot be read off its weights: name the model as open_clip does, model/tag, such as "
            "--backbone convnext_base_w/laion2b_s13b_b82k, and put the file into open_clip's cache"
        )
    wanted = ("text_projection", "token_embedding.weight", "logit_scale")
    missing = [key for key in wanted if key not in state]
    if missing:
        raise InputError(
            f"{path} holds no CLIP model in OpenAI's or Hugging Face's layout: "
            f"{', '.join(missing)} not found among its {len(state)} weights (first: "
            f"{', '.join(list(state)[:3]) or 'none'})"
        )


def negation_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return CLIPN's "no" text encoder among the weights `state`, under the text tower's names.

    Empty for a plain CLIP. The 16 learnable prompts keep their name, `prompt_no`.
    """
    return {
        key if key == "prompt_no" else key.replace("_no", "", 1): value
        for key, value in state.items()
        if key.startswith(NEGATION_KEYS)
    }


def without_negation(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the plain CLIP among the weights `state`."""
    return {key: value for key, value in state.items() if not key.startswith(NEGATION_KEYS)}


def _spread_token_rows(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the embedding rows of a small file at their places in the full vocabulary.

    A CLIP trained on a few hundred words keeps only their rows and says which
    (`token_ids`); words it has never seen embed as zero.
    """
    token_ids = state.pop("token_ids", None)
    if token_ids is not None:
        rows = state["token_embedding.weight"]
        full = rows.new_zeros(VOCABULARY, rows.shape[1])
        full[token_ids] = rows
        state["token_embedding.weight"] = full
    return state


def weights_hash(state: dict[str, Tensor]) -> str:
    """Return the sha256 over names, shapes and float32 values: the same for every file format."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu()
        value = value.float() if value.is_floating_point() else value
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
