"""Training images decoded once: their RGB pixels kept on disk as they were decoded.

Few-shot images are read in every epoch, and decoding is about half of the work on a JPEG: with 8
workers a loader gives 1.6 times the images per second (docs/training.md). The pixels are kept
uncropped, so that the same transforms draw from the same pixels: batches are bit-identical to those
of images decoded in every epoch.

One NumPy file an image, uint8 `[H, W, 3]`, written by the process that first reads the image, and
shared by all runs. It is named by a hash of the image's path, size and time of change and of
Pillow's version: pixels of another file, or of another decoder, are never used.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from yacs.config import CfgNode

from dassl.utils import InputError, WriteError, atomic_write, read_image, remove_leftovers
from dassl.utils.cache import ABANDONED, cache_folder, check_room, file_state
from dassl.utils.tools import UNREADABLE

from .datasets import Datum

logger = logging.getLogger(__name__)

SAMPLE = 256  # images whose headers tell how large a set is


class DecodedImages:
    """Read images as `read_image` does, from the pixels in `folder`, and keep those not there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keeps = folder, True

    def __call__(self, path: str) -> Image.Image:
        file = self.file_of(path)
        try:
            return Image.fromarray(np.load(file))
        except (OSError, ValueError, EOFError):
            pass  # not kept yet, or cut off
        image = read_image(path)
        if self.keeps:
            self._keep(file, image)
        return image

    def file_of(self, path: str) -> Path:
        """Return the file of an image's pixels."""
        known_by = (os.path.abspath(path), *file_state(path), PIL.__version__)
        key = hashlib.sha256(os.fsencode("\0".join(map(str, known_by)))).hexdigest()
        return self.folder / key[:2] / f"{key[2:34]}.npy"

    def _keep(self, file: Path, image: Image.Image) -> None:
        try:
            with atomic_write(file, "wb", sync=False) as handle:
                np.save(handle, np.asarray(image))
        except (WriteError, OSError) as error:
            self.keeps = False
            _say_why_not(error.__cause__ or error)


def image_reader(cfg: CfgNode, items: Sequence[Datum]) -> Callable[[str], Image.Image]:
    """Return what reads the images of a training set.

    `read_image` where DATALOADER.DECODED.GIB is 0 or there is only one epoch, and, with a sentence
    in the log, where the pixels would take more room than is allowed or cannot be written.
    """
    settings = cfg.DATALOADER.get("DECODED")  # a configuration of upstream has no such node
    if not settings or settings.GIB <= 0 or cfg.OPTIM.MAX_EPOCH < 2:
        return read_image
    try:
        reader = DecodedImages(cache_folder("decoded", settings.FOLDER))
        reader.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(reader.folder, ABANDONED)
        _check_size(reader, list(dict.fromkeys(item.impath for item in items)), settings.GIB)
    except (InputError, OSError) as reason:
        _say_why_not(reason)
        return read_image
    logger.info(
        "Training images are decoded once, their pixels kept in %s (DATALOADER.DECODED.GIB 0: not)",
        reader.folder,
    )
    return reader


def _check_size(reader: DecodedImages, paths: Sequence[str], gib: float) -> None:
    """Raise InputError if the pixels of `paths` are too many for the disk."""
    sample = paths[:: max(1, len(paths) // SAMPLE)]
    missing = sum(_pixel_bytes(path) for path in sample if not reader.file_of(path).exists())
    needed = len(paths) * missing // len(sample)
    check_room(reader.folder, needed, gib, "DATALOADER.DECODED.GIB")


def _pixel_bytes(path: str) -> int:
    """Return the bytes of an image's pixels by its header, 0 if it cannot be read."""
    try:
        with Image.open(path) as image:
            return 3 * image.width * image.height
    except UNREADABLE:
        return 0


def _say_why_not(reason: Exception) -> None:
    logger.warning(
        "The training images are decoded anew in each epoch, their pixels are not kept: %s. "
        "DATALOADER.DECODED.FOLDER names another folder.",
        reason,
    )
