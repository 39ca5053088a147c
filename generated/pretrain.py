"""Train the small CLIP of the generated benchmark: `python -m generated.pretrain --help`.

Symmetric InfoNCE (Radford et al. 2021) on the generator's own captioned stream, AdamW, warm-up and
cosine. The file is OpenAI's state-dict layout in fp16 safetensors; it holds only the rows of the
token embedding that the training captions use, and `token_ids` saying which.

Differs from CLIP's training:

- Samples of a batch that share their caption count as matches of each other. With few kinds of
  thing a batch repeats captions, and plain InfoNCE would push an image away from its own caption.
- The logit scale follows a schedule (`scale_at`) and ends at 100, where CLIP's ends by itself. It
  fixes how far apart cosines lie, which scores on cosines at temperature 1 depend on.
- A second InfoNCE (`--local-weight`) makes the *local* features, those of the value path that
  GL-MCM and LoCoOp read, agree with the captions: large CLIPs have meaningful ones without being
  trained for it, one this small has not. No masks or places are used.
- Label smoothing (`--label-smoothing`, in the last phase): it asks that all captions which do not
  fit an image lie equally far from it, as CLIP's batches of 32,768 do. A batch of 128 does not ask:
  once the right caption stands well above the rest, nothing moves the rest.
- Most steps see a third of each image's patches, drawn at random (Li et al., FLIP, CVPR 2023),
  which makes a step nearly three times as fast. The last steps see all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transformer import PatchDropout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from clip.image import encode_image
from dassl.utils.console import progress_bar
from dassl.utils.errors import InputError, in_a_sentence
from dassl.utils.files import atomic_write
from generated.canvas import SIZE
from generated.parallel import captioned_images

CONTEXT_LENGTH = 77
FIRST_SCALE, LAST_SCALE = 14.0, 100.0
RISE = (0.05, 0.6)  # shares of the steps between which the logit scale rises
WHOLE_FROM = 0.93  # share of the steps after which no patch is left out
LOCAL_SHARPNESS = 30.0
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


def info_nce(cosines: Tensor, scale: Tensor, groups: Tensor, smoothing: float = 0.0) -> Tensor:
    """Symmetric InfoNCE of cosines [B, B] (images x texts); a group's captions share the target.

    `smoothing`: share of the target spread over the whole batch (label smoothing).
    """
    matches = (groups[:, None] == groups[None]).float()
    target = matches / matches.sum(1, keepdim=True)  # symmetric [B, B]
    logits = scale * cosines
    both = (F.cross_entropy(x, target, label_smoothing=smoothing) for x in (logits, logits.T))
    return sum(both) / 2


def local_cosines(local: Tensor, texts: Tensor) -> Tensor:
    """Return how well the best regions of images (local [B, N, D]) fit texts [T, D]: [B, T].

    A soft maximum over regions, as the object of a caption fills only some of them; in the manner
    of FILIP's token-wise maximum (Yao et al. 2022). Features are normalised.
    """
    cosines = torch.einsum("bnd,td->btn", local, texts)
    return ((LOCAL_SHARPNESS * cosines).softmax(-1) * cosines).sum(-1)


def batch_loss(
    images: Tensor,
    local: Tensor | None,
    texts: Tensor,
    scale: Tensor,
    groups: Tensor,
    local_weight: float,
    smoothing: float = 0.0,
) -> Tensor:
    """InfoNCE of image [B, D] and text [B, D] features, plus `local_weight` times that of the
    regions [B, N, D]."""
    texts = F.normalize(texts.float(), dim=-1)
    loss = info_nce(F.normalize(images.float(), dim=-1) @ texts.T, scale, groups, smoothing)
    if local_weight == 0:
        return loss
    regions = local_cosines(F.normalize(local.float(), dim=-1), texts)
    return loss + local_weight * info_nce(regions, scale, groups, smoothing)


def build_optimizer(model: torch.nn.Module, args: argparse.Namespace):
    """Return AdamW with decay on matrices only, and its schedule of warm-up and cosine."""
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": args.weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), eps=1e-6)
    warmup = max(1, args.steps // 20)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, args.steps - warmup)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def scale_at(progress: float, start: float = FIRST_SCALE) -> float:
    """Return the logarithm of the logit scale at a share `progress` of the steps."""
    first, last = RISE
    share = min(max((progress - first) / (last - first), 0), 1)
    return math.log(start) + share * math.log(LAST_SCALE / start)


def random_loss(
    model: open_clip.CLIP, pairs: Pairs, tokens: Tensor, args: argparse.Namespace, precision: str
) -> Tensor:
    """Return the loss of a random batch of augmented images and their captions, a scalar."""
    device = next(model.parameters()).device
    picked = torch.randint(len(pairs), (args.batch_size,))
    rows = pairs.rows[picked]
    texts = tokens[rows]
    texts = texts[:, : int((texts != 0).sum(1).max())].to(device)  # [B, L]
    images = augment(prepare(pairs.images[picked].to(device)))
    half = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    # On a CPU the fused attention's backward pass is the slower one at these short lengths.
    with half, sdpa_kernel(SDPBackend.MATH):
        features = (
            *encode_image(model.visual, images, local=args.local_weight > 0),
            encode_text(model, texts),
        )
    scale, weights = model.logit_scale.exp(), (args.local_weight, args.label_smoothing)
    return batch_loss(*features, scale, rows.to(device), *weights)


def faster_precision(
    model: open_clip.CLIP, pairs: Pairs, tokens: Tensor, args: argparse.Namespace
) -> str:
    """Return "bf16" or "fp32", whichever takes a step faster on this device.

    A CPU without bfloat16 units emulates them, 20 times slower than float32.
    """
    state, seconds = torch.get_rng_state(), {}
    for precision in ("fp32", "bf16"):
        for _ in range(2):  # the first warms up
            started = time.perf_counter()
            random_loss(model, pairs, tokens, args, precision).backward()
            seconds[precision] = time.perf_counter() - started
    model.zero_grad()
    torch.set_rng_state(state)
    return min(seconds, key=seconds.get)


def train(
    model: open_clip.CLIP,
    pairs: Pairs,
    tokens: Tensor,
    args: argparse.Namespace,
    checkpoint=lambda: None,
) -> list[float]:
    """Train in place; `checkpoint` is called four times on the way. Returns each step's loss."""
    model.logit_scale.requires_grad_(False)
    optimizer, scheduler = build_optimizer(model, args)
    whole, dropout = model.visual.patch_dropout, PatchDropout(args.patch_dropout)
    start = model.logit_scale.exp().item() if args.init else FIRST_SCALE
    precision = args.precision
    if precision == "auto":
        precision = faster_precision(model, pairs, tokens, args)
    losses = []
    for step in (progress := progress_bar(range(args.steps), f"training, {precision}")):
        model.logit_scale.data.fill_(scale_at(step / args.steps, start))
        model.visual.patch_dropout = dropout if step < WHOLE_FROM * args.steps else whole
        loss = random_loss(model, pairs, tokens, args, precision)
        if not loss.isfinite():
            raise InputError(
                f"The loss is {loss.item()} at step {step}: lower --lr (now {args.lr:g})."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
        if (step + 1) % max(1, args.steps // 5) == 0 and step + 1 < args.steps:
            checkpoint()
            progress.write(f"step {step + 1}: loss {np.mean(losses[-50:]):.3f}")
    model.visual.patch_dropout = whole
    model.logit_scale.data.fill_(math.log(LAST_SCALE))
    return losses


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


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m generated.pretrain",
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--init", type=Path, help="go on from an earlier file of the same sizes")
    parser.add_argument("--images", type=int, default=50000, help="how many to draw")
    parser.add_argument(
        "--held-out",
        type=int,
        default=1024,
        help="pairs of the stream clip-held-out, for the final check",
    )
    for name, default in (
        ("patch", 8),
        ("width", 192),
        ("layers", 5),
        ("text-width", 128),
        ("text-layers", 3),
        ("embed-dim", 128),
        ("steps", 4000),
        ("batch-size", 128),
        ("seed", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument(
        "--patch-dropout",
        type=float,
        default=2 / 3,
        help="share of the patches left out, but in the last steps",
    )
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument(
        "--local-weight",
        type=float,
        default=0.5,
        help="weight of the loss of the best regions; 0 is plain CLIP",
    )
    parser.add_argument(
        "--label-smoothing",
        type=float,
        default=0.0,
        help="share of the target that is spread over all captions of a batch",
    )
    parser.add_argument("--weight-decay", type=float, default=0.1, help="of matrices")
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="auto: the faster of the two, by a step of each",
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=None, help="processes that draw; one a core")
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train and write the file; returns the losses."""
    args = parse(arguments)
    started = time.time()
    torch.manual_seed(args.seed)
    training, held_out = generated_pairs(args.images, args.held_out, args.workers)
    tokens, token_ids = tokenise(training.texts)
    model = build_model(args, len(token_ids))
    earlier = start_from(args.init, model, token_ids) if args.init else {}
    model.to(args.device)
    command = shlex.join(["python", "-m", "generated.pretrain", *(arguments or sys.argv[1:])])
    metadata = {
        "name": args.output.stem,
        "trained_on": f"generated (synthetic) images, stream clip-train, {args.images}",
        "command": command,
        "versions": json.dumps({"torch": torch.__version__}),
        **earlier,
    }
    losses = train(
        model, training, tokens, args, lambda: save(model, token_ids, args.output, metadata)
    )
    save(model, token_ids, args.output, metadata)
    model.eval()
    print(
        f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, loss {losses[0]:.3f} -> "
        f"{np.mean(losses[-50:]):.3f}, held-out retrieval among 128 captions "
        f"{100 * retrieval_accuracy(model, held_out, tokens):.1f} %, "
        f"{(time.time() - started) / 60:.1f} minutes"
    )
    return losses


if __name__ == "__main__":
    with in_a_sentence():
        main()
