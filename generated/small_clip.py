"""The small CLIP of the generated benchmark and its training data, for `generated.pretrain`.

Its file has OpenAI's state-dict layout in fp16 safetensors, but only those rows of the token
embedding that the training captions use; `token_ids` lists them.
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
PADDING = -1  # the tokenizer's is 0, a token that may also begin a word such as "!!"


@dataclass
class Pairs:
    """Captioned images: images uint8 `[N, 3, S, S]`; texts: T different captions; rows `[N]`: the
    index of each image's caption in texts."""

    images: Tensor
    texts: list[str]
    rows: Tensor

    def __len__(self) -> int:
        return len(self.images)


def generated_pairs(
    training: int, held_out: int, workers: int | None = None
) -> tuple[Pairs, Pairs]:
    """Return pairs of the streams clip-train and clip-held-out, with a common table of texts."""
    streams = [
        captioned_images(stream, count, workers=workers)
        for stream, count in (("clip-train", training), ("clip-held-out", held_out))
    ]
    texts = sorted({caption for _, captions in streams for caption in captions})
    row = {text: index for index, text in enumerate(texts)}
    return tuple(
        Pairs(
            torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            texts,
            torch.tensor([row[caption] for caption in captions]),
        )
        for images, captions in streams
    )


def tokenise(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Tokenise into rows `[T, L]` of a small embedding; return them and token_ids `[R]`, ascending.

    PADDING is row 0; the end token has the largest id, hence the largest row.
    """
    tokens = open_clip.tokenize(list(texts), context_length=CONTEXT_LENGTH)
    past_end = torch.arange(CONTEXT_LENGTH) > tokens.argmax(1, keepdim=True)
    token_ids, rows = torch.unique(tokens.masked_fill(past_end, PADDING), return_inverse=True)
    assert token_ids[0] == PADDING, "captions are short"
    longest = int((rows != 0).sum(1).max())
    return rows[:, :longest], token_ids


def build_model(args: argparse.Namespace, vocabulary: int) -> open_clip.CLIP:
    """Build a CLIP of the given sizes, with QuickGELU and attention heads of width 64."""
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
    """Load a file of this module into `model`; return metadata about its training.

    Embeddings of tokens that the file does not have keep their random values.
    """
    try:
        with safe_open(path, "pt") as file:
            state = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata()
        row_of = {int(token): row for row, token in enumerate(state.pop("token_ids"))}
        rows = model.token_embedding.weight.detach().clone()
        for row, token in enumerate(token_ids.tolist()):
            if token in row_of:
                rows[row] = state["token_embedding.weight"][row_of[token]]
        model.load_state_dict({**state, "token_embedding.weight": rows})
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise InputError(
            f"Cannot start from --init {path}: {error}. It must be a file written by "
            "generated.pretrain with the same sizes."
        ) from error
    return {"init_command": metadata.get("command", "unknown")}


def encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Return text features `[T, D]` of tokens `[T, L]`, L <= 77: attention is causal, so padding
    after the longest text changes nothing and is left out."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]  # [T, L, W]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), tokens.argmax(1)] @ model.text_projection


def prepare(images: Tensor) -> Tensor:
    """Normalise uint8 images `[B, 3, S, S]` by CLIP's mean and standard deviation."""
    mean = torch.tensor(OPENAI_DATASET_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(OPENAI_DATASET_STD, device=images.device)[:, None, None]
    return (images.float() / 255 - mean) / std


def augment(images: Tensor) -> Tensor:
    """Augment each image of a float batch `[B, 3, S, S]` by a random resized crop (60-100 % of the
    area), mirroring, brightness and contrast."""
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
    """Return the share of images whose nearest caption in their batch is their own caption."""
    device, correct = next(model.parameters()).device, 0
    for first in range(0, len(pairs), batch):
        rows = pairs.rows[first : first + batch]
        pixels = prepare(pairs.images[first : first + batch].to(device))
        images, _ = encode_image(model.visual, pixels, local=False)
        texts = F.normalize(encode_text(model, tokens[rows].to(device)), dim=-1)
        nearest = (F.normalize(images, dim=-1) @ texts.T).argmax(1).cpu()
        correct += (rows[nearest] == rows).sum().item()
    return correct / len(pairs)


def save(model: open_clip.CLIP, token_ids: Tensor, path: Path, metadata: dict[str, str]) -> None:
    """Write the weights in OpenAI's layout, fp16, but PADDING's row, whole or not at all."""
    state = {
        name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()
    }
    words = token_ids != PADDING
    state["token_embedding.weight"] = state["token_embedding.weight"][words]
    state["token_ids"] = token_ids[words]
    with atomic_write(path, "wb") as handle:
        handle.write(serialise(state, {"activation": "quick_gelu", **metadata}))
