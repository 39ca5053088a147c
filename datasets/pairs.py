"""What all sources of image-caption pairs share: one pair read, and who reads which."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dassl.utils import BadImageError, read_image


class BadPair(ValueError):
    """A pair that is skipped; the message says why, in a few words."""


@dataclass(frozen=True)
class Place:
    """A rank's place among the ranks, and what it has to read in an epoch.

    Attributes:
        batches: steps of an epoch, the same for all ranks.
        share: pairs of a batch that each rank reads.
    """

    rank: int
    ranks: int
    batches: int
    share: int


def read_pair(image: str | bytes | None, caption: str | bytes | None) -> tuple[Image.Image, str]:
    """The RGB image of a path or of a file's bytes, and the caption without white space around it.

    Raises:
        BadPair: either is missing or cannot be read.
    """
    if image is None:
        raise BadPair("no image")
    text = _text(caption)
    try:
        return read_image(io.BytesIO(image) if isinstance(image, bytes) else image), text
    except BadImageError as error:
        raise BadPair(f"no readable image: {error.__cause__}") from error


def _text(caption: str | bytes | None) -> str:
    try:
        text = caption.decode("utf-8") if isinstance(caption, bytes) else caption or ""
    except UnicodeDecodeError as error:
        raise BadPair("the caption is not UTF-8") from error
    if not text.strip():
        raise BadPair("no caption")
    return text.strip()


def seeded(*parts: Any) -> random.Random:
    """A generator that depends on ``parts`` alone, the same on every machine."""
    return random.Random(" ".join(map(str, parts)))
