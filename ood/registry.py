"""The registry of scores: `score` decorates a function, which becomes a `Score`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dassl.utils.errors import InputError


@dataclass(frozen=True)
class Score:
    """A registered score: `function(*needs, **parameters) -> [B]`, higher = more ID.

    `facts`: entries for a results file beside the parameters.
    """

    name: str
    needs: tuple[str, ...]
    function: Callable[..., Tensor]
    parameters: dict[str, float]  # name -> default
    in_all: bool = True  # part of "all"
    facts: dict[str, Any] = field(default_factory=dict)


SCORES: dict[str, Score] = {}

# Inputs whose columns are words that are not classes.
FROM_WORDS = {"neglabel_negatives_logits", "csp_negatives_logits", "eoe_outliers_cosines"}


def score(name: str, in_all: bool = True) -> Callable:
    """Register a score function under `name`; unless `in_all`, only its name selects it.

    Its positional arguments are the inputs it needs, its keyword-only arguments its parameters. A
    parameter without a default, and a name that another function has, raise TypeError at import;
    the same function defined again, as in a notebook's cell, replaces the earlier one. The
    registered function checks its inputs, as it may be called from anywhere.
    """

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        arguments = inspect.signature(function).parameters.values()
        needs = tuple(a.name for a in arguments if a.kind is not a.KEYWORD_ONLY)
        parameters = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
        if any(default is inspect.Parameter.empty for default in parameters.values()):
            raise TypeError(f"score {name}: every parameter needs a default, got {parameters}")
        place, earlier = _place(function), name in SCORES and _place(SCORES[name].function)
        if earlier and (earlier != place or place.endswith("<lambda>")):  # all lambdas: one name
            raise TypeError(
                f"score {name} is registered twice, by {earlier} and {place}: give one another "
                f'name, or remove the earlier one first, del ood.scores.SCORES["{name}"]'
            )

        @functools.wraps(function)
        def checked(*args: Tensor, **kwargs: Any) -> Tensor:
            given = dict(zip(needs, args, strict=False)) | kwargs
            # In an export, shapes are part of the trace.
            if not (torch.jit.is_tracing() or torch.compiler.is_compiling()):
                _check_shapes(name, {need: given[need] for need in needs if need in given})
            return function(*args, **kwargs)

        SCORES[name] = Score(name, needs, checked, parameters, in_all)
        return checked

    return register


def _place(function: Callable) -> str:
    """Return where a function, or another callable, is defined."""
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"


def image_shape(need: str, x: Tensor) -> torch.Size:
    """Return the shape of the images of an input: [B] of [B, C], and [] of one image's [C]."""
    if need.endswith(("cosines", "logits")):
        return x.shape[: x.dim() - 1 - ("local" in need)]
    return x.shape[:1]


def _check_shapes(name: str, inputs: Mapping[str, Any]) -> None:
    """Raise InputError for inputs that are no tensors, or that torch would broadcast."""
    if other := [need for need, x in inputs.items() if not isinstance(x, Tensor)]:
        kind = type(inputs[other[0]]).__name__
        raise InputError(f"score {name}: {other[0]} must be a torch tensor, not {kind}")
    images, classes = [], []
    for need, x in inputs.items():
        images.append(image_shape(need, x))
        of_classes = need.endswith(("cosines", "logits")) and need not in FROM_WORDS
        classes += x.shape[-1:] if of_classes else []
    # Not as sets: the sizes of an exported program are symbols.
    if any(x != images[0] for x in images) or any(x != classes[0] for x in classes):
        found = ", ".join(f"{need} {[*x.shape]}" for need, x in inputs.items())
        raise InputError(
            f"score {name}: the shapes of its inputs are {found}. Cosines and logits must be "
            "[B, C], local ones [B, N, C], all of the same B images and C classes"
        )
