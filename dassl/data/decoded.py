"""Training images decoded once: the RGB pixels of the files themselves, memory-mapped.

A few-shot set is read in every epoch, and decoding is about half of the work on a JPEG. Its pixels
are kept as they were decoded, uncropped, so that the same transforms draw from the same pixels:
batches are bit-identical to those of the plain path.

One file a set: the pixels of the images one behind the other, uint8 `[H, W, 3]` each; then an index
in JSON; then the index's length and checksum. The file is called by a hash of the images' paths and
Pillow's version, and its index names each image with its size and time of change: pixels of other
files, or of another decoder, are never used. The pixels carry no checksum of their own, as summing
them takes as long as decoding does.

Where it lies: in DATASET.ROOT/.decoded, unless DATALOADER.DECODED.FOLDER names another folder. The
pixels belong to the images, not to a run: all methods and runs on the same few shots share them.
Where that folder cannot be written, or is marked read-only, training goes on without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL
from PIL import Image
from tqdm import tqdm
from yacs.config import CfgNode

from dassl import distributed
from dassl.utils import BadImageError, InputError, atomic_write, read_image
from dassl.utils.tools import UNREADABLE

from .datasets import Datum

logger = logging.getLogger(__name__)

GIB = 2**30
FOLDER = ".decoded"  # under DATASET.ROOT
END = struct.Struct("<QI8s")  # length of the index, its CRC-32, and this format's name:
FORMAT = b"rgb8 v1\n"
SAMPLE = 256  # images whose headers tell how large a set is
ABANDONED = 3600  # seconds after which a temporary file that nobody writes to is removed

Reader = Callable[[str], Image.Image]


class NotUsable(ValueError):
    """The file is missing, damaged or of other images; the message says which, in a few words."""


class DecodedImages:
    """Reads as `read_image` does, from the pixels in `file`; a process opens it once.

    Args:
        paths: of the images. names: the same as the index has them.

    Raises:
        NotUsable: see there.
    """

    def __init__(self, file: Path, paths: Sequence[str], names: Sequence[str]) -> None:
        self.file = file
        self._pixels, self._checksum, index = _open(file)
        if [name for name, *_ in index] != list(names):
            raise NotUsable("of other images")
        self._places = {}
        for path, (name, *stamp, offset, height, width) in zip(paths, index, strict=True):
            if _stamp(path) != stamp:
                raise NotUsable(f"{name} has changed since")
            self._places[path] = (offset, height, width)

    def __call__(self, path: str) -> Image.Image:
        offset, height, width = self._places.get(path, (0, 0, 0))
        if not height:  # could not be read, or is not of this set: what happens is read_image's
            return read_image(path)
        pixels = memoryview(self._pixels)[offset : offset + 3 * height * width]
        return Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)

    def __getstate__(self) -> dict:
        """For workers that are not forked: they map the file themselves."""
        return {**self.__dict__, "_pixels": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        try:
            self._pixels, checksum, _ = _open(self.file)
        except NotUsable:
            checksum = None
        if checksum != self._checksum:  # replaced meanwhile
            self._places = {}


def image_reader(cfg: CfgNode, items: Sequence[Datum]) -> Reader:
    """What reads the images of a training set: from their decoded pixels, made now if need be.

    `read_image` where DATALOADER.DECODED.GIB is 0 or there is only one epoch, and, with a sentence
    in the log, where the pixels would take more room than is allowed or cannot be written.
    Rank 0 makes the file, the others wait for it.
    """
    settings = cfg.DATALOADER.get("DECODED")  # a configuration of upstream has no such node
    folder = settings and (settings.FOLDER or (cfg.DATASET.ROOT and Path(cfg.DATASET.ROOT, FOLDER)))
    if not folder or settings.GIB <= 0 or cfg.OPTIM.MAX_EPOCH < 2:
        return read_image
    root = os.path.abspath(cfg.DATASET.ROOT)
    paths = list(dict.fromkeys(item.impath for item in items))
    names = [os.path.abspath(path).removeprefix(root + os.sep) for path in paths]
    listed = os.fsencode("\0".join([PIL.__version__, *names]))  # names need not be UTF-8
    key = hashlib.sha256(listed).hexdigest()[:16]
    file = Path(folder, f"{key}.rgb")
    if distributed.is_main():
        _provide(file, paths, names, settings.GIB, cfg.DATALOADER.NUM_WORKERS)
    distributed.barrier()
    try:
        return DecodedImages(file, paths, names)
    except NotUsable:
        return read_image


def _provide(file: Path, paths: list[str], names: list[str], gib: float, workers: int) -> None:
    """Make the file unless it is there and fits; where that cannot be, say so."""
    try:
        DecodedImages(file, paths, names)
        logger.info("Decoded training images: %s", file)
        return
    except NotUsable as reason:
        if file.exists():
            logger.info("%s is made again: %s", file, reason)
    try:
        allowed, why = _allowed(file, gib)
        needed = _estimate(paths)
        if needed > allowed:
            raise InputError(f"they need about {needed / GIB:.3g} GiB, {why}")
        logger.info(
            "Decoding %s images into %s, about %.3g GiB (DATALOADER.DECODED.GIB 0: not)",
            f"{len(paths):,}",
            file,
            needed / GIB,
        )
        _write(file, paths, names, allowed, workers)
    except (InputError, OSError) as error:
        reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
        logger.warning(
            "The training images are decoded anew in each epoch, their pixels are not kept: %s. "
            "Another folder can be named with DATALOADER.DECODED.FOLDER.",
            reason,
        )


def _allowed(file: Path, gib: float) -> tuple[int, str]:
    """Bytes that the file may have, and where the bound comes from.

    Beside the setting, which is for the whole folder, half of the free disk; and half of the
    memory, as pixels that are read from a disk in every epoch are slower than the JPEGs they are
    five times the size of.
    """
    _refuse_read_only(file.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(file.parent)
    others = sum(path.stat().st_size for path in file.parent.glob("*.rgb") if path != file)
    free = shutil.disk_usage(file.parent).free
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = max(0, int(min(gib * GIB - others, free / 2, memory / 2)))
    return allowed, (
        f"{allowed / GIB:.3g} GiB are allowed: the least of DATALOADER.DECODED.GIB {gib:g} less "
        f"{others / GIB:.3g} for other sets in {file.parent}, half of the {free / GIB:.3g} GiB "
        f"free there, and half of this machine's {memory / GIB:.3g} GiB of memory"
    )


def _refuse_read_only(folder: Path) -> None:
    """Data that are marked read-only stay untouched, though the superuser of a container could."""
    found = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not found.stat().st_mode & 0o222:
        raise InputError(f"{found} is read-only")


def _remove_abandoned(folder: Path) -> None:
    """What runs that were killed while they wrote have left."""
    for path in folder.glob(".*.rgb.*.tmp"):
        if time.time() - path.stat().st_mtime > ABANDONED:
            path.unlink(missing_ok=True)


def _estimate(paths: Sequence[str]) -> int:
    """Bytes of all pixels, from the headers of some of the images."""
    sizes = []
    for path in paths[:: max(1, len(paths) // SAMPLE)]:
        try:
            with Image.open(path) as image:
                sizes.append(3 * image.width * image.height)
        except UNREADABLE:
            pass  # not kept either
    return len(paths) * sum(sizes) // max(1, len(sizes))


def _write(file: Path, paths: list[str], names: list[str], allowed: int, workers: int) -> None:
    """Decode all images into `file`, in their order, with so many threads."""
    index, offset = [], 0
    decoded = _decoded(paths, max(1, workers))
    with atomic_write(file, "wb") as handle:
        bar = tqdm(
            zip(names, decoded, strict=True), total=len(paths), desc="decoding", unit="image"
        )
        for name, (stamp, image) in bar:
            width, height = image.size if image else (0, 0)
            index.append([name, *stamp, offset, height, width])
            offset += 3 * height * width
            if offset > allowed:
                raise InputError(f"they need more than the {allowed / GIB:.3g} GiB allowed")
            if image:
                handle.write(image.tobytes())
        text = json.dumps(index).encode()
        handle.write(text)
        handle.write(END.pack(len(text), zlib.crc32(text), FORMAT))


def _decoded(paths: Sequence[str], threads: int) -> Iterator[tuple[list[int], Image.Image | None]]:
    """Stamp and image of each path; None for an image that cannot be read.

    Threads, as decoding leaves Python's lock alone; a few images at a time, as some are large.
    """
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), 4 * threads):
            yield from pool.map(_decode, paths[start : start + 4 * threads])


def _decode(path: str) -> tuple[list[int], Image.Image | None]:
    stamp = _stamp(path)  # before: a file that changes while it is read is read again next time
    try:
        return stamp, read_image(path)
    except BadImageError:
        return stamp, None


def _open(file: Path) -> tuple[mmap.mmap, int, list]:
    """The mapped file, the checksum of its index, and the index."""
    try:
        with open(file, "rb") as handle:
            pixels = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        length, checksum, found = END.unpack(pixels[-END.size :])
    except (OSError, ValueError, struct.error) as error:
        raise NotUsable(f"not readable ({error})") from error
    text = pixels[-END.size - length : -END.size] if length < len(pixels) else b""
    if found != FORMAT or zlib.crc32(text) != checksum:
        raise NotUsable("damaged")
    index = json.loads(text)
    *_, offset, height, width = index[-1]
    if offset + 3 * height * width + length + END.size != len(pixels):
        raise NotUsable("damaged")
    return pixels, checksum, index


def _stamp(path: str) -> list[int]:
    """Size and time of the last change of a file, in nanoseconds; -1 if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return [-1, -1]
    return [found.st_size, found.st_mtime_ns]
