"""The preprocessing of an image into a model's input, in one place."""

import functools
import logging
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from dassl.utils import InputError, as_rgb, check_availability

logger = logging.getLogger(__name__)

INTERPOLATION_MODES = {name: InterpolationMode(name) for name in ("bilinear", "bicubic", "nearest")}
RESIZE_MODES = ("shortest", "squash")

_warn_once = functools.cache(logger.warning)


@dataclass(frozen=True)
class Preprocess:
    """The test transform of an image: resize, crop, scale to [0, 1], normalise.

    Attributes:
        size: (H, W) of the input.
        mean, std: of the three channels; zeros and ones leave the pixels in [0, 1].
        interpolation: bilinear, bicubic or nearest.
        resize_mode: "shortest" resizes the smaller edge to max(H, W) and crops the centre, as
            OpenAI's CLIP; "squash" resizes both edges and changes their ratio, as some of
            open_clip's models want it.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"
    resize_mode: str = "shortest"

    def __post_init__(self) -> None:
        check_availability(self.interpolation, INTERPOLATION_MODES, what="INPUT.INTERPOLATION")
        check_availability(self.resize_mode, RESIZE_MODES, what="INPUT.RESIZE_MODE")
        for name in ("size", "mean", "std"):  # they are lists if read from a file
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.size) != 2 or not all(isinstance(x, int) and x > 0 for x in self.size):
            raise InputError(f"INPUT.SIZE {self.size}: give height and width in pixels")
        for key, values in (("INPUT.PIXEL_MEAN", self.mean), ("INPUT.PIXEL_STD", self.std)):
            if len(values) != 3 or not all(isinstance(value, int | float) for value in values):
                raise InputError(f"{key} {values}: give a number for each of the three channels")
        if min(self.std) <= 0:
            raise InputError(
                f"INPUT.PIXEL_STD {self.std}: pixels are divided by it, give numbers > 0"
            )

    def settings(self) -> dict[str, Any]:
        """Return the INPUT keys of a config that describe this transform."""
        return {
            "SIZE": self.size,
            "INTERPOLATION": self.interpolation,
            "RESIZE_MODE": self.resize_mode,
            "PIXEL_MEAN": list(self.mean),
            "PIXEL_STD": list(self.std),
        }

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the model's input `[3, H, W]`, float32."""
        return F.normalize(F.to_tensor(self.view(image)), self.mean, self.std)

    def check(self, inputs: Tensor) -> None:
        """Refuse a tensor `[3, H, W]` that is no result of this transform; warn once of one that
        may be none.

        Raises:
            InputError: another size, or values far from those of any pixel.
        """
        if inputs.shape != (3, *self.size):
            raise InputError(
                f"a floating-point image is the model's input, {[3, *self.size]}, not "
                f"{list(inputs.shape)}. Pass pixels as uint8, which are resized"
            )
        values = inputs.detach().float().cpu()
        mean, std = (torch.tensor(x)[:, None, None] for x in (self.mean, self.std))
        pixels = values * std + mean
        if not ((pixels > -1) & (pixels < 2)).all():  # a resize may overshoot
            found = f"no pixels give values from {values.min():.3g} to {values.max():.3g}"
            raise InputError(
                f"a floating-point image is normalised with mean {self.mean} and std {self.std}; "
                f"{'this one holds NaN' if values.isnan().any() else found}. Pass pixels as uint8"
            )
        if any(self.mean) and ((values >= 0) & (values <= 1)).all():
            _warn_once(
                "A floating-point image has only values in [0, 1], as one that is not normalised. "
                "Pass pixels as uint8, unless it is what `preprocess` returned"
            )

    def view(self, image: Image.Image) -> Image.Image:
        """Return what the model sees, as an RGB image of H x W: the pixels before scaling.

        Raises:
            InputError: `as_rgb` refuses the image.
        """
        # Before resizing, unlike OpenAI's code: a palette cannot be interpolated.
        image = as_rgb(image)
        height, width = self.size
        mode = INTERPOLATION_MODES[self.interpolation]
        if self.resize_mode == "squash":
            return F.resize(image, [height, width], mode)
        return F.center_crop(F.resize(image, [max(height, width)], mode), [height, width])

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the part of a `width` x `height` image that `view` shows, in rounded pixels: left,
        top, right, bottom."""
        if self.resize_mode == "squash":
            return 0, 0, width, height
        scale = min(width, height) / max(self.size)
        sides = ((width, self.size[1]), (height, self.size[0]))
        (left, right), (top, bottom) = (
            (round((side - seen * scale) / 2), round((side + seen * scale) / 2))
            for side, seen in sides
        )
        return left, top, right, bottom
