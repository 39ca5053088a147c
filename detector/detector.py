"""Is this image one of the classes? A calibrated verdict on any image.

>>> from detector import Detector
>>> detector = Detector.load("output/.../seed1")     # a run that eval_ood.py has evaluated
>>> detector("photo.jpg").verdict
'OOD'

This module alone in `ood/` stands on `clip/`; the scores stay pure functions.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import clip
from dassl.data.transforms import Preprocess
from clip.prompted import DescribedCLIP, PromptedCLIP, TwoBranchCLIP
from clip.templates import classifier, template_pairs
from dassl.distributed import local_device
from dassl.utils import BadImageError, as_rgb, nearest_name, read_image
from dassl.utils.errors import InputError
from dassl.utils.tools import versions
from detector.calibration import TPR, Threshold, calibrate, check_tpr
from detector.detector_file import FILE, Recipe, read_recipe, write_recipe
from detector.verdicts import Verdict
from ood.decisions import NEEDS, REJECTED, decide, warn_if_few_classes
from ood.regions import id_irrelevant_regions, region_caption, save_region_map, suggest_top_k
from ood.scoring import compute_scores, offered_scores, required_inputs, score_parameters

Input = str | os.PathLike | Image.Image | Tensor

BATCH = 32
READERS = min(8, os.cpu_count() or 1)  # threads; decoding runs outside Python's lock


class Detector:
    """Scores images with one score, and compares with its threshold.

    Args:
        recipe: what the detector is made of.
        model: the CLIP that `recipe.clip` describes.
        score: a name among `recipe.parameters`; "" for the recipe's own choice.
        tpr: share of ID images to keep; None for the recipe's.
    """

    def __init__(
        self, recipe: Recipe, model: clip.ClipModel, score: str = "", tpr: float | None = None
    ):
        self.score = score or recipe.score
        if self.score not in recipe.parameters:
            raise InputError(
                f"the detector has no score {self.score!r}: it has {', '.join(recipe.parameters)}. "
                f"Nearest: {nearest_name(self.score, recipe.parameters)!r}. Evaluate again with "
                "--scores all for others"
            )
        self.tpr = recipe.tpr if tpr is None else tpr
        check_tpr(self.tpr)
        self.device = next(model.parameters()).device
        features = {name: x.to(self.device) for name, x in recipe.features.items()}
        self.model = DescribedCLIP(model, features, recipe.scale.to(self.device))
        self.recipe = recipe
        # What decisions without a threshold need, of a model that can make them.
        self._decides_on = set(NEEDS) if self.model.provides.issuperset(NEEDS) else set()
        if self._decides_on:
            warn_if_few_classes(len(recipe.classnames))
        self._precision = clip.resolve_precision(recipe.precision, self.device)
        self._transform = Preprocess(**recipe.transform)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike,
        score: str = "",
        tpr: float | None = None,
        device: torch.device | str = "",
        backbone: str = "",
    ) -> Detector:
        """The detector of an evaluated run, or one that `save` wrote.

        Args:
            device: a GPU if there is one, unless given.
            backbone: name or file of CLIP, if its file has moved.

        Raises:
            InputError: no detector there, no such score, or CLIP is not the one it was made with.
        """
        if not Path(folder, FILE).exists():
            raise InputError(
                f"{folder} has no {FILE}: run eval_ood.py, which writes one, or detect.py with "
                "--calibrate FOLDER_OF_ID_IMAGES --save DIR"
            )
        recipe = read_recipe(folder)
        name = backbone or recipe.clip["name"]
        if os.path.isabs(name) and not os.path.exists(name):
            raise InputError(
                f"{name}, the CLIP of the detector in {folder}, is not there (any "
                "more): name the file or model with --backbone"
            )
        model, _ = clip.load(name, _device(device), recipe.precision, recipe.clip["activation"])
        expected = recipe.clip["weights_hash"]
        if model.weights_hash != expected:
            raise InputError(
                f"{name} is not the CLIP that the detector in {folder} was made with: its weights "
                f"have hash {model.weights_hash[:16]}, the detector's {expected[:16]}. "
                "Name the right file (--backbone), or evaluate again"
            )
        return cls(recipe, model, score, tpr)

    @classmethod
    def zero_shot(
        cls,
        classnames: Sequence[str],
        backbone: str = "ViT-B/16",
        template: str = "a photo of a {}.",
        activation: str = "",
        score: str = "",
        device: torch.device | str = "",
    ) -> Detector:
        """CLIP as it comes, or CLIPN as published (a file with a "no" text encoder), for classes
        by name; no verdicts before `calibrate`."""
        model, _ = clip.load(backbone, _device(device), "fp32", activation or None)
        with torch.inference_mode():
            described = _described(model, classnames, template)
            features = described.class_features()
        # A softmax over one class is always 1.
        usual = "ATD" if "no" in features else "MCM" if len(classnames) > 1 else "MaxLogit"
        recipe = Recipe(
            classnames=list(classnames),
            features=features,
            scale=described.scale,
            clip=describe_clip(model),
            precision="fp32",
            transform=transform_of(model),
            parameters=score_parameters(offered_scores("all", described.provides)),
            score=usual,
            top_k=suggest_top_k(len(classnames)),
            origin={"trainer": "zero-shot", "template": template, "versions": versions()},
        )
        return cls(recipe, model, score)

    @cached_property
    def threshold(self) -> Threshold | None:
        """Of this detector's score; None before a calibration."""
        if not self.recipe.id_scores:
            return None
        return calibrate(self.recipe.id_scores[self.score], self.tpr)

    def __call__(self, images: Input | Sequence[Input]) -> Verdict | list[Verdict]:
        """A verdict on one image, or a list of them on several.

        An image is a path, a PIL image, or a tensor: pixels `[3, H, W]`, uint8; or floating point,
        prepared by `preprocess`. A tensor `[B, 3, H, W]` is several.

        Raises:
            BadImageError: a file cannot be read. `verdicts` goes on instead.
        """
        one = isinstance(images, str | os.PathLike | Image.Image) or (
            isinstance(images, Tensor) and images.dim() == 3
        )
        found = []
        for verdict in self.verdicts([images] if one else images):
            if verdict.error:
                raise BadImageError(verdict.error)
            found.append(verdict)
        return found[0] if one else found

    def verdicts(self, images: Iterable[Input]) -> Iterator[Verdict]:
        """Verdicts in the order of `images`, which may be endless: two batches are held at a time.

        An image that cannot be read gives a verdict that says so (`error`).
        """
        for batch, errors, columns in self._scored(images, [self.score]):
            values = zip(*columns.values(), strict=True)
            rows = (dict(zip(columns, row, strict=True)) for row in values)
            for image, error in zip(batch, errors, strict=True):
                if error:
                    yield Verdict(_name(image), error=error)
                else:
                    yield self._verdict(image, next(rows))

    def preprocess(self, image: Input) -> Tensor:
        """What the model reads of an image, `[3, H, W]`; a prepared tensor passes through.

        Raises:
            BadImageError: the file cannot be read. InputError: a tensor of another shape.
        """
        if isinstance(image, Tensor):
            if image.dim() != 3 or image.shape[0] != 3:
                raise InputError(f"an image tensor is [3, H, W], got {list(image.shape)}")
            if image.is_floating_point():
                return image
            image = Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).cpu().numpy())
        elif not isinstance(image, Image.Image):
            image = read_image(image)
        try:
            return self._transform(as_rgb(image))
        except ValueError as error:
            raise InputError(f"the image {_name(image)} cannot be used: {error}") from error

    def calibrate(self, images: Iterable[Input], tpr: float = TPR, of: str = "") -> Detector:
        """This detector with thresholds, of all its scores, that keep ``tpr`` of ID images.

        Args:
            images: held-out ID images, which nothing was trained on. Those that cannot be read
                are left out, and counted in the recipe.
            of: where they are from, for the record.
        """
        columns: dict[str, list[np.float32]] = {name: [] for name in self.recipe.parameters}
        unreadable = 0
        for _, errors, found in self._scored(images, list(columns)):
            unreadable += sum(map(bool, errors))
            for name, parts in columns.items():
                parts.extend(found.get(name, ()))
        if not columns[self.score]:
            raise InputError(f"no ID image to calibrate on: {unreadable} could not be read ({of})")
        recipe = self.recipe.calibrated(columns, tpr, {"images": of, "unreadable": unreadable})
        return Detector(recipe, self.model.clip, self.score)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the detector, for `load`; CLIP's weights stay where they are."""
        return write_recipe(folder, replace(self.recipe, score=self.score, tpr=self.tpr))

    def save_regions(self, image: str | os.PathLike, path: str | os.PathLike) -> Path:
        """Draw, as PNG at `path`, the regions of an image that do not show its likeliest class."""
        original = read_image(image)
        inputs = self._inputs(self._transform(original)[None], {"local_cosines"})
        label, k = int(inputs["cosines"][0].argmax()), self.recipe.top_k
        irrelevant = id_irrelevant_regions(inputs["local_cosines"][0].cpu(), label, k)
        irrelevant = irrelevant.reshape(self.model.clip.grid)
        names = self.recipe.classnames
        caption = region_caption(f"{names[label]} (predicted)", k, len(names), irrelevant)
        resize, crop, *_ = self._transform.transforms
        return save_region_map(path, image, original, crop(resize(original)), irrelevant, caption)

    # What every image passes

    def _scored(
        self, images: Iterable[Input], scores: Sequence[str]
    ) -> Iterator[tuple[list[Input], list[str], dict[str, np.ndarray]]]:
        """Batch by batch: images, for each why it could not be read ("": it could), and the
        `_columns` of the others. Files are read one batch ahead of the model."""
        images = iter(images)
        with ThreadPoolExecutor(READERS) as pool:
            ahead: deque[tuple[list[Input], Iterator[Tensor | BadImageError]]] = deque()
            while True:
                batch = list(itertools.islice(images, BATCH))
                if batch:
                    ahead.append((batch, pool.map(self._read, batch)))
                if len(ahead) == 2 or (not batch and ahead):
                    batch, read = ahead.popleft()
                    yield batch, *self._score_batch(list(read), scores)
                elif not batch:
                    return

    def _read(self, image: Input) -> Tensor | BadImageError:
        try:
            return self.preprocess(image)
        except BadImageError as error:
            return error

    def _score_batch(
        self, read: list[Tensor | BadImageError], scores: Sequence[str]
    ) -> tuple[list[str], dict[str, np.ndarray]]:
        errors = ["" if isinstance(x, Tensor) else str(x) for x in read]
        pixels = [x for x in read if isinstance(x, Tensor)]
        return errors, self._columns(torch.stack(pixels), scores) if pixels else {}

    @torch.inference_mode()
    def _columns(self, pixels: Tensor, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Of images `[B, 3, H, W]`, `[B]` each: the scores, "label", "cosine", "probability", and
        of each decision without a threshold whether it rejects the image."""
        scores = offered_scores(names, self.model.provides)
        inputs = self._inputs(pixels, required_inputs(scores) | self._decides_on)
        params = {
            key: value for name in names for key, value in self.recipe.parameters[name].items()
        }
        cosine, label = inputs["cosines"].max(dim=-1)
        probability = (self.model.scale * inputs["cosines"]).softmax(dim=-1).amax(dim=-1)
        columns = compute_scores(scores, inputs, params) | {
            "label": label,
            "cosine": cosine,
            "probability": probability,
        }
        columns |= {REJECTED + name: rejected for name, rejected in decide(inputs).items()}
        return {name: column.cpu().numpy() for name, column in columns.items()}

    @torch.inference_mode()
    def _inputs(self, pixels: Tensor, needs: set[str]) -> dict[str, Tensor]:
        with self._precision.context(self.device):
            return self.model.inputs(pixels.to(self.device), self.model.features, needs)

    def _verdict(self, image: Input, row: dict[str, Any]) -> Verdict:
        score, limit = float(row[self.score]), self.threshold and self.threshold.value
        ctw, atd = (_said(row.get(REJECTED + name)) for name in ("CTW", "ATD"))
        return Verdict(
            image=_name(image),
            label=int(row["label"]),
            classname=self.recipe.classnames[int(row["label"])],
            probability=float(row["probability"]),
            cosine=float(row["cosine"]),
            score=score,
            threshold=limit,
            verdict=_said(None if limit is None else score < limit),
            ctw=ctw,
            atd=atd,
        )


def _described(model: clip.ClipModel, classnames: Sequence[str], template: str) -> PromptedCLIP:
    """`model` with these classes, and with its "no" text encoder if it has one."""
    device, pairs = next(model.parameters()).device, template_pairs(template)
    if model.has_negation:
        encoder = clip.build_no_encoder(model, "").to(device)
        return TwoBranchCLIP(model, encoder, classnames, pairs)
    standard = [template for template, _ in pairs]
    return PromptedCLIP(model, lambda: classifier(model.encode_text, classnames, standard, device))


def describe_clip(model: clip.ClipModel) -> dict[str, str]:
    """What must be the same for features to be; a file's path is absolute, to be found again."""
    name = os.path.abspath(model.name) if os.path.exists(model.name) else model.name
    return {"name": name, "weights_hash": model.weights_hash, "activation": model.activation}


def transform_of(model: clip.ClipModel) -> dict[str, Any]:
    """The transform that CLIP was trained with, as a recipe says it."""
    return {
        "size": [model.image_size] * 2,
        "interpolation": model.interpolation,
        "mean": list(model.mean),
        "std": list(model.std),
    }


def _said(rejected: bool | None) -> str:
    return "" if rejected is None else "OOD" if rejected else "ID"


def _device(asked: torch.device | str) -> torch.device:
    return torch.device(asked) if asked else local_device()


def _name(image: Input) -> str:
    """The path of an image, of a PIL image too if it was read from a file."""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    return getattr(image, "filename", "")
