"""Tables of classes by name, filled by a decorator."""

from typing import Any

from .names import check_availability


class Registry:
    """A named table of classes or functions, each under its own `__name__`.

    Used as a decorator (`@REGISTRY.register()`) or called (`REGISTRY.register(obj)`).
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._objects: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Add `obj`; `force` replaces one of the same name, otherwise that is a KeyError."""
        if obj is None:
            return lambda decorated: self.register(decorated, force=force)
        name = obj.__name__
        if name in self._objects and not force:
            raise KeyError(
                f"{name!r} is already registered in {self._name}: rename one, or replace the "
                "earlier one with register(force=True)"
            )
        self._objects[name] = obj
        return obj

    def get(self, name: str) -> Any:
        """Return the object called `name`; UnknownNameError, with a hint, if there is none."""
        check_availability(name, self.registered_names(), what=self._name.lower())
        return self._objects[name]

    def registered_names(self) -> list[str]:
        return list(self._objects)

    def __contains__(self, name: object) -> bool:
        return name in self._objects
