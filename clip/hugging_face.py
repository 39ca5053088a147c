"""Weights of a CLIP in Hugging Face's layout (`CLIPModel` of transformers), by OpenAI's names."""

from __future__ import annotations

import torch
from torch import Tensor

# Beginnings and parts of their names, and what OpenAI's layout calls them.
NAMES = {
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
PROJECTIONS = ("visual.proj", "text_projection")  # `[W, D]` here, `[D, W]` there


def is_hugging_face(state: dict[str, Tensor]) -> bool:
    """Return whether these weights are named as `CLIPModel` names them."""
    return any(key.startswith(("text_model.", "vision_model.")) for key in state)


def to_openai_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a `CLIPModel` by OpenAI's names: query, key and value joined."""
    renamed = {}
    for key, value in state.items():
        for theirs, ours in NAMES.items():
            key = key.replace(theirs, ours)
        renamed[key] = value.T.contiguous() if key in PROJECTIONS else value
    for key in [key for key in renamed if ".self_attn.q_proj." in key]:
        names = [key.replace("q_proj", f"{part}_proj") for part in "qkv"]
        if renamed.keys() >= set(names):
            joined = torch.cat([renamed.pop(name) for name in names])
            renamed[key.replace("self_attn.q_proj.", "attn.in_proj_")] = joined
    return {key: value for key, value in renamed.items() if not key.endswith("position_ids")}
