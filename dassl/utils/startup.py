"""Modules that the libraries below us import and do not use until something rare happens.

For a command that is over in seconds, and only for one: `detect.py`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

# torchvision's ops ask torch's compiler whether it runs, when they are compiled; open_clip builds
# timm's towers. Both took as long to import as all the rest, for a verdict on one image.
RARE = ("torch._dynamo", "torch._dynamo.utils", "timm", "timm.layers")


class _Later(ModuleType):
    """Stands for a module: what is taken from it imports the real one when called."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)

        def later(*arguments, **named):
            _forget(self)  # else it would find itself, if it is called within the block
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **named)

        return later


def _forget(stub: _Later) -> None:
    if sys.modules.get(stub.__name__) is stub:
        del sys.modules[stub.__name__]


@contextmanager
def deferred(names: tuple[str, ...] = RARE) -> Iterator[None]:
    """Within the block, imports of the modules `names` that are not loaded cost nothing.

    Afterwards an import of them is a real one again. A library that does more with one of them
    than to call its functions later fails in the block: that is passed over, and what is imported
    after the block finds the real modules.
    """
    stubs = [_Later(name) for name in names if name not in sys.modules]
    sys.modules.update({stub.__name__: stub for stub in stubs})
    try:
        yield
    except (ImportError, AttributeError, TypeError, RuntimeError):
        pass  # what a stub is no good for
    finally:
        for stub in stubs:
            _forget(stub)
