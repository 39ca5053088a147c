"""The evaluation pass: every image is encoded once, every requested score comes from that."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dassl.data.datasets import Datum
from dassl.utils.errors import InputError
from ood.decisions import REJECTED, decide
from ood.features import FeatureStore
from ood.scores import Score
from ood.scoring import compute_scores, required_inputs
from ood.set_scores import SetScores

logger = logging.getLogger(__name__)


Sets = Mapping[str, Sequence[Datum]]


@dataclass(frozen=True)
class Evaluation:
    """Scores of every set, per set the paths of images that could not be read, the names of the
    sets whose features were read from disk, and the class features the scores rest on."""

    sets: dict[str, SetScores]
    skipped: dict[str, list[str]]
    read: list[str]
    classes: dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Image features of the images `index` of one set: normalised `[B, D]`, and `[B, N, D]` or
    None; the images themselves, `[B, 3, H, W]`, where they were encoded just now."""

    set_name: str
    index: np.ndarray
    features: Tensor
    regions: Tensor | None
    images: Tensor | None = None


def score_sets(
    model: nn.Module,
    sets: Sets,
    make_loader: Callable[[Sequence[Datum]], DataLoader],
    scores: Sequence[Score],
    params: Mapping[str, float],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    root: str,
    store: FeatureStore | None = None,
) -> Evaluation:
    """Score all images of all sets in one pass, the class prompts encoded once.

    Args:
        model: as `clip.prompted.PromptedCLIP`: `class_features()`, `image_features(images,
            local)`, and the inputs of scores that follow from them.
        make_loader: an unshuffled loader of dict batches with "img" and "index".
            One loader reads all sets, so its workers start once.
        root: folder that the paths in the result are relative to.
        store: where image features are read instead of encoding images again, and kept.

    Raises:
        InputError: the model lacks what a score needs, a score is not finite, or
            no image of a set could be read.
    """
    needs = required_inputs(scores)
    source = FeatureSource(model, sets, needs, device, autocast, store)
    loader = make_loader([item for items in sets.values() for item in items])
    columns: dict[str, dict[str, np.ndarray]] = {name: {} for name in sets}
    done = {name: np.zeros(len(items), dtype=bool) for name, items in sets.items()}
    model.eval()
    with torch.inference_mode():
        with autocast():
            classes = model.class_features()
        # Closed even when a score fails: what was written so far is not left lying about.
        with closing(source.batches(loader, classes["text"].shape[-1])) as batches:
            for batch in batches:
                with autocast():
                    parts = score_batch(model, batch, classes, scores, params)
                done[batch.set_name][batch.index] = True
                for name, part in parts.items():
                    part = part.cpu().numpy()
                    empty = np.zeros(len(sets[batch.set_name]), part.dtype)
                    columns[batch.set_name].setdefault(name, empty)[batch.index] = part
    scored, skipped = _collect(sets, columns, done, root)
    return Evaluation(scored, skipped, list(source.kept), classes)


def score_batch(
    model: nn.Module,
    batch: Batch,
    classes: Mapping[str, Tensor],
    scores: Sequence[Score],
    params: Mapping[str, float],
) -> dict[str, Tensor]:
    """Of a batch of B images `[B]` each: every score, the "prediction", and CLIPN's decisions,
    named "decision ..."."""
    needs = required_inputs(scores)
    inputs = model.inputs_of_features(batch.features, batch.regions, classes, needs)
    if batch.images is not None:
        inputs |= model.inputs_of_images(batch.images, classes, needs)
    parts = compute_scores(scores, {name: inputs.get(name) for name in needs}, params)
    decisions = {f"{REJECTED}{name}": rejected for name, rejected in decide(inputs).items()}
    return parts | decisions | {"prediction": inputs["cosines"].argmax(dim=-1)}


class FeatureSource:
    """Image features of all sets, batch by batch: those kept on disk, then those encoded now.

    A batch holds images of one set, always the same ones: how a matrix product rounds depends on
    its rows, and a set's scores must not depend on the sets beside it.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: Sets,
        needs: set[str],
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
        store: FeatureStore | None,
    ):
        self.model, self.sets, self.device, self.autocast = model, sets, device, autocast
        self.local = "local_cosines" in needs
        self.rounds = store is not None and store.local
        if store is not None and needs & model.FROM_IMAGES:
            logger.info(
                "A score needs the images themselves: all are encoded, and no image "
                "features are read from %s",
                store.folder,
            )
            store = None
        self.store = store
        found = {
            name: store and store.read(name, items, self.local and self.rounds)
            for name, items in sets.items()
        }
        self.kept = {
            name: features
            for name, features in found.items()
            if features and not (self.local and features.regions is None)
        }
        self.unkept = [name for name in sets if name not in self.kept]
        # What has only its global features on disk is written again for its local ones alone.
        self.to_write = [name for name in self.unkept if store and (self.rounds or not found[name])]
        self._report([name for name in self.unkept if found[name]])

    def _report(self, global_only: Sequence[str]) -> None:
        if self.kept:
            logger.info(
                "Image features of %s are read from %s", ", ".join(self.kept), self.store.folder
            )
        if global_only and not self.rounds:
            logger.info(
                "Image features of %s are in %s, but a score needs those of the regions, which "
                "only --features-local keeps: images are encoded again. --scores without GL-MCM "
                "needs none",
                ", ".join(global_only),
                self.store.folder,
            )

    def batches(self, loader: DataLoader, width: int) -> Iterator[Batch]:
        """All batches that can be had; features are `width` wide.

        Args:
            loader: of the images of all sets, one set after the other.
        """
        yield from self._read(loader.batch_size)
        if not self.unkept:
            return
        regions = self.model.num_regions if self.local and self.rounds else 0
        to_write = {name: self.sets[name] for name in self.to_write}
        writers = self.store.writers(to_write, width, regions) if to_write else {}
        try:
            for name, batches in groupby(self._encode(loader), attrgetter("set_name")):
                for batch in batches:
                    if name in writers:
                        writers[name].append(batch.index, batch.features, batch.regions)
                    yield batch
                if name in writers:
                    writers[name].finish()
        finally:
            for writer in writers.values():
                writer.discard()

    def _read(self, size: int) -> Iterator[Batch]:
        total = sum(len(features.index) for features in self.kept.values())
        with tqdm(
            total=total, desc="scoring kept features", unit="image", disable=not total
        ) as bar:
            for name, kept in self.kept.items():
                for index, features, regions in kept.batches(size):
                    regions = None if regions is None else self._tensor(regions)
                    yield Batch(name, index, self._tensor(features), regions)
                    bar.update(len(index))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device).float()

    def _encode(self, loader: DataLoader) -> Iterator[Batch]:
        starts, batches, begin = {}, [], 0
        for name, items in self.sets.items():
            starts[name] = begin
            if name in self.unkept:
                batches += [
                    (name, range(i, min(i + loader.batch_size, begin + len(items))))
                    for i in range(begin, begin + len(items), loader.batch_size)
                ]
            begin += len(items)
        with tqdm(total=sum(len(part) for _, part in batches), desc="scoring", unit="image") as bar:
            loaded = _with_batches(loader, [part for _, part in batches])
            for (name, part), batch in zip(batches, loaded, strict=True):
                if "img" in batch:
                    yield self._encoded(name, batch["index"].numpy() - starts[name], batch["img"])
                bar.update(len(part))

    def _encoded(self, name: str, index: np.ndarray, images: Tensor) -> Batch:
        images = images.to(self.device, non_blocking=True)
        with self.autocast():
            features, regions = self.model.image_features(images, self.local)
        if regions is not None and self.rounds:
            regions = regions.half().float()  # as they will be when they are read
        return Batch(name, index, features, regions, images)


def _with_batches(loader: DataLoader, batches: Sequence[Sequence[int]]) -> DataLoader:
    """`loader` with other batches, of these indices."""
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        collate_fn=loader.collate_fn,
    )


def _collect(
    sets: Sets,
    columns: Mapping[str, dict[str, np.ndarray]],
    done: Mapping[str, np.ndarray],
    root: str,
) -> tuple[dict[str, SetScores], dict[str, list[str]]]:
    """Scores of the images that could be read, and the paths of the others, by set."""
    scored, skipped = {}, {}
    for name, items in sets.items():
        paths = np.array([os.path.relpath(item.impath, root) for item in items])
        kept = done[name]
        if not kept.any():
            raise InputError(f"{name}: none of its {len(items)} images could be read")
        values = {column: all_values[kept] for column, all_values in columns[name].items()}
        labels = np.array([item.label for item in items])[kept]
        rejected = {
            column.removeprefix(REJECTED): values.pop(column)
            for column in list(values)
            if column.startswith(REJECTED)
        }
        scored[name] = SetScores(
            name=name,
            images=paths[kept].tolist(),
            predictions=values.pop("prediction"),
            labels=None if (labels < 0).all() else labels,
            scores=values,
            rejected=rejected,
        )
        skipped[name] = paths[~kept].tolist()
        if skipped[name]:
            logger.warning(
                "%s: %d of %d images could not be read and are left out: %s",
                name,
                len(skipped[name]),
                len(items),
                ", ".join(skipped[name][:5]),
            )
    return scored, skipped
