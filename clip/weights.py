"""Read the weights of a CLIP from a file or folder of any common format.

Supported are OpenAI's TorchScript archives, PyTorch checkpoints (open_clip's, Lightning's,
CLIPN's), safetensors, and Hugging Face's layout of any of these. The content of a file decides
its format, not the suffix of its name. No code in a file is ever run.
"""

import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from clip.facts import ACTIVATIONS, OPENAI, Facts, read_facts, read_object
from dassl.utils import InputError, load_checkpoint

VOCABULARY = 49408  # tokens of OpenAI's byte-pair encoding
# Weight files in folders of open_clip and Hugging Face, in order of preference.
IN_FOLDER = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
# First bytes of files that are often saved in place of weights -> what they are, what to do.
IMPOSTORS = {
    b"version https://git-lfs": "a pointer of git-lfs: run `git lfs pull` in its folder, or",
    b"<!doctype": "a web page that was saved in place of the weights:",
    b"<html": "a web page that was saved in place of the weights:",
}
# Keys under which training code puts the weights in a checkpoint.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# Prefixes that DataParallel, Lightning and open_clip's CustomTextCLIP put before the names of
# weights. The mark of torch.compile may stand anywhere in a name.
PREFIXES = re.compile(r"^(?:(?:module|model|clip|clip_model|text)\.)+")
COMPILED = "_orig_mod."
# Parts of names in Hugging Face's `CLIPModel` -> the same in OpenAI's layout.
HUGGING_FACE = {
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_model.final_layer_norm.": "ln_final.",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.": "visual.conv1.",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",  # their spelling
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}
# Entries that are no weights: OpenAI's three numbers; the causal mask and the positions, which
# follow from the context length; the bias of a sigmoid loss, the same for all classes.
OPENAI_MARKERS = ("input_resolution", "context_length", "vocab_size")
NOT_WEIGHTS = (*OPENAI_MARKERS, "attn_mask", "position_ids", "logit_bias")
# Entries that are integers by nature: rows of the vocabulary, and a count of batch normalisation.
INTEGERS = ("token_ids", "num_batches_tracked")

Weight = tuple[str, str, Tensor]  # its name here, where it was found, its values


@dataclass
class ClipWeights:
    """Weights in OpenAI's layout, with the facts stated beside them.

    Attributes:
        state: the CLIP's tensors by OpenAI's names. negation: those of CLIPN's "no" text encoder,
            by the names of the text tower and `prompt_no`; empty for a plain CLIP.
        facts: about the model, from the file or a JSON file beside it.
    """

    state: dict[str, Tensor]
    negation: dict[str, Tensor]
    facts: Facts


def read_weights(path: str | Path) -> ClipWeights:
    """Read the weights of a CLIP from a file, an index of shards, or a folder.

    Raises:
        InputError: the file cannot be read, or holds no CLIP that is supported.
    """
    path = Path(path)
    weights: list[Weight] = []
    activation = None
    for file in _files(path):
        content, activation = _read_file(file)
        named = plain_names(content, file).items()
        weights += [(name, f"{file.name}'s {name}", value) for name, value in named]
    state = _by_name(weights, path)
    from_openai = any(marker in state for marker in OPENAI_MARKERS)
    state = _in_openai_layout(state, path)
    _check_layout(path, state)
    check_numbers(path, state)
    facts = OPENAI if from_openai else read_facts(path, tuple(state["text_projection"].shape))
    facts = replace(facts, activation=activation or facts.activation)
    if facts.activation not in (None, *ACTIVATIONS):
        raise InputError(
            f"{path}, or the config beside it, names the activation {facts.activation}; only "
            f"CLIPs with {' or '.join(ACTIVATIONS)} are supported"
        )
    _spread_token_rows(state)
    return ClipWeights(*_split_negation(state), facts)


def _files(path: Path) -> list[Path]:
    """List the weight files at `path`: the file itself, or those of an index or folder."""
    if path.is_dir():
        candidates = [path / name for name in IN_FOLDER if (path / name).is_file()]
        if not candidates:
            content = ", ".join(sorted(file.name for file in path.iterdir())[:10])
            raise InputError(
                f"the folder {path} holds no weights of a CLIP ({', '.join(IN_FOLDER)}), only "
                f"{content or 'nothing'}. Give the path of a weight file"
            )
        path = candidates[0]
    if not path.name.endswith(".index.json"):
        return [path]
    shards = set(read_object(path).get("weight_map", {}).values())
    if not shards:
        raise InputError(f"{path} lists no weight files (weight_map)")
    return [path.parent / Path(name).name for name in sorted(shards)]


def _read_file(path: Path) -> tuple[dict, str | None]:
    """Read one file: return its content, and the activation if the file states it."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    for beginning, kind in IMPOSTORS.items():
        if head.lstrip().lower().startswith(beginning):
            raise InputError(f"{path} holds no weights, it is {kind} download the file itself")
    if head[8:9] == b"{":  # a safetensors header, after 8 bytes with its length
        return _read_safetensors(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return _read_jit(path), "quick_gelu"
    return load_checkpoint(path), None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return state, (file.metadata() or {}).get("activation")
    except SafetensorError as error:
        raise InputError(f"cannot read {path} as safetensors: {error}") from error


def _read_jit(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        # TorchScript is deprecated, but OpenAI's files use it.
        warnings.simplefilter("ignore")
        try:
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
        except RuntimeError as error:
            raise InputError(f"cannot read the TorchScript archive {path}: {error}") from error


def plain_names(content: dict, path: str | Path = "the checkpoint") -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, read from `path`, by their plain names, without any
    wrapper; raise InputError if two that differ would have the same name.

    >>> plain_names({"state_dict": {"module._orig_mod.text.ln_final.bias": torch.zeros(1)}})
    {'ln_final.bias': tensor([0.])}
    """
    while inner := [content[key] for key in WRAPPERS if isinstance(content.get(key), dict)]:
        content = inner[0]
    tensors = ((str(key), value) for key, value in content.items() if isinstance(value, Tensor))
    return _by_name(
        ((PREFIXES.sub("", key.replace(COMPILED, "")), key, value) for key, value in tensors), path
    )


def _by_name(weights: Iterable[Weight], path: str | Path) -> dict[str, Tensor]:
    """Return name -> tensor; equal tensors of a name are one, others are refused."""
    found: dict[str, tuple[str, Tensor]] = {}
    for name, origin, value in weights:
        first, kept = found.setdefault(name, (origin, value))
        if kept is not value and not (kept.dtype == value.dtype and torch.equal(kept, value)):
            raise InputError(
                f"{path} holds more than one model: {first} and {origin} are both {name}, with "
                "different values. Save the tensors of one model alone, those with one prefix or "
                "of one download: torch.save(STATE_DICT, FILE)"
            )
    return {name: value for name, (_, value) in found.items()}


def _in_openai_layout(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights by OpenAI's names, renamed from Hugging Face's, and nothing else."""
    weights: list[Weight] = []
    for key, value in state.items():
        if key.endswith(NOT_WEIGHTS):
            continue
        transposed, name = key in ("visual_projection.weight", "text_projection.weight"), key
        for theirs, ours in HUGGING_FACE.items():
            name = name.replace(theirs, ours)
        weights.append((name, key, value.T.contiguous() if transposed else value))
    renamed = _by_name(weights, path)
    for key in [key for key in renamed if ".self_attn.q_proj." in key]:
        names = [key.replace("q_proj", f"{part}_proj") for part in "qkv"]
        if renamed.keys() >= set(names):
            joined = torch.cat([renamed.pop(name) for name in names])
            renamed[key.replace("self_attn.q_proj.", "attn.in_proj_")] = joined
    return renamed


def _check_layout(path: Path, state: dict[str, Tensor]) -> None:
    if any(key.startswith("visual.trunk.") for key in state):
        raise InputError(
            f"{path} holds a CLIP with an image tower of timm (visual.trunk), whose architecture "
            "its weights do not show: give open_clip's name for it, model/tag, such as "
            "--backbone convnext_base_w/laion2b_s13b_b82k"
        )
    required = ("text_projection", "token_embedding.weight", "logit_scale")
    missing = [key for key in required if key not in state]
    if missing:
        raise InputError(
            f"{path} holds no CLIP model in OpenAI's or Hugging Face's layout: "
            f"{', '.join(missing)} not found among its {len(state)} weights (the first are "
            f"{', '.join(list(state)[:3]) or 'none'}). If they have longer names, or stand in a "
            "dict within the file, save them alone: torch.save(model.state_dict(), FILE)"
        )


def check_numbers(path: Path, state: dict[str, Tensor]) -> None:
    """Raise InputError if some of the weights are no dense floating-point numbers."""
    odd = [key for key, x in state.items() if not (is_weight(x) or key.endswith(INTEGERS))]
    if odd:
        raise InputError(
            f"{path} holds weights that are no dense floating-point numbers, such as {odd[0]} "
            f"({state[odd[0]].dtype}, {state[odd[0]].layout}): quantised, complex and sparse "
            "weights are not supported. Name a file of the model in float32, float16 or bfloat16"
        )


def is_weight(value: Tensor) -> bool:
    """Return whether a tensor may be a learned weight: dense numbers of at least 16 bits."""
    is_dense = value.layout is torch.strided
    return is_dense and value.is_floating_point() and value.element_size() > 1


def _split_negation(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of the plain CLIP, and those of CLIPN's "no" text encoder."""
    plain, negation = {}, {}
    for key, value in state.items():
        module, dot, rest = key.partition(".")
        if module == "prompt_no":
            negation[key] = value
        elif module.endswith("_no"):
            negation[module.removesuffix("_no") + dot + rest] = value
        else:
            plain[key] = value
    return plain, negation


def _spread_token_rows(state: dict[str, Tensor]) -> None:
    """Expand the token embedding of a small file to the full vocabulary.

    A CLIP trained on a few hundred words saves only the rows of these and lists
    them (`token_ids`); words it has never seen embed as zero.
    """
    token_ids = state.pop("token_ids", None)
    if token_ids is not None:
        rows = state["token_embedding.weight"]
        full = rows.new_zeros(VOCABULARY, rows.shape[1])
        full[token_ids] = rows
        state["token_embedding.weight"] = full


def weights_hash(state: dict[str, Tensor]) -> str:
    """Return the sha256 of names, shapes and float32 values: the same for every file format."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu()
        value = value.float() if value.is_floating_point() else value
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
