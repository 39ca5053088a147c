"""Look up scores by name, check their inputs and parameters, and compute them."""

import functools
import logging
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dassl.utils import InputError, check_availability
from ood import word_scores  # noqa: F401  (registers its scores)
from ood.library import PREFIX, library_score
from ood.registry import FROM_WORDS, Score, image_shape
from ood.scores import SCORES, check_temperature

logger = logging.getLogger(__name__)

_NO_WORDS = (
    "no words that are not classes: {score} needs --negatives, a folder of word lists or wordnet"
)
# The reasons for a missing input, where a model may not provide it.
ABSENCE = {
    "local_cosines": "no local features: {score} would silently equal MCM",
    "no_logits": 'the model has no "no" text encoder: {score} is for CLIPN, --trainer CLIPN',
    "neglabel_logits": _NO_WORDS,
    "csp_logits": _NO_WORDS,
    "eoe_cosines": "no outlier names: {score} needs --outliers FILE, with one name a line",
    "candidate_lse": "the model writes no captions: {score} is for ZOC, --trainer ZOC",
    "frozen_cosines": "the model has no frozen prompts: {score} is for FA, --trainer FA",
}


def get_scores(names: str | Iterable[str]) -> list[Score]:
    """Return scores by name, in the given order; "all" means all that are `in_all`. Detectors of
    pytorch-ood (`ood.library`) must still be fitted.

    Raises InputError if a name is unknown (naming the nearest one) or repeated, or there is none.
    """
    if names == "all":
        return [s for s in SCORES.values() if s.in_all]
    names = [names] if isinstance(names, str) else list(names)
    if not names or len(set(names)) != len(names):
        raise InputError(f'scores {names}: give one or more names, each once, or "all"')
    return [_find(name) for name in names]


def _find(name: str) -> Score:
    if name.startswith(PREFIX):
        return library_score(name)
    check_availability(name, SCORES, "score")
    return SCORES[name]


def required_inputs(scores: Iterable[Score]) -> set[str]:
    """Return the names of all inputs that `scores` need."""
    return {need for s in scores for need in s.needs}


def offered_scores(names: str | Iterable[str], provides: Iterable[str]) -> list[Score]:
    """Return scores as `get_scores` does, for a model that `provides` some inputs: "all" means
    those it has the inputs for; naming one that it lacks an input for raises InputError."""
    provides = set(provides)
    if names == "all":
        return [s for s in get_scores("all") if provides.issuperset(s.needs)]
    scores = get_scores(names)
    for s in scores:
        for need in s.needs:
            if need not in provides:
                raise _missing(s.name, need, sorted(provides))
    return scores


def offered_scores_and(name: str, provides: Iterable[str]) -> list[Score]:
    """Return the scores of "all" that a model has the inputs for, and the score `name`, if any."""
    offered = offered_scores("all", provides)
    return offered + [s for s in offered_scores(name or "all", provides) if not s.in_all]


def compute_scores(
    scores: Iterable[Score], inputs: Mapping[str, Tensor], params: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Compute every score of a batch: name -> [B], float32 (float64 if the inputs are float64).

    Each function gets the inputs it needs and those `params` that it declares. Raises InputError
    if an input is missing or not finite, if a parameter is declared by no registered score or is
    not a finite number, and if a result is not [B], of real numbers, or holds NaN.
    """
    scores = list(scores)
    params = params or {}
    _check_params(params)
    _check_inputs(scores, inputs)
    results = {}
    for s in scores:
        chosen = {name: float(params[name]) for name in s.parameters if name in params}
        results[s.name] = s.function(*(inputs[need] for need in s.needs), **chosen)
        _check_result(s, inputs, results[s.name])
    _check_no_nan(results)
    _warn_if_classes_are_alike(inputs, results)
    return results


def score_parameters(
    scores: Iterable[Score], params: Mapping[str, float] | None = None
) -> dict[str, dict[str, float]]:
    """Return the parameters of each score, defaults included, for a results file."""
    params = params or {}
    _check_params(params)
    return {
        s.name: {name: float(params.get(name, default)) for name, default in s.parameters.items()}
        for s in scores
    }


def _check_params(params: Mapping[str, float]) -> None:
    declared = sorted({name for s in SCORES.values() for name in s.parameters})
    for name, value in params.items():
        check_availability(name, declared, "parameter of scores")
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"score parameter {name} is {value!r}: it must be a finite number")
        if name.endswith("temperature"):
            check_temperature(value)


def _check_inputs(scores: list[Score], inputs: Mapping[str, Tensor]) -> None:
    first_user = {need: s.name for s in reversed(scores) for need in s.needs}
    for need, name in first_user.items():
        x = inputs.get(need)
        if x is None:
            raise _missing(name, need, [k for k in inputs if inputs[k] is not None])
        # aminmax propagates NaN and allocates nothing; isfinite would copy a large local tensor.
        if x.numel() and not torch.isfinite(torch.stack(torch.aminmax(x))).all():
            bad = (~torch.isfinite(x)).reshape(len(x), -1).any(dim=1).nonzero().flatten().tolist()
            raise InputError(
                f"score {name}: {need} holds NaN or infinite values for {len(bad)} of {len(x)} "
                f"images (first in the batch: {bad[0]}). Half precision may have overflowed: try "
                "fp32"
            )


def _check_result(s: Score, inputs: Mapping[str, Tensor], x: Tensor) -> None:
    """Raise InputError unless `x` is a real number for each image."""
    shapes = [image_shape(need, inputs[need]) for need in s.needs]
    if isinstance(x, Tensor) and not x.is_complex() and all(x.shape == shape for shape in shapes):
        return
    given = ", ".join(f"{need} {[*inputs[need].shape]}" for need in s.needs)
    found = f"{x.dtype} {[*x.shape]}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
    raise InputError(
        f"score {s.name}: its function returned {found} for {given}; it must return a tensor [B], "
        "one real number for each image, such as cosines.amax(dim=-1) or cosines.max(dim=-1).values"
    )


def _check_no_nan(results: Mapping[str, Tensor]) -> None:
    nan = {name: x.isnan().flatten() for name, x in results.items()}
    if sum(x.sum() for x in nan.values()):  # waits for the device once, not once for each score
        name = next(name for name, x in nan.items() if x.any())
        bad = nan[name].nonzero().flatten().tolist()
        raise InputError(
            f"score {name}: its function returned NaN for {len(bad)} of {len(nan[name])} images "
            f"(first in the batch: {bad[0]}), whose inputs are finite: mend it, or leave the score "
            "out"
        )


def _missing(name: str, need: str, provided: list[str]) -> InputError:
    reason = ABSENCE.get(need, "{score} needs it").format(score=name)
    inputs = ", ".join(provided) or "nothing"
    return InputError(f'score {name}: the input "{need}" is missing ({reason}); got {inputs}')


_warn_once = functools.cache(logger.warning)


def _warn_if_classes_are_alike(inputs: Mapping[str, Tensor], results: Mapping[str, Tensor]) -> None:
    """Warn of scores that are the same for all images of a batch because all classes are: there is
    one class, or the CLIP knows none of the words in the class names."""
    of_classes = [x for name, x in inputs.items() if name not in FROM_WORDS]
    rows = [x.flatten(end_dim=-2) for x in of_classes if x is not None and x.dim() > 1 and len(x)]
    if any(_is_constant(x[0]) for x in rows):  # [C], of the first image or region
        constant = [n for n, v in results.items() if v.numel() > 1 and _is_constant(v)]
        if constant:
            _warn_once(
                "there is a single class, or all class names are the same to this CLIP: a softmax "
                f"over them is the same for every image, so {', '.join(constant)} cannot tell "
                "images apart; use MaxLogit or Energy, or change the classes"
            )


def _is_constant(x: Tensor) -> bool:
    return torch.allclose(x, x[:1], rtol=1e-4, atol=1e-6)  # equal but for rounding
