"""Look up, check and compute scores: by name, of their inputs, with their parameters."""

import functools
import logging
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dassl.utils.errors import InputError
from dassl.utils.names import check_availability
from ood import word_scores  # noqa: F401 (registers its scores)
from ood.library import PREFIX, library_score
from ood.registry import Score
from ood.scores import SCORES, check_temperature

logger = logging.getLogger(__name__)

_NO_WORDS = (
    "no words that are not classes: {score} needs --negatives, a folder of word lists or wordnet"
)
# What goes wrong when an input is absent, for the inputs a model may be unable to give.
ABSENCE = {
    "local_cosines": "no local features: {score} would silently equal MCM",
    "no_logits": 'the model has no "no" text encoder: {score} is for a CLIPN, --trainer CLIPN',
    "neglabel_logits": _NO_WORDS,
    "csp_logits": _NO_WORDS,
    "eoe_cosines": "no names of outliers: {score} needs --outliers FILE, with a name a line",
    "candidate_lse": "the model writes no captions: {score} is for ZOC, --trainer ZOC",
    "frozen_cosines": "the model has no frozen prompts: {score} is for FA, --trainer FA",
}


def get_scores(names: str | Iterable[str]) -> list[Score]:
    """Return scores by name, in the order asked; "all": every usual one. Detectors of pytorch-ood
    (`ood.library`) are still to be fitted.

    Raises InputError for an unknown name (with the nearest one), a repeated one, or none.
    """
    if names == "all":
        return [s for s in SCORES.values() if s.usual]
    names = [names] if isinstance(names, str) else list(names)
    if not names or len(set(names)) != len(names):
        raise InputError(f'scores {names}: name at least one, each once, or say "all"')
    return [_find(name) for name in names]


def _find(name: str) -> Score:
    if name.startswith(PREFIX):
        return library_score(name)
    check_availability(name, SCORES, "score")
    return SCORES[name]


def required_inputs(scores: Iterable[Score]) -> set[str]:
    """Return all inputs that `scores` need: local features are computed only if asked for."""
    return {need for s in scores for need in s.needs}


def offered_scores(names: str | Iterable[str], provides: Iterable[str]) -> list[Score]:
    """Return scores as `get_scores`, for a model that `provides` these inputs: "all" means those
    it can give; any other that it lacks the inputs for is an InputError."""
    provides = set(provides)
    if names == "all":
        return [s for s in get_scores("all") if provides.issuperset(s.needs)]
    scores = get_scores(names)
    for s in scores:
        for need in s.needs:
            if need not in provides:
                raise _missing(s.name, need, sorted(provides))
    return scores


def scores_beside_usual(name: str, provides: Iterable[str]) -> list[Score]:
    """Return the usual scores that a model can give, and the score `name` if it is another."""
    offered = offered_scores("all", provides)
    return offered + [s for s in offered_scores(name or "all", provides) if not s.usual]


def compute_scores(
    scores: Iterable[Score], inputs: Mapping[str, Tensor], params: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Compute every score of a batch: name -> [B], float32 (float64 if the inputs are float64).

    Each function gets the inputs it needs and those of `params` which it declares. Raises
    InputError for an absent or non-finite input, and for a parameter that no registered score
    declares or that is not a finite number.
    """
    scores = list(scores)
    params = params or {}
    _check_params(params)
    _check_inputs(scores, inputs)
    results = {}
    for s in scores:
        own = {name: float(params[name]) for name in s.parameters if name in params}
        results[s.name] = s.function(*(inputs[need] for need in s.needs), **own)
    _warn_if_one_class(inputs, results)
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
            raise InputError(f"score parameter {name} = {value!r}: it must be a finite number")
        if name.endswith("temperature"):
            check_temperature(value)


def _check_inputs(scores: list[Score], inputs: Mapping[str, Tensor]) -> None:
    user = {need: s.name for s in reversed(scores) for need in s.needs}  # first score to need it
    for need, name in user.items():
        x = inputs.get(need)
        if x is None:
            raise _missing(name, need, [k for k in inputs if inputs[k] is not None])
        # aminmax passes NaN on and allocates nothing: isfinite would copy a large local tensor.
        if x.numel() and not torch.isfinite(torch.stack(torch.aminmax(x))).all():
            bad = (~torch.isfinite(x)).reshape(len(x), -1).any(dim=1).nonzero().flatten().tolist()
            raise InputError(
                f"score {name}: {need} holds NaN or infinite values for {len(bad)} of {len(x)} "
                f"images (first in the batch: {bad[0]}); half precision may have overflowed: try "
                "fp32"
            )


def _missing(name: str, need: str, found: list[str]) -> InputError:
    reason = ABSENCE.get(need, "{score} needs them").format(score=name)
    found = ", ".join(found) or "nothing"
    return InputError(f'score {name}: the input "{need}" is missing ({reason}); got {found}')


_warn_once = functools.cache(logger.warning)


def _warn_if_one_class(inputs: Mapping[str, Tensor], results: Mapping[str, Tensor]) -> None:
    if any(x is not None and x.dim() > 1 and x.shape[-1] == 1 for x in inputs.values()):
        flat = [n for n, v in results.items() if v.numel() > 1 and bool((v == v[0]).all())]
        if flat:
            _warn_once(
                f"there is a single class: a softmax over it is always 1, so {', '.join(flat)} "
                "cannot tell images apart; use MaxLogit or Energy, or add classes"
            )
