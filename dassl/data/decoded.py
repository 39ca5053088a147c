"""A cache of decoded training images: their RGB pixels on disk.

Few-shot images are read in every epoch, and decoding is about half of the work on a JPEG: with this
cache and 8 workers, a loader gives 1.2 times the images per second (docs/training.md). Pixels are
kept uncropped and go through the same transforms: batches are bit-identical to those of images
decoded in every epoch.

There is one NumPy file an image, uint8 `[H, W, 3]`, written by the process that first reads the
image and shared by all runs. Its name is a hash of the image's path, size and time of change, and
of Pillow's version: pixels of a changed file, or of another decoder, are never used. A checksum
follows the pixels: an image whose file is damaged is decoded again.
"""

import hashlib
import io
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from yacs.config import CfgNode

from dassl.utils import InputError, WriteError, atomic_write, read_image, remove_leftovers
from dassl.utils.cache import ABANDONED, cache_folder, check_room, file_state
from dassl.utils.errors import BadImageError
from dassl.utils.tools import refuse_unreadable

from .datasets import Datum

logger = logging.getLogger(__name__)

SAMPLE = 256  # images whose headers are read to estimate the size of a set


class DecodedImages:
    """A reader like `read_image` that keeps the pixels in `folder` and takes them from there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.can_write = folder, True

    def __call__(self, path: str) -> Image.Image:
        file = self.file_of(path)
        with suppress(Exception):  # not kept yet, or damaged: numpy raises many
            return _kept(file)
        image = read_image(path)
        if self.can_write:
            self._keep(file, image)
        return image

    def file_of(self, path: str) -> Path:
        """Return the file that keeps the pixels of the image at `path`."""
        identity = (os.path.abspath(path), *file_state(path), PIL.__version__)
        key = hashlib.sha256(os.fsencode("\0".join(map(str, identity)))).hexdigest()
        return self.folder / key[:2] / f"{key[2:34]}.npy"

    def _keep(self, file: Path, image: Image.Image) -> None:
        # Written in memory first: NumPy's own writer may lose the error of a full disk.
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(image))
        content = buffer.getvalue()
        try:
            with atomic_write(file, "wb", sync=False) as handle:
                handle.write(content + _checksum(content))
        except (WriteError, OSError) as error:
            self.can_write = False
            _warn_not_kept(error.__cause__ or error)


def _kept(file: Path) -> Image.Image:
    """Return the kept image, or raise an exception of some class: never damaged pixels."""
    content = file.read_bytes()
    if content[-4:] != _checksum(memoryview(content)[:-4]):
        raise ValueError("damaged, or of an earlier version")
    return Image.fromarray(np.load(io.BytesIO(content)))


def _checksum(content: bytes | memoryview) -> bytes:
    return zlib.crc32(content).to_bytes(4, "big")


def image_reader(cfg: CfgNode, items: Sequence[Datum]) -> Callable[[str], Image.Image]:
    """Return the function that reads the images of a training set.

    That is `read_image` if DATALOADER.DECODED.GIB is 0 or there is only one epoch, and, with a
    warning, if the pixels would take more space than is allowed or cannot be written.
    """
    settings = cfg.DATALOADER.get("DECODED")  # upstream's configurations lack the node
    if not settings or settings.GIB <= 0 or cfg.OPTIM.MAX_EPOCH < 2:
        return read_image
    try:
        reader = DecodedImages(cache_folder("decoded", settings.FOLDER))
        reader.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(reader.folder, ABANDONED)
        _check_size(reader, list(dict.fromkeys(item.impath for item in items)), settings.GIB)
    except (InputError, OSError) as reason:
        _warn_not_kept(reason)
        return read_image
    logger.info(
        "Training images are decoded once, and kept in %s (DATALOADER.DECODED.GIB 0: not)",
        reader.folder,
    )
    return reader


def _check_size(reader: DecodedImages, paths: Sequence[str], gib: float) -> None:
    """Raise InputError if the pixels of `paths` do not fit the disk or the budget."""
    sample = paths[:: max(1, len(paths) // SAMPLE)]
    missing = sum(_pixel_bytes(path) for path in sample if not reader.file_of(path).exists())
    needed = len(paths) * missing // len(sample)
    check_room(reader.folder, needed, gib, "DATALOADER.DECODED.GIB")


def _pixel_bytes(path: str) -> int:
    """Return the size of an image's pixels from its header; 0 if that cannot be read."""
    try:
        with refuse_unreadable(path), Image.open(path) as image:
            return 3 * image.width * image.height
    except BadImageError:
        return 0


def _warn_not_kept(reason: Exception) -> None:
    logger.warning(
        "The training images are decoded anew in each epoch, as their pixels cannot be kept: %s. "
        "To choose another folder, set DATALOADER.DECODED.FOLDER.",
        reason,
    )
