"""Find the images that a score gets most wrong, ID and OOD, and make their thumbnails."""

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dassl.utils import InputError, read_image
from ood.metrics import threshold_at_tpr
from ood.set_scores import SetScores
from results.runs import Run

SHOWN = 6  # images in a list
THUMBNAIL, QUALITY = 112, 72  # longer side in pixels, JPEG quality

logger = logging.getLogger(__name__)


class Mistake(NamedTuple):
    """An image on the wrong side. `beyond`: share of the other kind's images that it has passed."""

    image: str
    score: float
    label: str | None
    prediction: str | None
    beyond: float


def rejected_id(
    score: str, inside: SetScores, outside: Sequence[SetScores], names: Mapping[int, str]
) -> list[Mistake]:
    """Return the ID images with the lowest scores, below the threshold that keeps 95 % of ID."""
    values = inside.scores[score]
    others = np.sort(np.concatenate([ood_set.scores[score] for ood_set in outside]))
    wrong = np.flatnonzero(values < threshold_at_tpr(values, others).threshold)
    order = wrong[np.argsort(values[wrong], kind="stable")][:SHOWN]
    passed = 1 - np.searchsorted(others, values[order], "right") / len(others)
    return _mistakes(inside, score, order, passed, names)


def accepted_ood(
    score: str, inside: SetScores, outside: SetScores, names: Mapping[int, str]
) -> list[Mistake]:
    """Return the images of one OOD set with the highest scores, at or above the threshold."""
    values, others = outside.scores[score], np.sort(inside.scores[score])
    wrong = np.flatnonzero(values >= threshold_at_tpr(others, values).threshold)
    order = wrong[np.argsort(-values[wrong], kind="stable")][:SHOWN]
    passed = np.searchsorted(others, values[order]) / len(others)
    return _mistakes(outside, score, order, passed, names)


def _mistakes(
    scored: SetScores, score: str, order: np.ndarray, beyond: np.ndarray, names: Mapping[int, str]
) -> list[Mistake]:
    def name(classes: Sequence[int] | None, i: int) -> str | None:
        return None if classes is None else names.get(int(classes[i]), f"class {classes[i]}")

    mistakes = []
    for i, share in zip(order, beyond, strict=True):
        classes = name(scored.labels, i), name(scored.predictions, i)
        value = float(scored.scores[score][i])
        mistakes.append(Mistake(scored.images[i], value, *classes, float(share)))
    return mistakes


def class_names(run: Run, inside: SetScores) -> dict[int, str]:
    """Return the class names in the results, or else the names of the ID images' folders."""
    names = dict(enumerate(run.provenance.get("classnames") or []))
    if not names and inside.labels is not None:
        labels, first = np.unique(inside.labels, return_index=True)
        folders = (Path(inside.images[i]).parent.name for i in first)
        names = dict(zip(labels.tolist(), folders, strict=True))
    return {index: name.replace("_", " ") for index, name in names.items()}


def thumbnail(path: Path) -> str:
    """Return a data URL of a small copy of the image, or "" if it is missing or damaged."""
    try:
        return jpeg(read_image(path), THUMBNAIL) if path.is_file() else ""
    except InputError as error:
        logger.warning("%s", error)
        return ""


def jpeg(image: Image.Image, size: int, quality: int = QUALITY) -> str:
    """Return a data URL of the RGB image, shrunk so that no side is longer than `size` pixels."""
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
