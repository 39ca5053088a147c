"""Shifted ID images: test images corrupted at five severities, after ImageNet-C.

These are five of the fifteen corruptions of Hendrycks and Dietterich (ICLR 2019), by NumPy and
Pillow, with strengths of our own for 96 x 96 pixels.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from generated.kinds import ID_OBJECTS
from generated.streams import SEED, stream_rng


def _noise(image: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    noisy = pixels + 255 * sigma * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, quality: int, _: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


# Name -> function (image, strength, generator), and its strengths for severities 1 to 5.
CORRUPTIONS: dict[str, tuple[Callable, tuple[float, ...]]] = {
    "gaussian_noise": (_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "gaussian_blur": (
        lambda image, radius, _: image.filter(ImageFilter.GaussianBlur(radius)),
        (0.7, 1.0, 1.5, 2.2, 3.0),
    ),
    "brightness": (
        lambda image, factor, _: ImageEnhance.Brightness(image).enhance(factor),
        (1.2, 1.4, 1.6, 1.9, 2.2),
    ),
    "contrast": (
        lambda image, factor, _: ImageEnhance.Contrast(image).enhance(factor),
        (0.6, 0.45, 0.3, 0.2, 0.12),
    ),
    "jpeg_compression": (_jpeg, (25, 18, 14, 10, 6)),
}


def corrupted(
    image: np.ndarray, name: str, index: int, seed: int = SEED
) -> tuple[np.ndarray, str, int]:
    """Corrupt test image `index` of a class; return it, the corruption and the severity, 1 to 5.

    Corruptions and severities take turns, so that every class has every corruption.
    """
    classes = list(ID_OBJECTS)
    number = index * len(classes) + classes.index(name)
    corruption = list(CORRUPTIONS)[number % len(CORRUPTIONS)]
    severity = number // len(CORRUPTIONS) % 5 + 1
    function, strengths = CORRUPTIONS[corruption]
    rng = stream_rng(f"shifted/{name}", index, seed)
    result = function(Image.fromarray(image), strengths[severity - 1], rng)
    return np.asarray(result), corruption, severity
