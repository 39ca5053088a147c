"""Image transforms by name, made of torchvision's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from torchvision.transforms import (
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)
from yacs.config import CfgNode

from dassl.utils import check_availability

from .preprocess import INTERPOLATION_MODES, Preprocess

logger = logging.getLogger(__name__)

# A step: what the log says, and the transform.
Step = tuple[str, Callable]

# Applied in this order, whatever order the configuration names them in. center_crop is always part
# of the test transform; naming it changes nothing, as upstream.
AVAI_CHOICES = ["random_resized_crop", "random_flip", "center_crop", "normalize"]


def build_transform(
    cfg: CfgNode, is_train: bool = True, choices: Iterable[str] | None = None
) -> Compose | Preprocess:
    """Build the transform from a PIL image to a float tensor `[3, H, W]`, (H, W) = INPUT.SIZE.

    `choices` (default INPUT.TRANSFORMS) are names in AVAI_CHOICES; at test time only "normalize"
    counts, and the transform is a `Preprocess`.

    Differs from upstream: INPUT.RESIZE_MODE may be "squash", and the augmentations are those that
    CLIP trainers name.
    """
    choices = list(cfg.INPUT.TRANSFORMS if choices is None else choices)
    for choice in choices:
        check_availability(choice, AVAI_CHOICES, what="transform")
    normalize = "normalize" in choices
    if not is_train:
        preprocess = build_preprocess(cfg, normalize)
        _log("test", preprocess.steps(), cfg, normalize)
        return preprocess
    steps = _train_steps(cfg, choices)
    _log("train", [text for text, _ in steps], cfg, normalize)
    last = [Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)] if normalize else []
    return Compose([*(step for _, step in steps), ToTensor(), *last])


def _log(kind: str, steps: Iterable[str], cfg: CfgNode, normalize: bool) -> None:
    mean, std = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    last = [f"normalization (mean={mean}, std={std})"] if normalize else []
    logger.info("Building transform_%s", kind)
    for text in (*steps, "to torch tensor of range [0, 1]", *last):
        logger.info("+ %s", text)


def build_preprocess(cfg: CfgNode, normalize: bool) -> Preprocess:
    """Build what INPUT describes; without `normalize` pixels stay in [0, 1]."""
    given = cfg.INPUT
    return Preprocess(
        size=given.SIZE,
        interpolation=given.INTERPOLATION,
        resize_mode=given.RESIZE_MODE,
        **({"mean": given.PIXEL_MEAN, "std": given.PIXEL_STD} if normalize else {}),
    )


def _train_steps(cfg: CfgNode, choices: list[str]) -> list[Step]:
    size, scale = tuple(cfg.INPUT.SIZE), tuple(cfg.INPUT.RRCROP_SCALE)
    name = cfg.INPUT.INTERPOLATION
    check_availability(name, INTERPOLATION_MODES, what="INPUT.INTERPOLATION")
    if "random_resized_crop" in choices:
        crop = RandomResizedCrop(size, scale=scale, interpolation=INTERPOLATION_MODES[name])
        steps = [(f"random resized crop (size={size}, scale={scale})", crop)]
    else:
        resize = Resize(size, interpolation=INTERPOLATION_MODES[name])
        steps = [(f"resize to {size[0]}x{size[1]}", resize)]
    return steps + [("random flip", RandomHorizontalFlip())] * ("random_flip" in choices)
