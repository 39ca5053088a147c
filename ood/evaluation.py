"""The evaluation pass: encode every image once, and compute every requested score from that."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from yacs.config import CfgNode

from dassl import distributed
from dassl.data import build_data_loader
from dassl.data.ahead import batches_for
from dassl.data.datasets import Datum
from dassl.utils import InputError, progress_bar
from datasets.folders import first_few
from ood.decisions import DECISIONS, NEEDS, decide
from ood.features import FeatureStore
from ood.registry import Score
from ood.scoring import compute_scores, required_inputs
from ood.set_scores import SetScores

logger = logging.getLogger(__name__)

Sets = Mapping[str, Sequence[Datum]]


@dataclass(frozen=True)
class Evaluation:
    """The result of a pass over all sets.

    Attributes:
        sets: the scores of every set. skipped: the paths of each set's unreadable images.
        read: names of the sets whose image features were read from disk.
        classes: the class features that the scores were computed from.
    """

    sets: dict[str, SetScores]
    skipped: dict[str, list[str]]
    read: list[str]
    classes: dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Image features of B images.

    Attributes:
        features: normalised, `[B, D]`. regions: `[B, N, D]`, or None.
        images: `[B, 3, H, W]`; None for features read from disk.
    """

    features: Tensor
    regions: Tensor | None
    images: Tensor | None = None


# A set's name, the numbers `[B]` of some of its images, and their features.
SetBatch = tuple[str, np.ndarray, Batch]


@dataclass(frozen=True)
class BatchScores:
    """The scores of B images by a model.

    Attributes:
        scores: name -> `[B]`. cosines: similarities to the classes, `[B, C]`, for predictions.
        rejected: name of a threshold-free decision -> bool `[B]`; empty without a "no" encoder.
    """

    scores: dict[str, Tensor]
    cosines: Tensor
    rejected: dict[str, Tensor]


def score_batch(
    model: nn.Module,
    batch: Batch,
    classes: Mapping[str, Tensor],
    scores: Sequence[Score],
    params: Mapping[str, float],
) -> BatchScores:
    """Compute `scores`, and the decisions that `model` can make, from the features of a batch.

    Args:
        classes: the result of `model.class_features`. params: parameters of the scores.
    """
    needs = required_inputs(scores)
    decides = set(NEEDS) if model.provides.issuperset(NEEDS) else set()
    inputs = model.inputs(batch.features, batch.regions, classes, needs | decides, batch.images)
    values = compute_scores(scores, {name: inputs.get(name) for name in needs}, params)
    predicted = inputs.get("class_cosines", inputs["cosines"])
    return BatchScores(values, predicted, decide(inputs))


def score_sets(
    cfg: CfgNode,
    model: nn.Module,
    sets: Sets,
    transform: Callable[[Image.Image], Tensor],
    scores: Sequence[Score],
    params: Mapping[str, float],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    store: FeatureStore | None = None,
) -> Evaluation:
    """Score all images of all sets in one pass, encoding the class prompts once.

    With W ranks, rank r scores the batches r, r + W, ... of the pass; all ranks get all scores.

    Args:
        cfg: reads DATALOADER and DATASET.ROOT; paths in the result are relative to the latter.
        model: as `clip.prompted.PromptedCLIP`: `class_features()`, `image_features(images,
            local)`, and the inputs of scores that follow from them.
        transform: function from an image to the model's input.
        store: where to keep image features, and read those kept instead of encoding images again.

    Raises:
        InputError: the model lacks what a score needs, a score is not finite, or
            no image of a set could be read.
    """
    source = FeatureSource(cfg, model, sets, required_inputs(scores), device, autocast, store)
    parts: dict[str, list] = {name: [] for name in sets}
    model.eval()
    with torch.inference_mode():
        with autocast():
            classes = model.class_features()
        # Closed even when a score fails, so that unfinished files are removed.
        with closing(source.batches(transform, classes["text"].shape[-1])) as batches:
            for name, index, batch in batches:
                with autocast():
                    batch_scores = score_batch(model, batch, classes, scores, params)
                parts[name].append((index, _columns(batch_scores)))
    scored, skipped = {}, {}
    ranks = distributed.from_all(parts)
    for name, items in sets.items():
        set_parts = [part for rank in ranks for part in rank[name]]
        scored[name], skipped[name] = _collect(name, items, cfg.DATASET.ROOT, scores, set_parts)
    return Evaluation(scored, skipped, list(source.kept), classes)


def _columns(batch: BatchScores) -> np.ndarray:
    """Return scores, predictions and decisions on the host, `[*, B]`, in one copy.

    Float64 represents float32 scores and class indices exactly.
    """
    columns = [*batch.scores.values(), batch.cosines.argmax(dim=-1), *batch.rejected.values()]
    return torch.stack([column.double() for column in columns]).cpu().numpy()


def _collect(
    name: str,
    items: Sequence[Datum],
    root: str,
    scores: Sequence[Score],
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[SetScores, list[str]]:
    """Return the scores of the images that could be read, and the paths of the others.

    Args:
        parts: numbers `[B]` of images of the set, and their `_columns`; in any order.
    """
    if not parts:
        raise InputError(
            f"{name}: none of its {len(items)} images could be read. Check the files, or leave "
            "out the set"
        )
    index, columns = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
    order = np.argsort(index)
    read, columns = index[order], columns[:, order]  # [n], [*, n]
    paths = [os.path.relpath(item.impath, root) for item in items]
    skipped = [paths[i] for i in np.delete(np.arange(len(items)), read)]
    labels = np.array([items[i].label for i in read])
    if skipped and distributed.is_main():
        logger.warning(
            f"{name}: {len(skipped)} of {len(items)} images could not be read and are left out: "
            f"{first_few(skipped)}"
        )
    values, (predictions,), decisions = np.split(columns, [len(scores), len(scores) + 1])
    set_scores = SetScores(
        name=name,
        images=[paths[i] for i in read],
        scores={s.name: x.astype(np.float32) for s, x in zip(scores, values, strict=True)},
        labels=None if (labels < 0).all() else labels,
        predictions=predictions.astype(np.int64),
        # Without a "no" encoder there are no decisions.
        rejected={d: x.astype(bool) for d, x in zip(DECISIONS, decisions, strict=False)},
    )
    return set_scores, skipped


class FeatureSource:
    """Image features of all sets, batch by batch: those kept on disk, then those encoded now.

    A batch always holds the same images of one set: the rounding of a matrix product depends on
    its rows, and a set's scores must not depend on the other sets.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        sets: Sets,
        needs: set[str],
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
        store: FeatureStore | None,
    ):
        self.cfg, self.model, self.sets = cfg, model, sets
        self.device, self.autocast = device, autocast
        self.size = cfg.DATALOADER.TEST.BATCH_SIZE
        self.local = model.reads_regions(needs)
        self.keeps_regions = store is not None and store.local
        if store is not None and needs & model.FROM_IMAGES:
            logger.info("A score needs the images themselves: kept image features are not used")
            store = None
        self.store = store
        on_disk = {
            name: store and store.read(name, items, self.local and self.keeps_regions)
            for name, items in sets.items()
        }
        usable = {
            name: features
            for name, features in on_disk.items()
            if features and not (self.local and features.regions is None)
        }
        # The ranks must agree, as another process may be writing to the folder.
        agreed = set.intersection(*map(set, distributed.from_all([*usable])))
        self.kept = {name: usable[name] for name in usable if name in agreed}
        self.unkept = [name for name in sets if name not in self.kept]
        # A set whose global features are on disk is only written again to add its local ones.
        self.to_write = distributed.from_main(
            lambda: [n for n in self.unkept if store and (self.keeps_regions or not on_disk[n])]
        )
        if self.kept:
            logger.info("Image features of %s are read from %s", ", ".join(self.kept), store.folder)
        if store and not self.keeps_regions and len(self.to_write) < len(self.unkept):
            logger.info(
                "Images are encoded again: a score needs the features of their regions, which are "
                "kept only with --features-local"
            )

    def batches(self, transform: Callable[[Image.Image], Tensor], width: int) -> Iterator[SetBatch]:
        """Yield all of this rank's readable batches; features are `width` wide."""
        for name, kept in self.kept.items():
            for index, features, regions in kept.batches(self.size):
                regions = None if regions is None else self._tensor(regions)
                yield name, index, Batch(self._tensor(features), regions)
        if not self.unkept:
            return
        regions = self.model.num_regions if self.local and self.keeps_regions else 0
        to_write = {name: self.sets[name] for name in self.to_write}
        writes = to_write and distributed.is_main()
        writers = self.store.writers(to_write, width, regions) if writes else {}
        try:
            for name, set_batches in groupby(self._encoded_by_all(transform), itemgetter(0)):
                for _, index, batch, is_own in set_batches:
                    if name in writers:
                        writers[name].append(index, batch.features, batch.regions)
                    if is_own:
                        yield name, index, batch
                if name in writers:
                    writers[name].finish()
        finally:
            for writer in writers.values():
                writer.discard()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device).float()

    def _encoded_by_all(
        self, transform: Callable[[Image.Image], Tensor]
    ) -> Iterator[tuple[str, np.ndarray, Batch, bool]]:
        """Yield this rank's batches, marked True, and those of other ranks if they are kept."""
        gathers = self.to_write and distributed.world_size() > 1
        for own in self._encode(transform):
            batches = distributed.from_all(own and _on_cpu(own)) if gathers else [own]
            for rank, set_batch in enumerate(batches):
                is_own = not gathers or rank == distributed.rank()
                if set_batch:
                    yield *(own if is_own else set_batch), is_own

    def _encode(self, transform: Callable[[Image.Image], Tensor]) -> Iterator[SetBatch | None]:
        """Encode this rank's share of the images that are not kept, set after set; yield None for
        a batch of which no image could be read. One loader reads all sets: workers start once."""
        items, plan = [], []  # of all sets; of each batch its set, the set's start, and its range
        for name in self.unkept:
            begin = len(items)
            items += self.sets[name]
            starts = range(begin, len(items), self.size)
            plan += [(name, begin, range(i, min(i + self.size, len(items)))) for i in starts]
        ranks = distributed.world_size()
        rounds, plan = -(-len(plan) // ranks), plan[distributed.rank() :: ranks]
        loader = build_data_loader(
            self.cfg,
            data_source=items,
            tfm=transform,
            is_train=False,
            batches=[indices for _, _, indices in plan],
        )
        quiet, count = not distributed.is_main(), sum(len(indices) for _, _, indices in plan)
        with progress_bar(total=count, desc="scoring", unit="image", disable=quiet) as bar:
            loaded = batches_for(loader, self.device)
            for (name, begin, indices), batch in zip(plan, loaded, strict=True):
                if "img" in batch:
                    yield name, batch["index"].numpy() - begin, self._encoded(batch["img"])
                else:
                    yield None
                bar.update(len(indices))
        if len(plan) < rounds:  # the other ranks gather once more
            yield None

    def _encoded(self, images: Tensor) -> Batch:
        images = images.to(self.device, non_blocking=True)
        with self.autocast():
            features, regions = self.model.image_features(images, self.local)
        if regions is not None and self.keeps_regions:
            regions = regions.half().float()  # rounded as when they are read from disk
        return Batch(features, regions, images)


def _on_cpu(set_batch: SetBatch) -> SetBatch:
    """Return a batch's features on the CPU, for another rank to write to disk."""
    name, index, batch = set_batch
    regions = None if batch.regions is None else batch.regions.cpu()
    return name, index, Batch(batch.features.cpu(), regions)
