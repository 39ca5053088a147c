"""Checks of names that users type, with suggestions of known names."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from .errors import InputError, UnknownNameError

NEAR = 0.6  # similarity, from 0 to 1, from which a name may have been meant
LISTED = 12  # names in a message


def split_commas(text: str) -> list[str]:
    """Return the entries of `text`, which are separated by commas."""
    return [name.strip() for name in text.split(",")]


def get_most_similar_str_to_a_from_b(a: str, b: Iterable[str]) -> str | None:
    """Return the string of `b` most similar to `a` (case ignored), None if `b` is empty."""
    return max(b, key=lambda name: _similarity(a, name), default=None)


nearest_name = get_most_similar_str_to_a_from_b


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint for the user who typed the unknown `name`: known names, and the nearest."""
    known = list(known)
    nearest = nearest_name(name, known)
    is_near = nearest is not None and _similarity(name, nearest) >= NEAR
    if len(known) <= LISTED:
        listed = [f"Known: {', '.join(known) or 'none'}."]
    else:
        listed = [] if is_near else [f"There are {len(known)}: {', '.join(known[:LISTED])}, ..."]
    return " ".join(listed + [f"Did you mean {nearest!r}?"] * is_near)


def check_availability(requested: str, available: Iterable[str], what: str = "name") -> None:
    """Raise UnknownNameError unless `requested` is in `available`; `what` says what it names."""
    available = list(available)
    if requested not in available:
        raise UnknownNameError(
            f"Unknown {what} {str(requested)!r}. {suggest(str(requested), available)}"
        )


def check_set_name(name: str) -> None:
    """Raise InputError unless an image set may be called `name`: files are named after it."""
    if not re.fullmatch(r"[^\W_][\w .+-]*", name):
        raise InputError(
            f'image set "{name}": its name becomes a file name; give one that starts with a letter '
            "or digit and holds only letters, digits, spaces and . + - _"
        )


def classnames_hash(names: Sequence[str]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the names, one a line, in label order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _similarity(a: str, b: str) -> float:
    return SequenceMatcher(None, a.lower(), b.lower()).ratio()
