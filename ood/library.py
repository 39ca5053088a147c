"""Detectors of pytorch-ood as scores: `pytorch-ood:ViM`, `pytorch-ood:KNN:k=10`.

The library is optional (requirements-baselines.txt) and imported when a score names it. Its
detectors read normalised image features [B, D], or logits [B, C], `exp(logit_scale) * cosines`. The
linear layer that some of them use has the class texts times `exp(logit_scale)` as its weight and no
bias: it maps normalised features to exactly these logits.

In the library higher = more OOD; only `LibraryScore.fitted` changes the sign.
"""

import inspect
import logging
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from clip.prompted import cosines
from dassl.utils.errors import InputError, UnknownNameError
from dassl.utils.names import check_availability, nearest_name
from ood.registry import SCORES, Score
from ood.scores import compute_dtype

PREFIX = "pytorch-ood:"
INPUTS = {"FeaturesDetector": "features", "LogitsDetector": "logits"}  # base class -> input
UNAVAILABLE = {  # base class -> what it needs
    "GradientDetector": "gradients through the image tower",
    "FeatureMapsDetector": "feature maps that are pooled into a linear layer",
    "StructuredDetector": "the features of several layers",
    "Detector": "passes of the images themselves",
}
COUNTS = {"d", "M"}  # whole numbers without a default
AVAILABLE = {"model", "encoder", "w", "b", "head", "text_embeddings", "d", "p"}  # see `_arguments`


@dataclass(frozen=True, kw_only=True)
class LibraryScore(Score):
    """A detector of pytorch-ood as a score; it scores once it is `fitted`.

    Attributes:
        detector_class: its class there. chosen: hyper-parameters set in the score's name.
    """

    detector_class: Any
    chosen: dict[str, float]

    def fitted(self, text: Tensor, scale: Tensor, train: tuple[Tensor, Tensor] | None) -> Score:
        """Return the score of the detector fitted to training images.

        Args:
            text: class texts `[C, D]`, float32. scale: exp(logit_scale).
            train: features `[n, D]` and labels `[n]`; None if the detector needs no fit.

        Raises:
            InputError: the detector refuses these images, or its hyper-parameters.
        """

        def to_input(features: Tensor) -> Tensor:
            return features if self.needs == ("features",) else scale * cosines(features, text)

        arguments, count = self._arguments(text, scale), len(train[1]) if train else 0
        defaults = hyperparameters(self.detector_class)
        facts = {name: arguments.get(name, default) for name, default in defaults.items()}
        try:
            detector = self.detector_class(**arguments)
            if self.detector_class.requires_fit:
                inputs = to_input(train[0]), train[1]
                if self.detector_class.__name__ == "KNN":
                    inputs = [x.cpu() for x in inputs]  # scikit-learn reads NumPy arrays
                getattr(detector, f"fit_{self.needs[0]}")(*inputs)
            self._check_chosen(detector)
            predict = getattr(detector, f"predict_{self.needs[0]}")
            predict(to_input(text[:1]))  # some detectors refuse hyper-parameters only now
        except (ValueError, TypeError, AssertionError, RuntimeError) as error:
            reason = str(error) or "a class has no image"
            raise InputError(
                f"{self.name} on {count} training images: {reason}. Set its hyper-parameters "
                f"({', '.join(facts) or 'none'}) as in {PREFIX}KNN:k=10"
            ) from error

        def score(inputs: Tensor) -> Tensor:
            """Return the score, higher = more ID: [B, D] or [B, C] -> [B]."""
            values = -predict(inputs).to(inputs.device, compute_dtype(inputs))
            if not values.isfinite().all():
                raise InputError(f"{self.name} is NaN or infinite for some images: leave it out")
            return values

        facts |= {"fitted_images": count} if self.detector_class.requires_fit else {}
        return replace(self, function=score, facts=facts | {"version": version("pytorch-ood")})

    def _check_chosen(self, detector: Any) -> None:
        """Raise ValueError if the fit changed a hyper-parameter, as ViM reduces too large a d."""
        for key, value in self.chosen.items():
            if (used := getattr(detector, key, value)) != value:
                raise ValueError(f"{key}={value:g} does not fit these features, it took {used}")

    def _arguments(self, text: Tensor, scale: Tensor) -> dict[str, Any]:
        """Return the detector's arguments: those without a default, and `chosen`."""
        head = torch.nn.utils.skip_init(torch.nn.Linear, *reversed(text.shape), device=text.device)
        head.weight.data, head.bias.data = scale * text, text.new_zeros(len(text))
        known = {"w": head.weight, "b": head.bias, "head": head, "text_embeddings": text}
        # ViM's 512 would be all of ViT-B/16's features; 0.7 is DICE's p for ImageNet.
        known |= {"d": text.shape[1] // 2, "p": 0.7}
        return {name: known.get(name) for name in required(self.detector_class)} | self.chosen


def library_score(name: str) -> LibraryScore:
    """Return the score `pytorch-ood:DETECTOR`, or `pytorch-ood:DETECTOR:NAME=VALUE`, unfitted.

    Raises:
        InputError: pytorch-ood is not installed, has no such detector or hyper-parameter, or the
            detector needs more than the features of an image.
    """
    detectors, (detector, *pairs) = _detectors(), name.removeprefix(PREFIX).split(":")
    known = f"Known: {', '.join(n for n, kind in detectors.items() if not missing_inputs(kind))}."
    if detector not in detectors:
        meant = f"Did you mean {nearest_name(detector, detectors)!r}?"
        raise UnknownNameError(f"Unknown detector of pytorch-ood {detector!r}. {meant} {known}")
    detector_class = detectors[detector]
    if missing := missing_inputs(detector_class):
        ours = f" Ours is --scores {detector}." if detector in SCORES else ""
        raise InputError(f"{name} needs {missing}; here it gets only an image's features.{ours}")
    chosen, defaults = {}, hyperparameters(detector_class)
    for key, _, value in (pair.partition("=") for pair in pairs):
        check_availability(key, defaults, f"hyper-parameter of {detector}")
        if key in chosen:
            raise InputError(f"{name} gives {key} twice: leave one out")
        whole = key in COUNTS or isinstance(defaults[key], int)
        try:
            chosen[key] = int(value) if whole or value.isdecimal() else float(value)
        except ValueError as error:
            number = "a whole number" if whole else "a number"
            raise InputError(f"{name}: {key} must be {number}, not {value!r}") from error
    needs = tuple(INPUTS[base] for base in _bases(detector_class) if base in INPUTS)
    keywords = {"in_all": False, "detector_class": detector_class, "chosen": chosen}
    return LibraryScore(name, needs, _unfitted, {}, **keywords)


def _detectors() -> dict[str, Any]:
    try:
        from pytorch_ood import detector
    except ImportError as error:
        raise InputError(
            f"scores {PREFIX}NAME need a library that is not installed ({error}): "
            "pip install -r requirements-baselines.txt"
        ) from error
    logging.getLogger("pytorch_ood").setLevel(logging.WARNING)
    members = {name: getattr(detector, name) for name in detector.__all__}
    return {name: member for name, member in members.items() if inspect.isclass(member)}


def _bases(detector_class: Any) -> list[str]:
    return [base.__name__ for base in detector_class.__mro__]


def missing_inputs(detector_class: Any) -> str:
    """Return what a detector needs beside the features of an image, "" if nothing."""
    bases = _bases(detector_class)
    if INPUTS.keys().isdisjoint(bases):
        return next(UNAVAILABLE[base] for base in bases if base in UNAVAILABLE)
    missing = [name for name in required(detector_class) if name not in AVAILABLE]
    return ", ".join(f"{name} of its own training" for name in missing)


def required(detector_class: Any) -> list[str]:
    """Return the arguments of a detector that have no default."""
    params = inspect.signature(detector_class).parameters.values()
    return [p.name for p in params if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def hyperparameters(detector_class: Any) -> dict[str, float | None]:
    """Return the hyper-parameters of a detector with their defaults, None without a default."""
    parameters = inspect.signature(detector_class).parameters
    defaults = {n: p.default for n, p in parameters.items() if isinstance(p.default, int | float)}
    return {**dict.fromkeys(detector_class.hyperparameter_space), **defaults}


def _unfitted(inputs: Tensor) -> Tensor:
    raise InputError("a detector of pytorch-ood must be fitted first, by eval_ood.py")
