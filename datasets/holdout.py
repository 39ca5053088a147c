"""Hold out a part of a training set for testing, where nobody has set one apart."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence

from dassl.data.datasets import Datum
from dassl.utils.errors import InputError


def hold_out(items: Sequence[Datum], share: float, root: str) -> tuple[list[Datum], list[Datum]]:
    """Divide `items` in (kept, held out): `share` of every class, at least one image of two.

    Held out are those whose path under `root` has the smallest hash, so the choice depends on
    neither a seed nor the machine, and few images change sides when some are added.

    Raises:
        InputError: `share` is not between 0 and 1, or nothing would be held out.
    """
    if not 0 < share < 1:
        raise InputError(
            f"DATASET.VAL_PERCENT is {share}: the share of images held out for testing lies "
            "between 0 and 1, as 0.2"
        )
    classes = defaultdict(list)
    for item in items:
        classes[item.label].append(item)
    held = {item.impath for own in classes.values() for item in _chosen(own, share, root)}
    if not held:
        raise InputError(
            f"{len(items)} images in {len(classes)} classes of one image each leave none to test "
            f"on. Add images to {root}, or put test images into val/<class>/"
        )
    return (
        [item for item in items if item.impath not in held],
        [item for item in items if item.impath in held],
    )


def _chosen(items: list[Datum], share: float, root: str) -> list[Datum]:
    count = min(len(items) - 1, max(1, round(share * len(items))))
    return sorted(items, key=lambda item: _hash(os.path.relpath(item.impath, root)))[:count]


def _hash(path: str) -> str:
    return hashlib.sha256(os.fsencode(path.replace(os.sep, "/"))).hexdigest()
