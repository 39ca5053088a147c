"""Detectors of pytorch-ood as scores: `pytorch-ood:ViM`, `pytorch-ood:KNN:k=10`.

The library is optional (requirements-baselines.txt) and imported when a score names it. Its
detectors read normalised image features [B, D], or logits [B, C], `exp(logit_scale) * cosines`. The
linear layer that some look at has the class texts times `exp(logit_scale)` as its weight and no
bias: of normalised features it gives exactly these logits.

Higher = more OOD there; `LibraryScore.fitted` turns the sign, and nothing else does.
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
INPUTS = {"FeaturesDetector": "features", "LogitsDetector": "logits"}  # their bases -> what we give
LACKING = {
    "GradientDetector": "gradients through the image tower",
    "FeatureMapsDetector": "feature maps that are pooled into a linear layer",
    "StructuredDetector": "the features of several layers",
    "Detector": "passes of the images themselves",
}
COUNTS = {"d", "M"}  # whole numbers without a default
GIVEN = {"model", "encoder", "w", "b", "head", "text_embeddings", "d", "p"}  # see `_arguments`


@dataclass(frozen=True, kw_only=True)
class LibraryScore(Score):
    """A detector of pytorch-ood as a score; it scores once it is `fitted`.

    Attributes:
        kind: its class there. chosen: hyper-parameters that its name sets.
    """

    kind: Any
    chosen: dict[str, float]

    def fitted(self, text: Tensor, scale: Tensor, train: tuple[Tensor, Tensor] | None) -> Score:
        """Return the score of the detector fitted to training images.

        Args:
            text: class texts `[C, D]`, float32. scale: exp(logit_scale).
            train: features `[n, D]` and labels `[n]`; None where nothing is fitted.

        Raises:
            InputError: the detector refuses these images, or its hyper-parameters.
        """

        def read(features: Tensor) -> Tensor:
            return features if self.needs == ("features",) else scale * cosines(features, text)

        arguments, count = self._arguments(text, scale), len(train[1]) if train else 0
        facts = {
            name: arguments.get(name, usual) for name, usual in hyperparameters(self.kind).items()
        }
        try:
            detector = self.kind(**arguments)
            if self.kind.requires_fit:
                seen = read(train[0]), train[1]
                if self.kind.__name__ == "KNN":
                    seen = [x.cpu() for x in seen]  # scikit-learn's
                getattr(detector, f"fit_{self.needs[0]}")(*seen)
            self._check_chosen(detector)
            predict = getattr(detector, f"predict_{self.needs[0]}")
            predict(read(text[:1]))  # some hyper-parameters are refused here
        except (ValueError, TypeError, AssertionError, RuntimeError) as error:
            why = str(error) or "a class has no image"
            raise InputError(
                f"{self.name} on {count} training images: {why}. Its hyper-parameters "
                f"({', '.join(facts) or 'none'}) are set as in {PREFIX}KNN:k=10"
            ) from error

        def score(inputs: Tensor) -> Tensor:
            """Return the score, higher = more ID: [B, D] or [B, C] -> [B]."""
            values = -predict(inputs).to(inputs.device, compute_dtype(inputs))
            if not values.isfinite().all():
                raise InputError(f"{self.name} is NaN or infinite for some images: leave it out")
            return values

        facts |= {"fitted_images": count} if self.kind.requires_fit else {}
        return replace(self, function=score, facts=facts | {"version": version("pytorch-ood")})

    def _check_chosen(self, detector: Any) -> None:
        """Raise ValueError if the fit took another hyper-parameter: ViM's d, if it is too large."""
        for key, value in self.chosen.items():
            if (used := getattr(detector, key, value)) != value:
                raise ValueError(f"{key}={value:g} does not fit these features, it took {used}")

    def _arguments(self, text: Tensor, scale: Tensor) -> dict[str, Any]:
        """Return what the detector is made with: what it has no default for, and `chosen`."""
        head = torch.nn.utils.skip_init(torch.nn.Linear, *reversed(text.shape), device=text.device)
        head.weight.data, head.bias.data = scale * text, text.new_zeros(len(text))
        known = {"w": head.weight, "b": head.bias, "head": head, "text_embeddings": text}
        # ViM's 512 would be all of ViT-B/16's features; DICE leaves 70 % of ImageNet's weights out.
        known |= {"d": text.shape[1] // 2, "p": 0.7}
        return {name: known.get(name) for name in required(self.kind)} | self.chosen


def library_score(name: str) -> LibraryScore:
    """Return the score `pytorch-ood:DETECTOR`, or `pytorch-ood:DETECTOR:NAME=VALUE`, unfitted.

    Raises:
        InputError: pytorch-ood is missing, has no such detector or hyper-parameter, or the detector
            needs what the features of an image do not give.
    """
    kinds, (wanted, *pairs) = _detectors(), name.removeprefix(PREFIX).split(":")
    known = f"Known: {', '.join(other for other, kind in kinds.items() if not lacks(kind))}."
    if wanted not in kinds:
        meant = f"Did you mean {nearest_name(wanted, kinds)!r}?"
        raise UnknownNameError(f"Unknown detector of pytorch-ood {wanted!r}. {meant} {known}")
    kind = kinds[wanted]
    if lacking := lacks(kind):
        ours = f" Ours is --scores {wanted}." if wanted in SCORES else ""
        raise InputError(f"{name} needs {lacking}; here it gets an image's features alone.{ours}")
    chosen = {}
    for key, _, value in (pair.partition("=") for pair in pairs):
        check_availability(key, hyperparameters(kind), f"hyper-parameter of {wanted}")
        whole = key in COUNTS or isinstance(hyperparameters(kind)[key], int)
        try:
            chosen[key] = int(value) if whole or value.isdecimal() else float(value)
        except ValueError as error:
            kind_of = "a whole number" if whole else "a number"
            raise InputError(f"{name}: {key} must be {kind_of}, not {value!r}") from error
    needs = tuple(INPUTS[base] for base in _bases(kind) if base in INPUTS)
    return LibraryScore(name, needs, _unfitted, {}, usual=False, kind=kind, chosen=chosen)


def _detectors() -> dict[str, Any]:
    try:
        from pytorch_ood import detector
    except ImportError as error:
        raise InputError(
            f"scores {PREFIX}NAME are those of a library that is not installed ({error}): "
            "pip install -r requirements-baselines.txt"
        ) from error
    logging.getLogger("pytorch_ood").setLevel(logging.WARNING)
    found = {name: getattr(detector, name) for name in detector.__all__}
    return {name: kind for name, kind in found.items() if inspect.isclass(kind)}


def _bases(kind: Any) -> list[str]:
    return [base.__name__ for base in kind.__mro__]


def lacks(kind: Any) -> str:
    """Return what a detector needs that the features of an image do not give, "" if nothing."""
    if INPUTS.keys().isdisjoint(_bases(kind)):
        return next(LACKING[base] for base in _bases(kind) if base in LACKING)
    return ", ".join(f"{name} of its own training" for name in required(kind) if name not in GIVEN)


def required(kind: Any) -> list[str]:
    """Return the arguments that a detector has no default for."""
    named = inspect.signature(kind).parameters.values()
    return [p.name for p in named if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def hyperparameters(kind: Any) -> dict[str, float | None]:
    """Return the hyper-parameters of a detector with their defaults, None where it has none."""
    named = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    found = {name: usual for name, usual in named.items() if isinstance(usual, int | float)}
    return {**dict.fromkeys(kind.hyperparameter_space), **found}


def _unfitted(inputs: Tensor) -> Tensor:
    raise InputError("a detector of pytorch-ood scores images after it was fitted, in eval_ood.py")
