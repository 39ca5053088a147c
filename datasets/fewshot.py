"""Few-shot sampling, images held out for testing, and the record of both."""

import hashlib
import logging
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from dassl.data.datasets import DatasetBase, Datum
from dassl.utils.errors import InputError

logger = logging.getLogger(__name__)


def few_shot(items: Sequence[Datum], num_shots: int, seed: int) -> list[Datum]:
    """Draw `num_shots` items of every class, the same as CoOp and LoCoOp draw.

    Args:
        items: a training set, sorted in each class for the same draw on every machine.
        num_shots: items of each class, or -1 for all. A class that has fewer is taken whole,
            without drawing a random number.
        seed: 0 or more, of a private generator.

    Returns:
        The selected items, class by class in label order, in the order they were drawn.

    Raises:
        InputError: `num_shots` is 0 or below -1, or the seed is negative.

    Differs from upstream: the generator is private (upstream seeds and consumes Python's global
    one), classes go in label order (upstream: by first appearance, the same for sorted
    listings), and 0 shots are refused (upstream takes all).
    """
    if num_shots != -1:
        items = sorted(items, key=lambda item: item.label)  # stable: keeps the listing order
    return draw_as_listed(items, num_shots, seed, random.Random(seed))


def draw_as_listed(
    items: Sequence[Datum], num_shots: int, seed: int, rng: random.Random
) -> list[Datum]:
    """Draw like `few_shot`, classes in order of appearance, with `rng`, seeded by `seed`."""
    check_shots(num_shots, seed)
    if num_shots == -1:
        return list(items)
    counts = Counter(f"{item.label} ({item.classname})" for item in items)
    if few := [name for name, count in counts.items() if count < num_shots]:
        logger.warning(
            f"{len(few)} of {len(counts)} classes have fewer than {num_shots} training images and "
            f"are taken whole, such as {few[0]} with {counts[few[0]]}"
        )
    return DatasetBase().generate_fewshot_dataset(items, num_shots=num_shots, rng=rng)


def check_shots(num_shots: int, seed: int) -> None:
    """Raise InputError unless `num_shots` is -1, or 1 or more with a seed of 0 or more."""
    if num_shots == 0 or num_shots < -1:
        raise InputError(
            f"DATASET.NUM_SHOTS is {num_shots}. Allowed: 1 or more images of each class, or -1 "
            "for the whole training set."
        )
    if num_shots > 0 and seed < 0:  # Python would take the absolute value: -1 would act as 1
        raise InputError(f"Few-shot sampling needs a seed, --seed 0 or more; SEED is {seed}.")


def part_of_classes(count: int, part: str) -> range:
    """Return the labels that DATASET.SUBSAMPLE_CLASSES keeps of `count` classes.

    `part` is `all`, `base` (the first half, rounded up) or `new` (the rest): CoCoOp's
    base-to-new setting (Zhou et al., CVPR 2022).

    Raises:
        InputError: `part` is another word, or no class is left.
    """
    half = (count + 1) // 2
    parts = {"all": range(count), "base": range(half), "new": range(half, count)}
    if not parts.get(part):
        raise InputError(
            f"DATASET.SUBSAMPLE_CLASSES is {part!r} of {count} classes. Allowed: all, base (the "
            "first half, rounded up) or new (the rest, of at least two classes)."
        )
    return parts[part]


def keep_classes(items: Sequence[Datum], part: range) -> list[Datum]:
    """Return the images whose labels are in `part`, relabelled from 0."""
    return [
        Datum(item.impath, item.label - part.start, item.domain, item.classname)
        for item in items
        if item.label in part
    ]


def hold_out(items: Sequence[Datum], share: float, root: str) -> tuple[list[Datum], list[Datum]]:
    """Divide `items` into (kept, held out): `share` of every class, at least one image of two.

    The images whose paths under `root` have the smallest hashes are held out: the choice depends
    on neither a seed nor the machine, and few images change sides when some are added.

    Raises:
        InputError: `share` is not between 0 and 1, or nothing would be held out.
    """
    if not 0 < share < 1:
        raise InputError(
            f"DATASET.VAL_PERCENT is {share}: the share of images held out for testing must lie "
            "between 0 and 1, as 0.2"
        )
    classes = DatasetBase.split_dataset_by_label(items)
    held: set[str] = set()
    for members in classes.values():
        count = min(len(members) - 1, max(1, round(share * len(members))))
        paths = [item.impath for item in members]
        held.update(sorted(paths, key=lambda path: _hash(path, root))[:count])
    if not held:
        raise InputError(
            f"Every class in {root} has one image, which leaves none to test on. Add images there, "
            "or put test images into val/<class>/"
        )
    return (
        [item for item in items if item.impath not in held],
        [item for item in items if item.impath in held],
    )


def split_record(
    items: Sequence[Datum],
    root: str | Path,
    num_shots: int,
    seed: int,
    held_out: Sequence[Datum] = (),
) -> dict:
    """Return the training images of a run as a record for JSON.

    Rows of `train` are `[path, label, class name]`, as in CoOp's split files. Paths are
    posix, relative to `root`, or absolute if the images lie elsewhere. `held_out` has the
    images that the data set itself held out, if any.
    """
    names = {item.label: item.classname for item in items}
    record = {
        "seed": seed,
        "num_shots": num_shots,
        "classnames": [names[label] for label in sorted(names)],
        "train": _rows(items, root),
    }
    return record | ({"held_out": _rows(held_out, root)} if held_out else {})


def _rows(items: Sequence[Datum], root: str | Path) -> list[list]:
    return [[_relative(item.impath, root), item.label, item.classname] for item in items]


def _relative(impath: str, root: str | Path) -> str:
    path = PurePath(os.path.abspath(impath))
    root = os.path.abspath(root)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _hash(impath: str, root: str) -> str:
    return hashlib.sha256(os.fsencode(_relative(impath, root))).hexdigest()
