"""Hold out a part of a training set for testing, where nobody has set one apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from dassl.data.datasets import DatasetBase, Datum
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
    classes = DatasetBase.split_dataset_by_label(items)
    held: set[str] = set()
    for own in classes.values():
        count = min(len(own) - 1, max(1, round(share * len(own))))
        paths = [item.impath for item in own]
        held.update(sorted(paths, key=lambda path: _hash(path, root))[:count])
    if not held:
        raise InputError(
            f"{len(items)} images in {len(classes)} classes of one image each leave none to test "
            f"on. Add images to {root}, or put test images into val/<class>/"
        )
    return (
        [item for item in items if item.impath not in held],
        [item for item in items if item.impath in held],
    )


def _hash(path: str, root: str) -> str:
    relative = os.path.relpath(path, root).replace(os.sep, "/")
    return hashlib.sha256(os.fsencode(relative)).hexdigest()
