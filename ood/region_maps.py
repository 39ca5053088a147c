"""Draw region maps: an image, its ID-irrelevant regions, and the label's rank in each region."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFilter
from torch import Tensor

from dassl.utils.errors import InputError
from dassl.utils.figures import figure_path, save_figure

if TYPE_CHECKING:  # matplotlib is slow to import, and needed only for drawing
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

GREY = 200  # what the public LoCoOp demo paints over ID regions
COLOURS = "cividis_r"  # suits colour-blind readers; light where the label ranks high

# Inches: the panels of a row and the space around them. A figure is as wide as a page's text.
PANEL, GAP, MARGIN, ROW_GAP, LINE, FOOT = 2.2, 0.1, 0.1, 0.16, 0.16, 0.75
WIDTH = 3 * PANEL + 2 * GAP + 2 * MARGIN
TITLES = ("original", "ID-irrelevant regions", "rank of the label")
LEGEND = (
    "Grey: regions with the label among their K most similar classes; the others are\n"
    "ID-irrelevant. Rank 1: the most similar class (interpolated between regions).\n"
)
DPI = 300  # of PNG files, and of the pictures within PDF and SVG ones
COLUMNS = 105  # characters of a caption's line
MOST = 40  # largest number of images in a figure

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class RegionMap:
    """The contents of one image's row in a figure.

    Attributes:
        source: the image's file. original: the image.
        box: the part that the model sees.
        ranks: the label's rank in every region, int `[h, w]`, 1 where it is the most similar class.
        k: K; regions where the label ranks below it are ID-irrelevant.
        label: name of the image's class.
        verdict: a detector's verdict and score, or "".
        mask: image of the same size, white where the object is; None if that is not known.
    """

    source: Path
    original: Image.Image
    box: Box
    ranks: np.ndarray
    k: int
    num_classes: int
    label: str
    verdict: str = ""
    mask: Image.Image | None = None

    @property
    def irrelevant(self) -> np.ndarray:
        """Return which regions are ID-irrelevant, bool `[h, w]`."""
        return self.ranks > self.k

    @property
    def is_cropped(self) -> bool:
        """Return whether the model sees only a part of the image."""
        return self.box != (0, 0, *self.original.size)

    @property
    def caption(self) -> str:
        """Return lines with label, K, share of ID-irrelevant regions, verdict, and `_reason`."""
        count, total = int(self.irrelevant.sum()), self.ranks.size
        facts = (
            f"label: {self.label}",
            f"K = {self.k} of {self.num_classes} classes",
            f"{count} of {total} regions ID-irrelevant ({count / total:.1%})",
        )
        return "\n".join(filter(None, ("   |   ".join(facts), self.verdict, self._reason())))

    def _reason(self) -> str:
        """Explain why no region, or every region, is ID-irrelevant; else return ""."""
        best, worst = int(self.ranks.min()), int(self.ranks.max())
        if worst == 1:
            return "None, whatever K is: the label is the most similar class in every region"
        if worst <= self.k:
            among, rank = "None: in every region the label is among", f"worst rank is {worst}"
        elif best > self.k:
            among, rank = "All: in no region is the label among", f"best rank is {best}"
        else:
            return ""
        return f"{among} the K most similar classes (its {rank})"


def save_region_maps(path: str | os.PathLike, maps: Sequence[RegionMap]) -> Path:
    """Draw the region maps and save them atomically as one PNG, PDF or SVG file; raise InputError
    if `path` is one of the images, or has another suffix."""
    path = figure_path(path)
    for source in (item.source for item in maps):
        if path.resolve() == source.resolve() or (path.exists() and path.samefile(source)):
            raise InputError(f"{path} is the input image: choose another place for its region map")
    return save_figure(region_figure(maps), path)


def region_figure(maps: Sequence[RegionMap]) -> Figure:
    """Draw one row an image: caption, original, ID-irrelevant regions, rank of the label."""
    from matplotlib.figure import Figure

    captions = [_wrap(item.caption) for item in maps]
    lines = [1 + caption.count("\n") for caption in captions]
    bottom = sum(lines) * LINE + len(maps) * (PANEL + ROW_GAP) + FOOT
    figure = Figure(figsize=(WIDTH, bottom), dpi=DPI, facecolor="white")
    for item, caption, count in zip(maps, captions, lines, strict=True):
        bottom -= count * LINE + PANEL + ROW_GAP
        _write(figure, MARGIN, bottom + PANEL + 0.07, caption)
        row = [_place(figure, _left(i), bottom, PANEL, PANEL) for i in range(len(TITLES))]
        colours = _draw_row(row, item)
    _draw_foot(figure, maps, colours)
    return figure


def _wrap(caption: str) -> str:
    return "\n".join(
        textwrap.fill(line, COLUMNS, break_on_hyphens=False) for line in caption.split("\n")
    )


def _left(panel: int) -> float:
    return MARGIN + panel * (PANEL + GAP)


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place in inches."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, bottom / h, width / w, height / h))


def _write(figure: Figure, left: float, bottom: float, text: str, **style: object) -> None:
    """Write text at a place in inches."""
    w, h = figure.get_size_inches()
    style = {"va": "bottom", "fontsize": 8, "linespacing": 1.3, "parse_math": False, **style}
    figure.text(left / w, bottom / h, text, **style)


def _draw_row(row: Sequence[Axes], item: RegionMap) -> AxesImage:
    """Draw the three panels of one image, and return the last, for a scale of its colours."""
    from matplotlib.colors import LogNorm

    original, ranks = item.original.convert("RGB"), np.log(item.ranks).astype(np.float32)
    seen = _enlarge(original.crop(item.box))
    scale = {"cmap": COLOURS, "norm": LogNorm(1, max(2, item.num_classes))}
    _show(row[0], _enlarge(original), (0, 0, *original.size), item.mask)
    _show(row[1], draw_regions(seen, item.irrelevant), item.box, item.mask)
    smooth = np.exp(_enlarge(Image.fromarray(ranks), seen.size))
    colours = _show(row[2], smooth, item.box, item.mask, **scale)
    if item.is_cropped:
        (x0, y0, x1, y1), axes = item.box, row[0]
        axes.plot((x0, x1, x1, x0, x0), (y0, y0, y1, y1, y0), "k", lw=1.6, clip_on=False)
        axes.plot((x0, x1, x1, x0, x0), (y0, y0, y1, y1, y0), "w--", lw=0.8, clip_on=False)
    return colours


def _show(
    axes: Axes, picture: Image.Image | np.ndarray, box: Box, mask: Image.Image | None, **scale: Any
) -> AxesImage:
    """Show a picture of the part `box` of an image, and the outline of the object in `mask`."""
    left, top, right, bottom = box
    drawn = axes.imshow(np.asarray(picture), extent=(left, right, bottom, top), **scale)
    if mask:
        # Blurred, so that the outline does not follow the mask's pixels.
        smooth = _enlarge(mask.convert("L").filter(ImageFilter.GaussianBlur(0.6)))
        for width, colour in ((2.0, "black"), (1.0, "white")):
            extent = (0, mask.width, 0, mask.height)
            axes.contour(smooth, [127.5], colors=colour, linewidths=width, extent=extent)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    return drawn


def _enlarge(image: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """Resize an image bicubically to `size`, by default to the pixels of a panel."""
    factor = PANEL * DPI / max(image.size)
    size = size or (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _draw_foot(figure: Figure, maps: Sequence[RegionMap], colours: AxesImage) -> None:
    """Write titles and a legend below the panels, and draw the scale of ranks."""
    title = {"ha": "center", "va": "baseline", "fontsize": 9}
    for i, text in enumerate(TITLES):
        _write(figure, _left(i) + PANEL / 2, FOOT - 0.17, text, **title)
    k, classes = maps[-1].k, maps[-1].num_classes
    axes = _place(figure, _left(2), FOOT - 0.37, PANEL, 0.1)
    scale = figure.colorbar(colours, cax=axes, orientation="horizontal")
    ends = [x for x in (1, classes) if abs(np.log(x / k)) > 0.15 * np.log(classes)]  # far from K
    scale.set_ticks([*ends, k], labels=[*map(str, ends), f"K = {k}"], fontsize=7)
    for x, label in zip((*ends, k), axes.get_xticklabels(), strict=True):
        position = np.log(x) / np.log(max(2, classes))
        label.set_ha("left" if position < 0.15 else "right" if position > 0.75 else "center")
    scale.minorticks_off()
    legend = ["White line: the object."] * any(item.mask is not None for item in maps)
    legend += ["Dashed: what the model sees."] * any(item.is_cropped for item in maps)
    _write(figure, MARGIN, FOOT - 0.3, LEGEND + "  ".join(legend), va="top", fontsize=7)


def _to_pixels(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Spread a mask `[h, w]` over pixels `[height, width]`: each gets the cell of its centre."""
    rows = ((2 * np.arange(height) + 1) * mask.shape[0] - 1) // (2 * height)
    columns = ((2 * np.arange(width) + 1) * mask.shape[1] - 1) // (2 * width)
    return mask[rows[:, None], columns]  # [height, width]


def draw_regions(image: Image.Image, irrelevant: Tensor | np.ndarray) -> Image.Image:
    """Return an RGB image in which only the ID-irrelevant regions are visible, and others grey.

    `image` is the model's input (after resize and crop), `irrelevant` the bool [h, w] of
    `id_irrelevant_regions`. Cell boundaries are rounded to pixels, so every pixel belongs to
    exactly one region, whatever the image's size.

    Differs from upstream: the public demo never greys the last column of regions, and paints over
    the squashed image although the model saw a centre crop.
    """
    mask = np.asarray(irrelevant, dtype=bool)
    if mask.ndim != 2 or 0 in mask.shape:
        raise InputError(f"the region mask must be a grid [h, w], got shape {mask.shape}")
    pixels = np.array(image.convert("RGB"))
    pixels[~_to_pixels(mask, *pixels.shape[:2])] = GREY
    return Image.fromarray(pixels)
