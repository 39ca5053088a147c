"""The small CLIP of the generated benchmark and what it is trained on, for `generated.pretrain`.

The file is OpenAI's state-dict layout in fp16 safetensors; it holds only the rows of the token
embedding that the training captions use, and `token_ids` saying which.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from clip.image import encode_image
from dassl.utils.errors import InputError
from dassl.utils.files import atomic_write
from generated.canvas import SIZE
from generated.parallel import captioned_images

CONTEXT_LENGTH = 77
HEAD_WIDTH = 64


@dataclass
class Pairs:
    """Captioned images: images uint8 [N, 3, S, S]; texts: T different captions; rows [N]: the row
    of texts that describes each image. Images with equal captions match each other's."""

    images: Tensor
    texts: list[str]
    rows: Tensor

    def __len__(self) -> int:
        return len(self.images)


def generated_pairs(
    training: int, held_out: int, workers: int | None = None
) -> tuple[Pairs, Pairs]:
    """Return pairs of the streams clip-train and clip-held-out over one common table of texts."""
    parts = [
        captioned_images(stream, count, workers=workers)
        for stream, count in (("clip-train", training), ("clip-held-out", held_out))
    ]
    texts = sorted({caption for _, captions in parts for caption in captions})
    row = {text: index for index, text in enumerate(texts)}
    return tuple(
        Pairs(
            torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            texts,
            torch.tensor([row[caption] for caption in captions]),
        )
        for images, captions in parts
    )


def tokenise(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """OpenAI's tokens as rows of a small embedding: (rows [T, L], token_ids [R] ascending).

    Padding (id 0) is kept as row 0; the end token stays the largest id, hence the largest row.
    """
    tokens = open_clip.tokenize(list(texts), context_length=CONTEXT_LENGTH)
    token_ids, rows = torch.unique(tokens, return_inverse=True)
    assert token_ids[0] == 0, "captions are short"
    longest = int((tokens != 0).sum(1).max())
    return rows[:, :longest], token_ids


def build_model(args: argparse.Namespace, vocabulary: int) -> open_clip.CLIP:
    """ViT and text transformer of the sizes asked for, QuickGELU, heads of width 64."""
    for name in ("width", "text_width"):
        if getattr(args, name) % HEAD_WIDTH:
            raise InputError(
                f"--{name.replace('_', '-')} {getattr(args, name)} is not a multiple "
                f"of {HEAD_WIDTH}, the width of an attention head."
            )
    if SIZE % args.patch:
        raise InputError(f"Images of {SIZE} pixels are not a multiple of --patch {args.patch}.")
    vision = open_clip.CLIPVisionCfg(
        layers=args.layers, width=args.width, patch_size=args.patch, image_size=SIZE
    )
    text = open_clip.CLIPTextCfg(
        context_length=CONTEXT_LENGTH,
        vocab_size=vocabulary,
        width=args.text_width,
        heads=args.text_width // HEAD_WIDTH,
        layers=args.text_layers,
    )
    return open_clip.CLIP(args.embed_dim, vision, text, quick_gelu=True)


def start_from(path: Path, model: open_clip.CLIP, token_ids: Tensor) -> dict[str, str]:
    """Load an earlier file of this module into `model` and return metadata about its training.

    Words that the file does not have keep their random start.
    """
    try:
        with safe_open(path, "pt") as file:
            state = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata()
        known = {int(token): row for row, token in enumerate(state.pop("token_ids"))}
        rows = model.token_embedding.weight.detach().clone()
        for row, token in enumerate(token_ids.tolist()):
            if token in known:
                rows[row] = state["token_embedding.weight"][known[token]]
        model.load_state_dict({**state, "token_embedding.weight": rows})
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise InputError(
            f"Cannot start from --init {path}: {error}. It must be a file written by "
            "generated.pretrain with the same sizes."
        ) from error
    return {"init_command": metadata.get("command", "unknown")}


def encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Text features [T, D] of tokens [T, L], L <= 77: causal, so what follows the longest text
    changes nothing and is left out."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]  # [T, L, W]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), tokens.argmax(1)] @ model.text_projection


def prepare(images: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] -> float, CLIP's mean and std."""
    mean = torch.tensor(OPENAI_DATASET_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(OPENAI_DATASET_STD, device=images.device)[:, None, None]
    return (images.float() / 255 - mean) / std


def augment(images: Tensor) -> Tensor:
    """Random resized crop (60-100 % of the area), mirror image, brightness and contrast, for each
    image of float [B, 3, S, S] on its own."""
    n, device = len(images), images.device
    zoom = torch.empty(n, device=device).uniform_(0.6, 1).sqrt()
    stretch = torch.empty(n, device=device).uniform_(-0.1, 0.1).exp()
    zoom_x, zoom_y = (zoom * stretch).clamp(max=1), (zoom / stretch).clamp(max=1)
    mirror = torch.where(torch.rand(n, device=device) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1] = zoom_x * mirror, zoom_y
    theta[:, 0, 2] = (1 - zoom_x) * torch.empty(n, device=device).uniform_(-1, 1)
    theta[:, 1, 2] = (1 - zoom_y) * torch.empty(n, device=device).uniform_(-1, 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain = torch.empty(n, 1, 1, 1, device=device).uniform_(0.85, 1.15)
    return images * gain + torch.empty(n, 1, 1, 1, device=device).uniform_(-0.15, 0.15)


@torch.no_grad()
def retrieval_accuracy(
    model: open_clip.CLIP, pairs: Pairs, tokens: Tensor, batch: int = 128
) -> float:
    """Share of images whose nearest caption, among those of their batch, is of their group."""
    device, right = next(model.parameters()).device, 0
    for first in range(0, len(pairs), batch):
        part = slice(first, first + batch)
        pixels = prepare(pairs.images[part].to(device))
        images, _ = encode_image(model.visual, pixels, local=False)
        texts = F.normalize(encode_text(model, tokens[pairs.rows[part]].to(device)), dim=-1)
        groups = pairs.rows[part]
        nearest = (F.normalize(images, dim=-1) @ texts.T).argmax(1).cpu()
        right += (groups[nearest] == groups).sum().item()
    return right / len(pairs)


def save(model: open_clip.CLIP, token_ids: Tensor, path: Path, metadata: dict[str, str]) -> None:
    """Write the weights in OpenAI's layout, fp16, whole or not at all."""
    state = {
        name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()
    }
    state["token_ids"] = token_ids
    with atomic_write(path, "wb") as handle:
        handle.write(serialise(state, {"activation": "quick_gelu", **metadata}))
