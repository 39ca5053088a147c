"""LoCoOp's ID-irrelevant regions: which they are, and how to draw them.

LoCoOp (Miyai et al., NeurIPS 2023, section 3.2) calls a region of an ID image ID-irrelevant when
the image's label is not among the K classes most similar to the region. The loss pushes these
regions away from all classes; the region map shows them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dassl.utils.errors import InputError
from dassl.utils.files import atomic_write

GREY = 200  # what the public LoCoOp demo paints over ID regions

# The parts of a region map, in inches and dots per inch.
PANEL_INCHES, TEXT_INCHES, MAP_DPI = 3.3, 0.95, 110
LEGEND = (
    "in colour: the ID-irrelevant regions, whose K likeliest classes lack the label; "
    "grey: the others"
)


def suggest_top_k(num_classes: int) -> int:
    """Return K at the paper's ratio, 200 of 1000; the authors' 20 for ImageNet-100 agrees."""
    return max(1, num_classes // 5)


def check_top_k(k: int, num_classes: int) -> None:
    """Raise InputError unless `1 <= k <= num_classes`."""
    if not 1 <= k <= num_classes:
        raise InputError(
            f"K = {k} with {num_classes} classes: K (--topk) must lie between 1 and the number "
            f"of classes; the paper's ratio (200 of 1000) gives K = {suggest_top_k(num_classes)}"
        )


def id_irrelevant_regions(local_cosines: Tensor, label: Tensor | int, k: int) -> Tensor:
    """Return True where the label is not among the region's top-K classes.

    local_cosines [N, C] with one label, or [B, N, C] with labels [B]; returns bool [N] or [B, N].
    Cosines, logits and probabilities rank alike, so any of them will do.

    The label's rank is counted, not sorted: the label is out of the top K when at least K classes
    are strictly more similar. A tie therefore counts for the label. K must lie between 1 and C
    (InputError, with a suggestion); with K = C no region is irrelevant.

    Differs from upstream: `torch.topk` breaks ties by an order of its own, and fails when K > C.
    """
    check_top_k(k, local_cosines.shape[-1])
    label = torch.as_tensor(label, device=local_cosines.device)
    if label.shape != local_cosines.shape[:-2]:
        raise InputError(
            f"labels of shape {tuple(label.shape)} do not fit local similarities of shape "
            f"{tuple(local_cosines.shape)}: one label per image is needed"
        )
    regions = local_cosines.shape[-2]
    index = label[..., None, None].expand(*label.shape, regions, 1)  # [..., N, 1]
    of_label = local_cosines.gather(-1, index)
    # int32: on the CPU twice as fast as the default int64.
    return (local_cosines > of_label).sum(dim=-1, dtype=torch.int32) >= k


def _to_pixels(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Spread a mask `[h, w]` over pixels `[height, width]`, each of the cell its centre is in."""
    rows = ((2 * np.arange(height) + 1) * mask.shape[0] - 1) // (2 * height)
    columns = ((2 * np.arange(width) + 1) * mask.shape[1] - 1) // (2 * width)
    return mask[rows[:, None], columns]  # [height, width]


def draw_regions(image: Image.Image, irrelevant: Tensor | np.ndarray) -> Image.Image:
    """Grey the regions that belong to the label, so that the ID-irrelevant ones stay visible.

    `image` is what the model saw (after resize and crop), `irrelevant` bool [h, w], True where
    `id_irrelevant_regions` is. Cell boundaries are rounded to pixels, so every pixel belongs to
    exactly one region, whatever the image's size. Returns a new RGB image.

    Differs from upstream: the public demo leaves the last column of regions ungreyed, and paints
    over the squashed input where the model saw a centre crop.
    """
    mask = np.asarray(irrelevant, dtype=bool)
    if mask.ndim != 2 or 0 in mask.shape:
        raise InputError(f"the region mask must be a grid [h, w], got shape {mask.shape}")
    pixels = np.array(image.convert("RGB"))
    pixels[~_to_pixels(mask, *pixels.shape[:2])] = GREY
    return Image.fromarray(pixels)


def region_caption(
    label: str, k: int, num_classes: int, irrelevant: Tensor | np.ndarray, verdict: str = ""
) -> str:
    """Return the lines under a region map: label, K, share of regions extracted, and a legend.

    Args:
        verdict: of a detector, with its score; "" where there is none.
    """
    mask = np.asarray(irrelevant, dtype=bool)
    facts = (
        f"label: {label}",
        f"K = {k} of {num_classes} classes",
        f"{int(mask.sum())} of {mask.size} regions ID-irrelevant ({mask.mean():.1%})",
    )
    return "\n".join(line for line in ("   |   ".join(facts), verdict, LEGEND) if line)


def file_name(text: str) -> str:
    """Return `text` as part of a file name: letters, digits, `_`, `.` and `-`."""
    return re.sub(r"[^\w.-]+", "_", text)


def region_figure(
    original: Image.Image, seen: Image.Image, drawn: Image.Image, caption: str
) -> Image.Image:
    """Draw original | as the model saw it | ID-irrelevant regions, above the caption."""
    # Trainers import this module for the loss; they should not wait for matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    titles = ("original", "as the model saw it", "ID-irrelevant regions")
    width, height = 3 * PANEL_INCHES, PANEL_INCHES + TEXT_INCHES
    figure = Figure(figsize=(width, height), dpi=MAP_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for i, (picture, title) in enumerate(zip((original, seen, drawn), titles, strict=True)):
        box = ((i + 0.04) / 3, 0.72 / height, 0.92 / 3, 0.92 * PANEL_INCHES / height)
        axes = figure.add_axes(box)
        axes.imshow(picture.convert("RGB"), interpolation="antialiased")
        axes.set_title(f"{title} ({picture.width} x {picture.height})", fontsize=11, pad=7)
        axes.set_axis_off()
    style = {"ha": "center", "va": "center", "fontsize": 11, "wrap": True, "parse_math": False}
    figure.text(0.5, 0.34 / height, caption, **style)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def save_region_map(
    path: str | os.PathLike,
    source: str | os.PathLike,
    original: Image.Image,
    seen: Image.Image,
    irrelevant: Tensor | np.ndarray,
    caption: str,
) -> Path:
    """Draw and save a region map as PNG at `path`, atomically.

    `source` is the file `original` was read from: writing over it is an InputError.
    """
    path = Path(path)
    if path.resolve() == Path(source).resolve() or (path.exists() and path.samefile(source)):
        raise InputError(f"{path} is the input image: choose another place for its region map")
    figure = region_figure(original, seen, draw_regions(seen, irrelevant), caption)
    with atomic_write(path, "wb") as file:
        figure.save(file, format="PNG")
    return path
