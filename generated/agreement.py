"""How well regions extracted without a mask agree with the objects that were drawn."""

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
    """Log and write the agreement of the extracted regions with the masks of all `items`.

    Args:
        masks: a folder of CLASS/NAME.png, white where the object is.
        extract: from an image and its label to where its regions are ID-irrelevant, bool [h, w].
        view: from a mask to the part of it that the model sees. k: K, for the record.
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
    """Return how well the extracted regions are those without the object, over many images.

    `irrelevant`: bool grids [h, w]; `objects`: bool pixels [H, W], True on the object. A region
    belongs to the object where more than half of its pixels do. The shares are

    - precision: of the extracted regions, those that are background;
    - recall: of the background regions, those that were extracted;
    - background: of all regions, those that are background (the precision of extracting all);
    - extracted: of all regions, those that were extracted.
    """
    grids = [np.asarray(grid, dtype=bool) for grid in irrelevant]
    cells = [_to_cells(pixels, *grid.shape) for grid, pixels in zip(grids, objects, strict=True)]
    extracted = np.concatenate([grid.ravel() for grid in grids])
    background = np.concatenate([cell.ravel() <= 0.5 for cell in cells])
    both = (extracted & background).sum()
    return {
        "precision": float(both / max(1, extracted.sum())),
        "recall": float(both / max(1, background.sum())),
        "background": float(background.mean()),
        "extracted": float(extracted.mean()),
    }


def _to_cells(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the share of True pixels in each cell of a grid: [H, W] -> [rows, columns]."""
    sums, areas = pixels.astype(float), np.ones(())
    for axis, cells in ((0, rows), (1, columns)):
        # As region maps are drawn: borders at the nearest pixel.
        edges = np.floor(np.arange(cells + 1) * pixels.shape[axis] / cells + 0.5).astype(int)
        sums = np.add.reduceat(sums, edges[:-1], axis=axis)
        areas = np.multiply.outer(areas, np.diff(edges))
    return sums / areas
