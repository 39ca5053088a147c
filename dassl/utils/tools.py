"""Seeds, images and small helpers; upstream's module of this name holds more."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

from .errors import BadImageError, InputError

# Trainers and data sets written for upstream import these from here.
from .files import check_isfile, listdir_nohidden, mkdir_if_missing, read_json, write_json  # noqa: F401
from .names import check_availability, get_most_similar_str_to_a_from_b  # noqa: F401
from .provenance import collect_env_info  # noqa: F401
from .rng import seed_cpu

MAX_RATIO = 200  # largest ratio of the edges of an image


def set_random_seed(seed: int) -> None:
    """Seed Python's, numpy's and torch's (CPU and CUDA) global generators. 0 is a seed."""
    seed_cpu(seed)
    torch.cuda.manual_seed_all(seed)


def read_image(
    path: str | os.PathLike | BinaryIO | Image.Image, upright: bool = False
) -> Image.Image:
    """Return the image at `path`, decoded whole, as RGB.

    Args:
        path: a path, an open file, or an image of Pillow.
        upright: rotate a photograph by its EXIF orientation. Off in every benchmark, as
            upstream; `detect.py --exif` turns it on.

    Differs from upstream: a file that cannot be read is an error, not an endless retry, and 16-bit
    grey is scaled to 8 bit; Pillow clips it, which makes most images nearly white.

    Raises:
        BadImageError: the file is missing, damaged, too large for Pillow, or refused by `as_rgb`.
    """
    with refuse_unreadable(path):
        opened = nullcontext(path) if isinstance(path, Image.Image) else Image.open(path)
        with opened as image:
            image.load()  # decodes every row, so that a truncated file is noticed here
            image = ImageOps.exif_transpose(image) if upright else image
            return as_rgb(image).convert("RGB")  # a copy, free of the file


@contextmanager
def refuse_unreadable(image: Any) -> Iterator[None]:
    """Turn any error in reading `image` into a BadImageError that names it.

    Decoders raise errors of many classes: AVIF's a RuntimeError, QOI's an IndexError, DDS's a
    NotImplementedError, a member of a zip a BadZipFile.
    """
    try:
        yield
    except MemoryError:
        raise  # the machine's fault, not the image's
    except Exception as error:
        name = path_of(image) or "in memory"
        text = str(error).replace(repr(image), repr(name))  # Pillow shows an open file's address
        reason = " ".join(text.split()) or type(error).__name__
        raise BadImageError(
            f"Cannot read the image {name} ({reason}). Replace or remove the file."
        ) from error


def path_of(image: Any) -> str:
    """Return the path of an image, or of the file that an image of Pillow or an open file is read
    from (`filename`, else `name`); "" if it has none."""
    path = image
    if not isinstance(image, str | os.PathLike):
        path = getattr(image, "filename", "") or getattr(image, "name", "")
    return os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""


def as_rgb(image: Image.Image) -> Image.Image:
    """Return a decoded image as 8-bit RGB; the image itself if it is that already.

    Raises:
        InputError: there are no pixels; they are floating-point, so that nothing says how bright
            1.0 is; or one edge is more than `MAX_RATIO` times the other: resizing the shorter one
            to a model's input would need gigabytes.
    """
    width, height = image.size
    if not (width and height):
        raise InputError(f"it is {width} x {height} pixels, and an image has at least one")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InputError(
            f"it is {width} x {height} pixels, and one edge may be at most {MAX_RATIO} times "
            "the other; crop it"
        )
    image = _eight_bit(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise InputError("its pixels are floating-point numbers, mode F; save it with 8 bits")
    if image.mode.split(";")[0] != "I":
        return image
    # I;16, I;16B and the like; mode I is how Pillow reads files of 32 bits and some of 16, whose
    # values may be those of 8 bits.
    pixels = np.asarray(image)
    eight = image.mode == "I" and pixels.max() <= 255
    return Image.fromarray((pixels if eight else pixels // 256).clip(0, 255).astype(np.uint8))


def tolist_if_not(x: Any) -> list:
    """Return `x` if it is a list, else `[x]`."""
    return x if isinstance(x, list) else [x]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings, keys joined by dots: {"a": {"b": 1}} is {"a.b": 1}.

    An empty mapping stays as a value, so that different trees stay different.
    """
    flat = {}
    for key, value in tree.items():
        inner = flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else None
        flat.update(inner or {f"{prefix}{key}": value})
    return flat
