"""Modules that the libraries below us import and do not use until something rare happens."""

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
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **named)

        return later


@contextmanager
def deferred(names: tuple[str, ...] = RARE) -> Iterator[None]:
    """Within the block, imports of the modules `names` that are not loaded cost nothing.

    Afterwards an import of them is a real one again.
    """
    absent = {name: _Later(name) for name in names if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name, module in absent.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
