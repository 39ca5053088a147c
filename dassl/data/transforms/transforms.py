"""Image transforms by name, built from torchvision's."""

import logging
from collections.abc import Callable, Iterable

from torchvision import transforms as T
from yacs.config import CfgNode

from dassl.utils import check_availability

from .preprocess import INTERPOLATION_MODES, Preprocess

logger = logging.getLogger(__name__)

# Augmentations after resizing and cropping, built from the INPUT node of a config.
POST_CROP: dict[str, Callable[[CfgNode], Callable]] = {
    "random_flip": lambda node: T.RandomHorizontalFlip(),
    "random_vertical_flip": lambda node: T.RandomVerticalFlip(),
    "random_rotation": lambda node: T.RandomRotation(node.ROTATION),
    "colorjitter": lambda node: T.ColorJitter(
        node.COLORJITTER_B, node.COLORJITTER_C, node.COLORJITTER_S, node.COLORJITTER_H
    ),
    "randomgrayscale": lambda node: T.RandomGrayscale(node.RGS_P),
}
# They are applied in this order, whatever their order in the configuration. center_crop is always
# part of the test transform; naming it changes nothing, as upstream.
AVAI_CHOICES = ["random_translation", "random_resized_crop", *POST_CROP, "center_crop", "normalize"]


def build_transform(
    cfg: CfgNode, is_train: bool = True, choices: Iterable[str] | None = None
) -> T.Compose | Preprocess:
    """Build the transform from a PIL image to a float tensor `[3, H, W]`, (H, W) = INPUT.SIZE.

    `choices` (default INPUT.TRANSFORMS) are names in AVAI_CHOICES; at test time only "normalize"
    counts, and the transform is a `Preprocess`.

    Differs from upstream: INPUT.RESIZE_MODE may be "squash", there are `random_vertical_flip` and
    `random_rotation`, and other augmentations are left out (docs/coming-from.md).
    """
    choices = list(cfg.INPUT.TRANSFORMS if choices is None else choices)
    for choice in choices:
        check_availability(choice, AVAI_CHOICES, what="transform")
    normalize = "normalize" in choices
    if is_train:
        last = [T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)] if normalize else []
        transform = T.Compose([*_augmentations(cfg, choices), T.ToTensor(), *last])
    else:
        transform = build_preprocess(cfg, normalize)
    logger.info("Transform for %s: %s", "training" if is_train else "test", transform)
    return transform


def build_preprocess(cfg: CfgNode, normalize: bool) -> Preprocess:
    """Build the test transform that INPUT describes; without `normalize`, pixels stay in [0, 1]."""
    settings = cfg.INPUT
    return Preprocess(
        size=settings.SIZE,
        interpolation=settings.INTERPOLATION,
        resize_mode=settings.RESIZE_MODE,
        **({"mean": settings.PIXEL_MEAN, "std": settings.PIXEL_STD} if normalize else {}),
    )


def _augmentations(cfg: CfgNode, choices: list[str]) -> list[Callable]:
    size, name = tuple(cfg.INPUT.SIZE), cfg.INPUT.INTERPOLATION
    check_availability(name, INTERPOLATION_MODES, what="INPUT.INTERPOLATION")
    mode = INTERPOLATION_MODES[name]
    translation = [random_translation(size)] * ("random_translation" in choices)
    if "random_resized_crop" in choices:
        scale = tuple(cfg.INPUT.RRCROP_SCALE)
        first = [*translation, T.RandomResizedCrop(size, scale=scale, interpolation=mode)]
    else:
        first = [T.Resize(size, interpolation=mode), *translation]  # as upstream
    return [*first, *(make(cfg.INPUT) for name, make in POST_CROP.items() if name in choices)]


def random_translation(size: tuple[int, int]) -> T.RandomApply:
    """Enlarge half of the images by an eighth and crop (H, W) = `size` anywhere in them.

    Differs from upstream: all positions are equally likely; there, those at the rim are half so.
    """
    larger = [round(1.125 * side) for side in size]
    return T.RandomApply([T.Resize(larger), T.RandomCrop(size)], p=0.5)
