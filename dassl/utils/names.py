"""Names that users type: what is known, and which known name is nearest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from .errors import InputError, UnknownNameError


def get_most_similar_str_to_a_from_b(a: str, b: Iterable[str]) -> str | None:
    """Return the string of `b` most similar to `a` (case ignored), None if `b` is empty."""
    return max(b, key=lambda name: _similarity(a, name), default=None)


nearest_name = get_most_similar_str_to_a_from_b


def check_availability(requested: str, available: Iterable[str], what: str = "name") -> None:
    """Raise UnknownNameError unless `requested` is in `available`; `what` names the kind."""
    available = list(available)
    if requested in available:
        return
    nearest = nearest_name(str(requested), available)
    raise UnknownNameError(
        f"Unknown {what} {str(requested)!r}. Known: {', '.join(available) or 'none'}."
        + (f" Did you mean {nearest!r}?" if nearest is not None else "")
    )


def check_set_name(name: str) -> None:
    """Raise InputError unless an image set may be called `name`: files are named after it."""
    if not re.fullmatch(r"[^\W_][\w .+-]*", name):
        raise InputError(
            f'image set "{name}": its name becomes a file name, so it may hold letters, '
            "digits, spaces and . + - _ and starts with a letter or digit"
        )


def classnames_hash(names: Sequence[str]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the names, one a line, in label order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _similarity(a: str, b: str) -> float:
    return SequenceMatcher(None, a.lower(), b.lower()).ratio()
