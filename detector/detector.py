"""Is this image one of the classes? A calibrated verdict on any image.

>>> from detector import Detector
>>> detector = Detector.load("output/.../seed1")     # a run that eval_ood.py has evaluated
>>> detector("photo.jpg").verdict
'OOD'
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import clip
from clip.loading import check_same_backbone
from clip.prompted import DescribedCLIP
from dassl.data.ahead import one_ahead
from dassl.distributed import local_device
from dassl.utils import BadImageError, InputError, read_image
from dassl.utils.tools import path_of
from datasets.folders import absolute, images_of
from detector.calibration import TPR, Threshold, check_read, check_tpr, warn_if_one_sided
from detector.images import Input, check_paths, is_one, model_input, one_by_one, or_error, take
from detector.spec import DetectorSpec, read_spec, write_spec
from detector.verdicts import Verdict
from detector.zero_shot import spec_of_classes, texts
from ood.decisions import NEEDS, warn_if_few_classes
from ood.evaluation import Batch, BatchScores, score_batch
from ood.region_maps import RegionMap, save_region_maps
from ood.regions import class_index, label_ranks
from ood.scoring import offered_scores, required_inputs

BATCH = 32
READERS = min(8, os.cpu_count() or 1)  # threads; decoding runs outside Python's lock


class Detector:
    """A model and a `spec`: scores images, and compares the scores with the spec's threshold.

    Args:
        model: the CLIP that `spec.clip` describes.
    """

    def __init__(self, spec: DetectorSpec, model: clip.ClipModel):
        self.spec = spec
        self.device = next(model.parameters()).device
        features = {name: x.to(self.device) for name, x in spec.features.items()}
        self.model = DescribedCLIP(model, features, spec.scale.to(self.device))
        if self.model.provides.issuperset(NEEDS):
            warn_if_few_classes(len(spec.classnames))
        self._precision = clip.resolve_precision(spec.precision, self.device)
        self._threshold = spec.threshold()

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike,
        score: str = "",
        tpr: float | None = None,
        device: torch.device | str = "",
        backbone: str | os.PathLike = "",
    ) -> Detector:
        """Load the detector of an evaluated run, or one that `save` wrote.

        Args:
            folder: the run's or the saved one's, or the file that `save` returned.
            score, tpr: use another score, or keep another share of ID images, than the saved ones.
            device: by default a GPU if there is one.
            backbone: name or file of CLIP, if its file has moved.

        Raises:
            InputError: there is no detector, no such score, or CLIP has other weights.
        """
        folder, score, backbone = texts(folder=folder, score=score, backbone=backbone)
        spec = read_spec(folder).choose(score, tpr)
        name = backbone or spec.clip["name"]
        if os.path.isabs(name) and not os.path.exists(name):
            raise InputError(f"the CLIP {name} is missing: name its file as backbone (--backbone)")
        check_same_backbone(name, spec.clip["name"])
        device = torch.device(device or local_device())
        model, _ = clip.load(name, device, spec.precision, spec.clip["activation"])
        if model.weights_hash != spec.clip["weights_hash"]:
            raise InputError(
                f"{name} is not the CLIP of the detector in {folder}: its weights differ. Name the "
                "right file as backbone (--backbone), or evaluate again"
            )
        detector = cls(spec, model)
        if dtype := detector._precision.autocast:
            model.store_for_autocast(dtype)  # else every batch casts all weights, to the same bits
        return detector

    @classmethod
    def zero_shot(
        cls,
        classnames: Iterable[str],
        backbone: str | os.PathLike = "ViT-B/16",
        template: str = "a photo of a {}.",
        activation: str = "",
        score: str = "",
        device: torch.device | str = "",
        negatives: str | os.PathLike = "",
        outliers: str | os.PathLike = "",
        exif: bool = False,
    ) -> Detector:
        """Make a detector for class names, from CLIP or a published CLIPN (a file with a "no" text
        encoder), without training. It gives no verdicts before `calibrate`.

        Args:
            backbone: name or file of CLIP, as in `clip.load`.
            template: a text with {} for the class name, or several separated by |; "imagenet80"
                for the 80 of CLIP's paper, "published" for CLIPN's 128.
            activation: "quick_gelu" or "gelu", for a file that does not state its own.
            score: the score that verdicts use (default: NegLabel with `negatives`, EOE with
                `outliers`, else ATD for CLIPN, MCM for CLIP, and MaxLogit for a single class).
            negatives: folder of words that are not classes, or "wordnet", for NegLabel and CSP.
            outliers: .txt file of outlier names, one per line, for EOE.
            exif: turn photographs upright by their EXIF orientation.
        """
        device = torch.device(device or local_device())
        backbone, activation = texts(backbone=backbone, activation=activation)
        given = texts(template=template, score=score, negatives=negatives, outliers=outliers)
        model, preprocess = clip.load(backbone, device, "fp32", activation or None)
        spec = spec_of_classes(model, preprocess, classnames, *given)
        return cls(replace(spec, exif=exif), model)

    @property
    def score(self) -> str:
        """Return the name of the score that verdicts use; `load` and `zero_shot` choose it."""
        return self.spec.score

    @property
    def threshold(self) -> Threshold | None:
        """Return this score's `Threshold`, whose `value` is the number; None before `calibrate`."""
        return self._threshold

    def __repr__(self) -> str:
        spec, limit = self.spec, self.threshold
        rule = (
            f"ID at {spec.score} >= {limit.value:.6g}" if limit else f"{spec.score}, no threshold"
        )
        trainer = spec.origin.get("trainer", "CLIP")
        return f"Detector({trainer} on {spec.clip['name']}, {len(spec.classnames)} classes, {rule})"

    def __call__(self, images: Input | Sequence[Input]) -> Verdict | list[Verdict]:
        """Return the verdict on one image, or a list of verdicts on several.

        An image is a path, an open file, a PIL image, or a tensor `[3, H, W]`: pixels in uint8, or
        floating point as `preprocess` returns it. A tensor `[B, 3, H, W]` is several images.

        Raises:
            BadImageError: an image cannot be used. `verdicts` does not stop there.
            InputError: `images` is neither an image nor holds any.
        """
        verdicts = []
        for verdict in self.verdicts(images):
            if verdict.error:
                raise BadImageError(verdict.error)
            verdicts.append(verdict)
        return verdicts[0] if is_one(images) else verdicts

    def verdicts(self, images: Iterable[Input]) -> Iterator[Verdict]:
        """Yield verdicts in the order of `images`, which may be endless: two batches are held at a
        time. An image that cannot be used gets a verdict with the reason in `error`.
        """
        for batch in self.score_images(images, [self.spec.score]):
            yield from self.judge(*batch)

    def preprocess(self, image: Input) -> Tensor:
        """Return the model's input `[3, H, W]`; a floating-point tensor is returned as it is.

        Raises:
            InputError: the image cannot be read or used, or is none: an array, or a tensor of
                another shape, type or range.
        """
        exif = self.spec.exif
        taken = image if isinstance(image, Tensor) else take(image, exif)
        return model_input(taken, self.spec.preprocess, exif)

    def calibrate(self, images: Iterable[Input], tpr: float = TPR, of: str = "") -> Detector:
        """Return a new detector, with a threshold for each score that keeps `tpr` of ID images.
        This one stays as it is.

        Args:
            images: held-out ID images, on which nothing was trained, or the path of their folder.
                Unreadable ones are left out, with a warning, and counted in the spec.
            of: source of the images, for the record (default: the folder).

        Raises:
            InputError: `tpr` is no share, or no image can be read.
        """
        check_tpr(tpr)  # before hours of scoring
        if isinstance(images, str | os.PathLike):
            images, of = images_of([images]), of or absolute(images)
        columns: dict[str, list[float]] = {name: [] for name in self.spec.parameters}
        labels: Counter[int] = Counter()
        unreadable: list[str] = []
        for _, errors, scored in self.score_images(images, "all"):
            unreadable += filter(None, errors)
            if scored:
                labels.update(scored.cosines.argmax(dim=-1).tolist())
                for name, values in scored.scores.items():
                    columns[name] += values.tolist()
        check_read(labels.total(), unreadable, of)
        warn_if_one_sided(labels, self.spec.classnames)
        record = {"images": of, "unreadable": len(unreadable)}
        return Detector(self.spec.calibrate(columns, tpr, record), self.model.clip)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the detector for `load`, without the weights of CLIP, and return the file."""
        return write_spec(folder, self.spec)

    @torch.inference_mode()
    def label_ranks(self, image: Input, label: int) -> Tensor:
        """Return the rank of the class `label` in every region: int32 `[h, w]`, on the CPU."""
        label = class_index(label, len(self.spec.classnames))
        pixels = self.preprocess(image)[None].to(self.device)  # [1, 3, H, W]
        with self._precision.context(self.device):
            encoded = self.model.image_features(pixels, local=True)
            inputs = self.model.inputs(*encoded, self.model.features, {"local_cosines"})
        ranks = label_ranks(inputs["local_cosines"][0].cpu(), label)  # [N]
        return ranks.reshape(self.model.clip.grid)

    def irrelevant_regions(self, image: Input, label: int) -> Tensor:
        """Return in which regions `label` is not among the top K classes: bool `[h, w]`, CPU."""
        return self.label_ranks(image, label) > self.spec.top_k

    def region_map(
        self,
        image: str | os.PathLike,
        of: Verdict | int | None = None,
        mask: str | os.PathLike = "",
    ) -> RegionMap:
        """Return the region map of an image file.

        Args:
            of: the image's class, or its verdict, which the caption quotes (default: a new one).
            mask: an image file of the same size, white where the object is; "" if not known.

        Raises:
            InputError: `of` is no class, or a verdict on another file; an image cannot be read.
        """
        check_paths(image, mask)
        spec, decision = self.spec, ""
        of = self(image) if of is None else of
        if isinstance(of, Verdict):
            of.check_is_on(image)
            of, decision = of.label, f"{spec.score} {of.decision}"
        original, shape = read_image(image, spec.exif), read_image(mask) if mask else None
        if shape and shape.size != original.size:
            raise InputError(f"the mask {mask} is {shape.size}, its image {original.size}")
        shown = Path(image), original, spec.preprocess.box(*original.size)
        ranks = self.label_ranks(original, of).numpy()  # refuses what is no class
        name = spec.classnames[of] + (" (predicted)" if decision else "")
        return RegionMap(*shown, ranks, spec.top_k, len(spec.classnames), name, decision, shape)

    def save_regions(
        self, image: str | os.PathLike, path: str | os.PathLike, of: Verdict | int | None = None
    ) -> str:
        """Draw a `region_map` to the file `path` (PNG, PDF or SVG), and return its caption."""
        region_map = self.region_map(image, of)
        save_region_maps(path, [region_map])
        return region_map.caption

    def score_images(
        self, images: Iterable[Input], scores: str | Iterable[str]
    ) -> Iterator[tuple[list[Input], list[str], BatchScores | None]]:
        """Yield for each batch its images, the error of each ("" if it was read), and the scores
        of those that were read, if any. Files are read one batch ahead of the model.

        Args:
            scores: name or names of this detector's scores; "all" for all of them.
        """
        scores, one, exif = self.spec.names_of(scores), is_one(images), self.spec.exif
        arrived = (
            (image, "" if one or path_of(image) else f"images[{i}]: ", or_error(take, image, exif))
            for i, image in enumerate(one_by_one(images))
        )
        batches = iter(lambda: list(itertools.islice(arrived, BATCH)), [])
        with ThreadPoolExecutor(READERS) as pool:
            for batch, reading in one_ahead(
                batches,
                lambda batch: (batch, pool.map(self._read, [copy for *_, copy in batch])),
                lambda sent: sent,
            ):
                read = list(reading)
                pixels = [x for x in read if isinstance(x, Tensor)]
                errors = [
                    "" if isinstance(x, Tensor) else f"{place}{x}"
                    for x, (_, place, _) in zip(read, batch, strict=True)
                ]
                scored = self._score_pixels(pixels, scores) if pixels else None
                yield [image for image, *_ in batch], errors, scored

    def judge(
        self, images: Sequence[Input], errors: Sequence[str], scored: BatchScores | None
    ) -> Iterator[Verdict]:
        """Yield the verdicts on a batch from `score_images`, in its order."""
        rows = iter(self._verdict_fields(scored) if scored else [])
        for image, error in zip(images, errors, strict=True):
            yield Verdict(path_of(image), **({"error": error} if error else next(rows)))

    def _read(self, image: Input | InputError) -> Tensor | InputError:
        return or_error(model_input, image, self.spec.preprocess, self.spec.exif)

    @torch.inference_mode()
    def _score_pixels(self, pixels: Sequence[Tensor], names: Sequence[str]) -> BatchScores:
        scores = offered_scores(names, self.model.provides)
        params = {k: v for name in names for k, v in self.spec.parameters[name].items()}
        images = torch.stack([x.to(self.device) for x in pixels])  # [B, 3, H, W]
        local = self.model.reads_regions(required_inputs(scores))
        with self._precision.context(self.device):
            features, regions = self.model.image_features(images, local)
            batch = Batch(features, regions, images)
            return score_batch(self.model, batch, self.model.features, scores, params)

    def _verdict_fields(self, scored: BatchScores) -> list[dict[str, Any]]:
        """Return the fields of the `Verdict` on each image of a scored batch."""
        cosines, labels = (x.tolist() for x in scored.cosines.max(dim=-1))
        scores = scored.scores[self.spec.score].tolist()
        limit = self.threshold and self.threshold.value
        columns = {
            "label": labels,
            "classname": [self.spec.classnames[label] for label in labels],
            "probability": (self.model.scale * scored.cosines).softmax(-1).amax(-1).tolist(),
            "cosine": cosines,
            "score": scores,
            "verdict": ["" if limit is None else _verdict(score < limit) for score in scores],
            **{name.lower(): map(_verdict, x.tolist()) for name, x in scored.rejected.items()},
        }
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True), threshold=limit) for row in rows]


def _verdict(rejected: bool) -> str:
    return "OOD" if rejected else "ID"
