"""The registry of scores: `score` decorates a function, which becomes a `Score`."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


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


def score(name: str, in_all: bool = True) -> Callable:
    """Register a score function under `name`; unless `in_all`, only its name selects it.

    Its positional arguments are the inputs it needs, its keyword-only arguments its parameters. A
    parameter without a default, and a name used twice, raise TypeError at import.
    """

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        arguments = inspect.signature(function).parameters.values()
        needs = tuple(a.name for a in arguments if a.kind is not a.KEYWORD_ONLY)
        parameters = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
        if any(default is inspect.Parameter.empty for default in parameters.values()):
            raise TypeError(f"score {name}: every parameter needs a default, got {parameters}")
        if name in SCORES:
            raise TypeError(f"score {name} is registered twice")
        SCORES[name] = Score(name, needs, function, parameters, in_all)
        return function

    return register
