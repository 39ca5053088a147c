"""Agreement of ID-irrelevant regions with the masks of the objects that were drawn."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dassl.data.datasets import Datum
from dassl.utils import atomic_write, progress_bar, read_image

logger = logging.getLogger(__name__)


def compare_with_masks(
    items: Sequence[Datum],
    masks: Path,
    extract: Callable[[Image.Image, int], np.ndarray],
    view: Callable[[Image.Image], Image.Image],
    k: int,
    output: Path,
) -> None:
    """Compare the extracted regions of all `items` with their masks; log and write the result.

    Args:
        masks: a folder of CLASS/NAME.png, white where the object is.
        extract: maps an image and its label to a bool grid `[h, w]` of its ID-irrelevant regions.
        view: maps a mask to the part of it that the model sees.
        k: the K of top-K, for the record.
        output: JSON file to write.
    """
    extracted, objects = [], []
    for item in progress_bar(items, desc="comparing", unit="image"):
        path = Path(item.impath)
        mask = view(read_image(masks / path.parent.name / f"{path.stem}.png"))
        extracted.append(extract(read_image(item.impath), item.label))
        objects.append(np.asarray(mask)[..., 0] > 127)
    figures = {"k": k, "images": len(extracted), **region_agreement(extracted, objects)}
    with atomic_write(output) as file:
        json.dump(figures, file, indent=1)
    logger.info(
        "ID-irrelevant regions, K = %d, %d images: precision %.1f %%, recall %.1f %% (%.1f %% of "
        "all regions show no object)\n%s",
        k,
        len(extracted),
        100 * figures["precision"],
        100 * figures["recall"],
        100 * figures["background"],
        output,
    )


def region_agreement(
    irrelevant: Sequence[np.ndarray], objects: Sequence[np.ndarray]
) -> dict[str, float]:
    """Return how well the extracted regions match the background, over many images.

    `irrelevant`: bool grids `[h, w]`; `objects`: bool pixels `[H, W]`, True on the object. A region
    is background unless more than half of its pixels are the object's. The result holds

    - precision: share of the extracted regions that are background;
    - recall: share of the background regions that were extracted;
    - background: share of all regions that are background (the precision of extracting all);
    - extracted: share of all regions that were extracted.
    """
    grids = [np.asarray(grid, dtype=bool) for grid in irrelevant]
    cells = [_to_cells(pixels, *grid.shape) for grid, pixels in zip(grids, objects, strict=True)]
    extracted = np.concatenate([grid.ravel() for grid in grids])
    background = np.concatenate([cell.ravel() <= 0.5 for cell in cells])
    correct = (extracted & background).sum()
    return {
        "precision": float(correct / max(1, extracted.sum())),
        "recall": float(correct / max(1, background.sum())),
        "background": float(background.mean()),
        "extracted": float(extracted.mean()),
    }


def _to_cells(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the share of True pixels `[H, W]` in each cell of a grid `[rows, columns]`."""
    sums, areas = pixels.astype(float), np.ones(())
    for axis, cells in ((0, rows), (1, columns)):
        # Borders are at the nearest pixel, as in region maps.
        edges = np.floor(np.arange(cells + 1) * pixels.shape[axis] / cells + 0.5).astype(int)
        sums = np.add.reduceat(sums, edges[:-1], axis=axis)
        areas = np.multiply.outer(areas, np.diff(edges))
    return sums / areas
