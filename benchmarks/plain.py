"""The plain implementation of a training step and of an evaluation, the baseline of the fast ones.

It wastes nothing on purpose (the frozen encoders keep no weight gradients, the local path runs only
in the last block), but has no tricks either: every class's prompt goes through the text encoder
with all its 77 tokens, the graph of all of them is kept, and regions are selected by a softmax and
a `topk` over all classes. An evaluation encodes the prompts again for every batch of images, as
the public code does, and computes every score from a softmax over all classes and regions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from clip import ClipModel
from clip.tokenizer import CONTEXT_LENGTH
from trainers.prompt_learner import PromptLearner


def text_features(clip: ClipModel, learner: PromptLearner) -> Tensor:
    """Return normalised text features `[C, D]` of prompts `[SOS] context name . [EOT]`."""
    prompts = learner()  # [C, L, W]
    prompts = F.pad(prompts, (0, 0, 0, CONTEXT_LENGTH - prompts.shape[1]))  # [C, 77, W]
    return F.normalize(clip.text(prompts, learner.eot), dim=-1)


def image_features(clip: ClipModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return normalised global `[B, D]` and local `[B, N, D]` features of a ViT."""
    visual = clip.visual
    x = visual._embeds(images)  # [B, 1 + N, W]
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    features = visual.ln_post(last(x))[:, 0] @ visual.proj
    regions = visual.ln_post(_value_path(last, x))[:, 1:] @ visual.proj
    return F.normalize(features, dim=-1), F.normalize(regions, dim=-1)


def _value_path(block, x: Tensor) -> Tensor:
    width = x.shape[-1]
    attn = block.attn
    value = F.linear(
        block.ln_1(x), attn.in_proj_weight[2 * width :], attn.in_proj_bias[2 * width :]
    )
    x = x + attn.out_proj(value)
    return x + block.mlp(block.ln_2(x))


def locoop_loss(
    clip: ClipModel, learner: PromptLearner, images: Tensor, labels: Tensor, k: int, weight: float
) -> Tensor:
    """Return LoCoOp's loss (Miyai et al., NeurIPS 2023, equations 2 to 7)."""
    with torch.no_grad():
        features, regions = image_features(clip, images)
    text = text_features(clip, learner)
    loss_id = F.cross_entropy(clip.scale * features @ text.T, labels)
    p = (clip.scale * regions @ text.T).softmax(dim=-1)  # [B, N, C]
    top = p.topk(k, dim=-1).indices
    irrelevant = (top != labels[:, None, None]).all(dim=-1)  # [B, N]
    chosen = p[irrelevant]  # [selected, C]
    negative_entropy = (chosen * torch.log(chosen + 1e-5)).sum(dim=-1)
    return loss_id + weight * negative_entropy.sum() / max(1, len(negative_entropy))


@torch.inference_mode()
def scores(clip: ClipModel, learner: PromptLearner, images: Tensor) -> dict[str, Tensor]:
    """Return the scores that need only CLIP, and the predictions, each `[B]`."""
    features, regions = image_features(clip, images)
    text = text_features(clip, learner)
    cosines, local = features @ text.T, regions @ text.T  # [B, C], [B, N, C]
    logits = clip.scale * cosines
    p, mcm = logits.softmax(dim=-1), cosines.softmax(dim=-1).amax(dim=-1)
    return {
        "prediction": cosines.argmax(dim=-1),
        "MCM": mcm,
        "GL-MCM": mcm + local.softmax(dim=-1).amax(dim=(1, 2)),
        "MSP": p.amax(dim=-1),
        "MaxLogit": logits.amax(dim=-1),
        "Energy": logits.logsumexp(dim=-1),
        "Entropy": (p * logits.log_softmax(dim=-1)).sum(dim=-1),
        "GradNorm": (p - 1 / p.shape[-1]).abs().sum(dim=-1)
        * (clip.scale * features).abs().sum(dim=-1),
    }
