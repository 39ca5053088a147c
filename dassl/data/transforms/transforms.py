"""Image transforms by name, made of torchvision's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from torchvision.transforms import (
    ColorJitter,
    Compose,
    GaussianBlur,
    InterpolationMode,
    Normalize,
    RandAugment,
    RandomApply,
    RandomCrop,
    RandomGrayscale,
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


def _random_crop(cfg: CfgNode) -> Step:
    padding = cfg.INPUT.CROP_PADDING
    return f"random crop (padding={padding})", RandomCrop(cfg.INPUT.SIZE, padding=padding)


def _random_resized_crop(cfg: CfgNode) -> Step:
    size, scale = tuple(cfg.INPUT.SIZE), tuple(cfg.INPUT.RRCROP_SCALE)
    crop = RandomResizedCrop(size, scale=scale, interpolation=_interpolation(cfg))
    return f"random resized crop (size={size}, scale={scale})", crop


def _random_flip(cfg: CfgNode) -> Step:
    return "random flip", RandomHorizontalFlip()


def _randaugment(cfg: CfgNode) -> Step:
    n, m = cfg.INPUT.RANDAUGMENT_N, cfg.INPUT.RANDAUGMENT_M
    return f"randaugment (n={n}, m={m})", RandAugment(num_ops=n, magnitude=m)


def _colorjitter(cfg: CfgNode) -> Step:
    b, c, s, h = (cfg.INPUT[f"COLORJITTER_{key}"] for key in "BCSH")
    return f"color jitter (brightness={b}, contrast={c}, saturation={s}, hue={h})", ColorJitter(
        brightness=b, contrast=c, saturation=s, hue=h
    )


def _randomgrayscale(cfg: CfgNode) -> Step:
    return f"random gray scale (p={cfg.INPUT.RGS_P})", RandomGrayscale(p=cfg.INPUT.RGS_P)


def _gaussian_blur(cfg: CfgNode) -> Step:
    kernel, p = cfg.INPUT.GB_K, cfg.INPUT.GB_P
    return f"gaussian blur (kernel={kernel}, p={p})", RandomApply([GaussianBlur(kernel)], p=p)


# In the order in which they are applied, whatever order the configuration names them in.
AUGMENTATIONS: dict[str, Callable[[CfgNode], Step]] = {
    "random_crop": _random_crop,
    "random_resized_crop": _random_resized_crop,
    "random_flip": _random_flip,
    "randaugment": _randaugment,
    "colorjitter": _colorjitter,
    "randomgrayscale": _randomgrayscale,
    "gaussian_blur": _gaussian_blur,
}

# center_crop is always part of the test transform; naming it changes nothing, as upstream.
AVAI_CHOICES = [*AUGMENTATIONS, "center_crop", "normalize"]


def build_transform(
    cfg: CfgNode, is_train: bool = True, choices: Iterable[str] | None = None
) -> Compose | Preprocess | None:
    """Build the transform from a PIL image to a float tensor [3, H, W], (H, W) = INPUT.SIZE.

    `choices` (default INPUT.TRANSFORMS) are names in AVAI_CHOICES; at test time only "normalize"
    counts, and the transform is a `Preprocess`. None with INPUT.NO_TRANSFORM.

    Differs from upstream: "randaugment" is torchvision's, and INPUT.RESIZE_MODE may be "squash".
    """
    if cfg.INPUT.NO_TRANSFORM:
        logger.info("Note: no transform is applied!")
        return None
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


def build_preprocess(cfg: CfgNode, normalize: bool, resize_mode: str = "") -> Preprocess:
    """Build what INPUT describes, with another resize mode if one is given."""
    given = cfg.INPUT
    return Preprocess(
        size=given.SIZE,
        interpolation=given.INTERPOLATION,
        resize_mode=resize_mode or given.RESIZE_MODE,
        **({"mean": given.PIXEL_MEAN, "std": given.PIXEL_STD} if normalize else {}),
    )


def build_plain_transform(cfg: CfgNode) -> Preprocess:
    """Build the transform without augmentation: resized to INPUT.SIZE, normalised if asked."""
    return build_preprocess(cfg, "normalize" in cfg.INPUT.TRANSFORMS, "squash")


def _train_steps(cfg: CfgNode, choices: list[str]) -> list[Step]:
    steps = [make(cfg) for name, make in AUGMENTATIONS.items() if name in choices]
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        height, width = cfg.INPUT.SIZE
        resize = Resize(cfg.INPUT.SIZE, interpolation=_interpolation(cfg))
        steps.insert(0, (f"resize to {height}x{width}", resize))
    return steps


def _interpolation(cfg: CfgNode) -> InterpolationMode:
    name = cfg.INPUT.INTERPOLATION
    check_availability(name, INTERPOLATION_MODES, what="INPUT.INTERPOLATION")
    return INTERPOLATION_MODES[name]
