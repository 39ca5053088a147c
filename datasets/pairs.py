"""Read an image-caption pair and fill a batch, as all sources of pairs do."""

import io
import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
from PIL import Image
from torch.utils.data import get_worker_info

from dassl.utils import BadImageError, read_image

Texts = Callable[[list[str], int], dict[str, Any]]


class BadPair(ValueError):
    """A pair that is skipped; the message states the reason in a few words."""


def read_pair(image: str | bytes | None, caption: str | bytes | None) -> tuple[Image.Image, str]:
    """Read an RGB image, from a path or bytes, and its caption; BadPair if either is unreadable."""
    if image is None:
        raise BadPair("no image")
    text = read_caption(caption)
    source = io.BytesIO(image) if isinstance(image, bytes) else image
    try:
        return read_image(source), text
    except BadImageError as error:
        # Pillow shows an open file's address, which differs each time.
        reason = str(error.__cause__).replace(f" {source!r}", "")
        raise BadPair(f"no readable image: {reason}") from error


def read_caption(caption: str | bytes | None) -> str:
    """Return the caption without outer blanks and byte order marks; BadPair if it is missing or
    cannot be read."""
    try:
        text = caption.decode("utf-8") if isinstance(caption, bytes) else caption or ""
        text = text.replace("\ufeff", "").strip()
    except UnicodeDecodeError as error:
        raise BadPair("the caption is not UTF-8") from error
    if not text:
        raise BadPair("no caption")
    return text


def fill_batch(
    samples: Iterable[dict[str, Any]], count: int, step: int, texts: Texts | None
) -> dict[str, Any]:
    """Return the batch of a step, made of `count` samples.

    Each image is copied into the batch before the next one is read, so that a batch of thousands
    of images is held once; in a worker, this memory is shared with the trainer.

    Args:
        samples: with "img", a tensor `[3, H, W]`, "caption", and "bad", the names of skipped pairs.
        step, texts: see `build_pairs_loader`.
    """
    captions: list[str] = []
    bad: list[str] = []
    for sample in samples:
        if not captions:
            images = torch.empty(count, *sample["img"].shape, dtype=sample["img"].dtype)
            if get_worker_info() is not None:
                images.share_memory_()
        images[len(captions)] = sample["img"]
        captions.append(sample["caption"])
        bad += sample["bad"]
    batch = {"img": images, "caption": captions}  # img: [b, 3, H, W]
    batch |= texts(captions, step) if texts else {}
    return {**batch, "bad": bad} if bad else batch


def seeded(*parts: Any) -> random.Random:
    """Return a generator that depends on `parts` alone, the same on every machine."""
    return random.Random(" ".join(map(str, parts)))
