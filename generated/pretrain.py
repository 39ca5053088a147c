"""Train the small CLIP of the generated benchmark: `python -m generated.pretrain --help`.

Symmetric InfoNCE (Radford et al. 2021) on the generator's own captioned stream, with AdamW and a
cosine schedule after a warm-up.

Differs from CLIP's training:

- Samples of a batch that share a caption count as matches of each other. There are few kinds, so a
  batch repeats captions, and plain InfoNCE would push an image away from its own caption.
- The logit scale follows a schedule (`scale_at`) that ends at 100, the value CLIP's reaches by
  itself. It determines how far apart cosines lie, on which scores at temperature 1 depend.
- A second InfoNCE (`--local-weight`) aligns the *local* features, those of the value path that
  GL-MCM and LoCoOp read, with the captions: large CLIPs have meaningful ones without training for
  them, but one this small has not. No masks or positions are used.
- Label smoothing (`--label-smoothing`, in the last phase) asks that all captions that do not fit an
  image lie equally far from it, which CLIP's batches of 32,768 achieve. A batch of 128 does not:
  once the right caption is well above the others, nothing moves the others.
- Most steps see a third of each image's patches, drawn at random (Li et al., FLIP, CVPR 2023),
  which makes a step nearly three times as fast. The last steps see all patches.
"""

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import PatchDropout
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from clip.image import encode_image
from dassl.command import run
from dassl.utils import InputError, progress_bar
from generated.small_clip import (
    Pairs,
    augment,
    build_model,
    encode_text,
    generated_pairs,
    prepare,
    retrieval_accuracy,
    save,
    start_from,
    tokenise,
)

FIRST_SCALE, LAST_SCALE = 14.0, 100.0
RISE = (0.05, 0.6)  # shares of the steps between which the logit scale rises
WHOLE_FROM = 0.93  # share of the steps after which all patches are seen
LOCAL_SHARPNESS = 30.0
SIZES = {  # flag -> default and help
    "patch": (8, "side of a patch in pixels"),
    "width": (192, "width of the image encoder"),
    "layers": (5, "layers of the image encoder"),
    "text-width": (128, "width of the text encoder"),
    "text-layers": (3, "layers of the text encoder"),
    "embed-dim": (128, "dimension of the features"),
    "steps": (4000, "steps of the optimiser"),
    "batch-size": (128, "pairs a step"),
    "seed": (1, "seed of weights, order and augmentation"),
}


def info_nce(cosines: Tensor, scale: Tensor, groups: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the symmetric InfoNCE of cosines `[B, B]` (images x texts).

    The target is shared by the texts of the same group `[B]`; `smoothing` is the share of it that
    is spread over the whole batch (label smoothing).
    """
    matches = (groups[:, None] == groups[None]).float()
    target = matches / matches.sum(1, keepdim=True)  # symmetric [B, B]
    logits = scale * cosines
    losses = (F.cross_entropy(x, target, label_smoothing=smoothing) for x in (logits, logits.T))
    return sum(losses) / 2


def local_cosines(local: Tensor, texts: Tensor) -> Tensor:
    """Return the soft maximum over regions `[B, N, D]` of cosines with texts `[T, D]`: `[B, T]`.

    The object of a caption fills only some of the regions, so the best ones count, in the manner of
    FILIP's token-wise maximum (Yao et al. 2022). Features are normalised.
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
    """Return InfoNCE of image and text features `[B, D]`, plus `local_weight` times that of the
    regions `[B, N, D]`."""
    texts = F.normalize(texts.float(), dim=-1)
    loss = info_nce(F.normalize(images.float(), dim=-1) @ texts.T, scale, groups, smoothing)
    if local_weight == 0:
        return loss
    regions = local_cosines(F.normalize(local.float(), dim=-1), texts)
    return loss + local_weight * info_nce(regions, scale, groups, smoothing)


def build_optimizer(model: torch.nn.Module, args: argparse.Namespace):
    """Return AdamW with weight decay on matrices only, and its schedule: warm-up, then cosine."""
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
    """Return the logarithm of the logit scale after the share `progress` of the steps."""
    first, last = RISE
    share = min(max((progress - first) / (last - first), 0), 1)
    return math.log(start) + share * math.log(LAST_SCALE / start)


def random_loss(
    model: open_clip.CLIP, pairs: Pairs, tokens: Tensor, args: argparse.Namespace, precision: str
) -> Tensor:
    """Return the loss of a random batch of augmented images and their captions."""
    device = next(model.parameters()).device
    batch = torch.randint(len(pairs), (args.batch_size,))
    rows = pairs.rows[batch]
    texts = tokens[rows]
    texts = texts[:, : int((texts != 0).sum(1).max())].to(device)  # [B, L]
    images = augment(prepare(pairs.images[batch].to(device)))
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    # On a CPU the backward pass of fused attention is slower at these short lengths.
    with autocast, sdpa_kernel(SDPBackend.MATH):
        features = (
            *encode_image(model.visual, images, local=args.local_weight > 0),
            encode_text(model, texts),
        )
    scale, weights = model.logit_scale.exp(), (args.local_weight, args.label_smoothing)
    return batch_loss(*features, scale, rows.to(device), *weights)


def faster_precision(
    model: open_clip.CLIP, pairs: Pairs, tokens: Tensor, args: argparse.Namespace
) -> str:
    """Return "bf16" or "fp32", whichever is faster for a step on this device.

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
    """Train `model` in place, call `checkpoint` four times, and return the loss of each step."""
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


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m generated.pretrain",
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def add(name: str, default, text: str, **options) -> None:
        value_type = None if default is None else type(default)
        parser.add_argument(name, default=default, help=text, **{"type": value_type, **options})

    add("--init", None, "file of the same sizes to start from", type=Path)
    add("--images", 50000, "number of training images to draw")
    add("--held-out", 1024, "number of pairs of the stream clip-held-out, for the final check")
    for name, size in SIZES.items():
        add(f"--{name}", *size)
    add("--patch-dropout", 2 / 3, "share of the patches left out, except in the last steps")
    add("--lr", 1e-3, "peak learning rate")
    add("--local-weight", 0.5, "weight of the loss of the best regions; 0: plain CLIP")
    add("--label-smoothing", 0.0, "share of the target spread over all captions of a batch")
    add("--weight-decay", 0.1, "weight decay of matrices")
    precisions = "auto: the faster of the two, measured by a step of each"
    add("--precision", "auto", precisions, choices=["auto", "fp32", "bf16"])
    add("--device", "cuda" if torch.cuda.is_available() else "cpu", "device to train on")
    add("--workers", None, "drawing processes; None: one a core", type=int)
    add("--output", None, ".safetensors file to write", type=Path, required=True)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, write the file, and return the losses."""
    args = parse(arguments)
    started = time.time()
    torch.manual_seed(args.seed)
    training, held_out = generated_pairs(args.images, args.held_out, args.workers)
    tokens, token_ids = tokenise(training.texts)
    model = build_model(args, len(token_ids))
    initial = start_from(args.init, model, token_ids) if args.init else {}
    model.to(args.device)
    command = shlex.join(["python", "-m", "generated.pretrain", *(arguments or sys.argv[1:])])
    metadata = {
        "name": args.output.stem,
        "trained_on": f"generated (synthetic) images, stream clip-train, {args.images}",
        "command": command,
        "versions": json.dumps({"torch": torch.__version__}),
        **initial,
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
    run(main)
