"""The registry of scores: what a decorated function in `ood.scores` becomes."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Score:
    """A registered score: `function(*needs, **parameters) -> [B]`, higher = more ID.

    `facts`: what a results file says of it beside its parameters.
    """

    name: str
    needs: tuple[str, ...]
    function: Callable[..., Tensor]
    parameters: dict[str, float]  # name -> default
    usual: bool = True  # part of "all"
    facts: dict[str, Any] = field(default_factory=dict)


SCORES: dict[str, Score] = {}


def score(name: str, usual: bool = True) -> Callable:
    """Register a score function under `name`; one that is not `usual` must be asked for by it.

    Its positional arguments are the inputs it needs, its keyword-only arguments its parameters. One
    without a numeric default is a TypeError when the module is imported; so is a name used twice.
    """

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        arguments = inspect.signature(function).parameters.values()
        needs = tuple(a.name for a in arguments if a.kind is not a.KEYWORD_ONLY)
        parameters = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
        if any(default is inspect.Parameter.empty for default in parameters.values()):
            raise TypeError(f"score {name}: every parameter needs a default, got {parameters}")
        if name in SCORES:
            raise TypeError(f"score {name} is registered twice")
        SCORES[name] = Score(name, needs, function, parameters, usual)
        return function

    return register
