"""The evaluation pass: every image is encoded once, every requested score comes from that."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dassl.data.datasets import Datum
from dassl.utils.errors import InputError
from ood.decisions import decide
from ood.results import SetScores
from ood.scores import Score, compute_scores, required_inputs

logger = logging.getLogger(__name__)

DECISION = "decision "  # before the names of decisions, among the columns of a pass


@dataclass(frozen=True)
class Evaluation:
    """Scores of every set, per set the paths of images that could not be read, and the class
    features the scores were computed with."""

    sets: dict[str, SetScores]
    skipped: dict[str, list[str]]
    classes: dict[str, Tensor]


def score_sets(
    model: nn.Module,
    sets: Mapping[str, Sequence[Datum]],
    make_loader: Callable[[Sequence[Datum]], DataLoader],
    scores: Sequence[Score],
    params: Mapping[str, float],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    root: str,
) -> Evaluation:
    """Score all images of all sets in one pass, the class prompts encoded once.

    Args:
        model: as `clip.prompted.PromptedCLIP`: `class_features()`, and
            `inputs(images, classes, needs)`, the named inputs of scores.
        make_loader: an unshuffled loader of dict batches with "img" and "index".
            One loader reads all sets, so its workers start once.
        root: folder that the paths in the result are relative to.

    Raises:
        InputError: the model lacks what a score needs, a score is not finite, or
            no image of a set could be read.
    """
    items = [item for items in sets.values() for item in items]
    columns: dict[str, np.ndarray] = {}
    done = np.zeros(len(items), dtype=bool)
    model.eval()
    with torch.inference_mode(), tqdm(total=len(items), desc="scoring", unit="image") as bar:
        with autocast():
            classes = model.class_features()
        for batch in make_loader(items):
            if "img" in batch:
                index = batch["index"].numpy()
                done[index] = True
                with autocast():
                    parts = score_batch(model, batch["img"].to(device), classes, scores, params)
                for name, part in parts.items():
                    part = part.cpu().numpy()
                    columns.setdefault(name, np.zeros(len(items), part.dtype))[index] = part
            bar.update(len(batch.get("index", ())) + len(batch.get("bad", ())))
    return Evaluation(*_split(sets, columns, done, root), classes)


def score_batch(
    model: nn.Module, images: Tensor, classes: Mapping[str, Tensor], scores: Sequence[Score],
    params: Mapping[str, float],
) -> dict[str, Tensor]:
    """Of a batch of images `[B, 3, H, W]`, `[B]` each: every score, the "prediction", and CLIPN's
    decisions, named "decision ..."."""
    needs = required_inputs(scores)
    inputs = model.inputs(images, classes, needs)
    parts = compute_scores(scores, {name: inputs.get(name) for name in needs}, params)
    decisions = {f"{DECISION}{name}": rejected for name, rejected in decide(inputs).items()}
    return parts | decisions | {"prediction": inputs["cosines"].argmax(dim=-1)}


def _split(
    sets: Mapping[str, Sequence[Datum]], columns: dict[str, np.ndarray], done: np.ndarray, root: str
) -> tuple[dict[str, SetScores], dict[str, list[str]]]:
    scored, skipped, start = {}, {}, 0
    for name, items in sets.items():
        part = slice(start, start + len(items))
        start += len(items)
        paths = np.array([os.path.relpath(item.impath, root) for item in items])
        kept = done[part]
        if not kept.any():
            raise InputError(f"{name}: none of its {len(items)} images could be read")
        values = {column: all_values[part][kept] for column, all_values in columns.items()}
        labels = np.array([item.label for item in items])[kept]
        rejected = {column.removeprefix(DECISION): values.pop(column)
                    for column in list(values) if column.startswith(DECISION)}
        scored[name] = SetScores(
            name=name, images=paths[kept].tolist(), predictions=values.pop("prediction"),
            labels=None if (labels < 0).all() else labels, scores=values, rejected=rejected,
        )
        skipped[name] = paths[~kept].tolist()
        if skipped[name]:
            logger.warning("%s: %d of %d images could not be read and are left out: %s", name,
                           len(skipped[name]), len(items), ", ".join(skipped[name][:5]))
    return scored, skipped
