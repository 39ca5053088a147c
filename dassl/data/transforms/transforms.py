"""Image transforms by name, made of torchvision's."""

import logging
from collections.abc import Callable, Iterable

from torchvision import transforms as T
from yacs.config import CfgNode

from dassl.utils import check_availability

from .preprocess import INTERPOLATION_MODES, Preprocess

logger = logging.getLogger(__name__)

# What comes behind resizing and cropping, made of the config's INPUT.
FURTHER: dict[str, Callable[[CfgNode], Callable]] = {
    "random_flip": lambda given: T.RandomHorizontalFlip(),
    "random_vertical_flip": lambda given: T.RandomVerticalFlip(),
    "random_rotation": lambda given: T.RandomRotation(given.ROTATION),
    "colorjitter": lambda given: T.ColorJitter(
        given.COLORJITTER_B, given.COLORJITTER_C, given.COLORJITTER_S, given.COLORJITTER_H
    ),
    "randomgrayscale": lambda given: T.RandomGrayscale(given.RGS_P),
}
# Applied in this order, whatever order the configuration names them in. center_crop is always part
# of the test transform; naming it changes nothing, as upstream.
AVAI_CHOICES = ["random_translation", "random_resized_crop", *FURTHER, "center_crop", "normalize"]


def build_transform(
    cfg: CfgNode, is_train: bool = True, choices: Iterable[str] | None = None
) -> T.Compose | Preprocess:
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
    if is_train:
        last = [T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)] if normalize else []
        transform = T.Compose([*_augmentations(cfg, choices), T.ToTensor(), *last])
    else:
        transform = build_preprocess(cfg, normalize)
    logger.info("Transform for %s: %s", "training" if is_train else "test", transform)
    return transform


def build_preprocess(cfg: CfgNode, normalize: bool) -> Preprocess:
    """Build what INPUT describes; without `normalize` pixels stay in [0, 1]."""
    given = cfg.INPUT
    return Preprocess(
        size=given.SIZE,
        interpolation=given.INTERPOLATION,
        resize_mode=given.RESIZE_MODE,
        **({"mean": given.PIXEL_MEAN, "std": given.PIXEL_STD} if normalize else {}),
    )


def _augmentations(cfg: CfgNode, choices: list[str]) -> list[Callable]:
    size, name = tuple(cfg.INPUT.SIZE), cfg.INPUT.INTERPOLATION
    check_availability(name, INTERPOLATION_MODES, what="INPUT.INTERPOLATION")
    mode = INTERPOLATION_MODES[name]
    given, moves = cfg.INPUT, [random_translation(size)] * ("random_translation" in choices)
    if "random_resized_crop" in choices:
        scale = tuple(given.RRCROP_SCALE)
        first = [*moves, T.RandomResizedCrop(size, scale=scale, interpolation=mode)]
    else:
        first = [T.Resize(size, interpolation=mode), *moves]  # as upstream
    return [*first, *(make(given) for name, make in FURTHER.items() if name in choices)]


def random_translation(size: tuple[int, int]) -> T.RandomApply:
    """Enlarge half of the images by an eighth and crop (H, W) = `size` anywhere in them.

    Differs from upstream: every place is as likely as any other (there those at the rim half so).
    """
    larger = [round(1.125 * side) for side in size]
    return T.RandomApply([T.Resize(larger), T.RandomCrop(size)], p=0.5)
