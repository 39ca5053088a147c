"""The images that a detector takes: one or many, of five kinds, as they were when they arrived."""

import io
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock
from typing import Any, BinaryIO

import torch
from PIL import Image
from torch import Tensor

from dassl.data.transforms import Preprocess
from dassl.utils import InputError, read_image
from dassl.utils.tools import path_of, refuse_unreadable

Input = str | os.PathLike | BinaryIO | Image.Image | Tensor

# Threads may share a PIL image that is decoded only now, or an open file and its position.
READER = Lock()


def one_by_one(images: Input | Iterable[Input]) -> Iterable[Input]:
    """Return `images` as an iterable, also if it is a single one; InputError if it is neither."""
    if is_one(images):
        return [images]
    if isinstance(images, bytes | bytearray) or not isinstance(images, Iterable):
        raise not_an_image(images)
    return images


def is_one(images: Any) -> bool:
    """Return whether `images` is a single image rather than several; a tensor of several is
    `[B, 3, H, W]`."""
    if isinstance(images, Tensor):
        return images.dim() != 4 or images.layout != torch.strided
    return isinstance(images, str | os.PathLike | Image.Image) or hasattr(images, "read")


def not_an_image(image: Any) -> InputError:
    """Return the error for something that is no image."""
    return InputError(
        f"an image is a path, an open file, a PIL image or a tensor, not {type(image).__name__}. "
        "For an array [H, W, 3] of RGB pixels, pass PIL.Image.fromarray(array)"
    )


def or_error(function: Callable, image: Input | InputError, *arguments: Any) -> Any:
    """Return what a function makes of an image, or its InputError; an earlier one is passed on."""
    try:
        return image if isinstance(image, InputError) else function(image, *arguments)
    except InputError as error:
        return error


def check_paths(*files: Any) -> None:
    """Raise InputError unless the image and the mask of a region map are given by their paths."""
    for file in files:
        if not isinstance(file, str | os.PathLike):
            raise InputError(
                "a region map is of one image file: give its path, and that of a mask, not "
                f"{type(file).__name__}. label_ranks and irrelevant_regions take any image"
            )


def take(image: Input, upright: bool) -> Input:
    """Return a copy of `image` that does not change when its owner refills, moves or closes it, as
    generators do with the frames of a film. A path is returned as it is.

    Args:
        upright: as in `read_image`, which decodes PIL images.

    Raises:
        BadImageError: a PIL image or an open file cannot be read.
    """
    if isinstance(image, Tensor):
        return image.detach().clone()
    if isinstance(image, Image.Image):
        with READER:
            return read_image(image, upright)
    if not hasattr(image, "read"):
        return image
    with READER, refuse_unreadable(image):
        with suppress(AttributeError, io.UnsupportedOperation):
            image.seek(0)  # as Pillow does, where a file can be read twice
        copy = io.BytesIO(image.read())  # shares the bytes of another BytesIO
    copy.filename = path_of(image)
    return copy


def model_input(image: Input, preprocess: Preprocess, upright: bool) -> Tensor:
    """Return a model's input `[3, H, W]` for an image that no other thread uses."""
    if isinstance(image, Tensor):
        check_tensor(image)
        if image.is_floating_point():
            preprocess.check(image)
            return image
        image = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    elif not is_one(image):
        raise not_an_image(image)
    elif not isinstance(image, Image.Image):
        image = read_image(image, upright)
    return preprocess(image)


def check_tensor(image: Tensor) -> None:
    """Raise InputError unless a tensor is dense and `[3, H, W]`, in uint8 or floating point."""
    kinds = {"quantised": image.is_quantized, "without values (meta)": image.is_meta}
    kinds["sparse"] = image.layout != torch.strided
    if wrong := [kind for kind, found in kinds.items() if found]:
        raise InputError(f"an image tensor is dense and holds values, got one that is {wrong[0]}")
    if image.dim() != 3 or image.shape[0] != 3 or not image.numel():
        raise InputError(f"an image tensor is [3, H, W], got {list(image.shape)}")
    if not (image.is_floating_point() or image.dtype == torch.uint8):
        raise InputError(f"the pixels of an image tensor are uint8, got {image.dtype}")
