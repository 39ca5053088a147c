"""What a set holds, by name, and whether the numbers are the protocol's."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dassl.utils.errors import InputError
from datasets.check import sources
from datasets.check.findings import Problem, counted
from datasets.export import SETS
from datasets.folders import IMAGE_EXTENSIONS, absolute, is_image, some, walk
from datasets.imagenet import VAL_IMAGES_PER_CLASS

IMAGENET_TRAIN_IMAGES = 1_281_167
IMAGENET_CLASSES = 1000


@dataclass
class ImageSet:
    """A set as it lies on the disk.

    Attributes:
        name: its row in the table.
        stops: runs that cannot go ahead with a fault of an image in it.
        classes: the class folders that count, None where there are no classes.
        images: names relative to the folder, sorted.
        counts: images of each class folder (OOD sets: of each folder that holds some).
        others: files among the images that are none.
        refused: folders that cannot be listed, and why.
    """

    name: str
    folder: Path
    stops: Sequence[str]
    classes: Sequence[str] | None = None
    images: list[str] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    others: list[str] = field(default_factory=list)
    refused: list[InputError] = field(default_factory=list)

    def list(self) -> ImageSet:
        """Go through the folder, once; of a set with classes through their folders alone."""
        for top in [""] if self.classes is None else self.classes:
            for prefix, entries in walk(self.folder / top, refused=self.refused.append):
                self._add(os.path.join(top, prefix) if top else prefix, top, entries)
        self.images.sort()
        return self

    def _add(self, prefix: str, top: str, entries: dict[str, bool]) -> None:
        files = [name for name, is_dir in entries.items() if not is_dir]
        images = [os.path.join(prefix, name) for name in files if is_image(name)]
        if images:
            self.images += images
            self.counts[top or prefix] += len(images)
            if len(images) < len(files):
                self.others += [os.path.join(prefix, name) for name in files if not is_image(name)]

    def path(self, image: str) -> str:
        return f"{self.folder}/{image}"


def listing_problems(images: ImageSet) -> list[Problem]:
    """Folders that cannot be listed, files that are no images."""
    found = []
    if images.refused:
        count = counted(len(images.refused), "folder")
        found.append(
            Problem(
                "no permission",
                images.name,
                f"{count} cannot be listed. {images.refused[0]}",
                [f"chmod -R u+rX {sources.quoted(images.folder)}"],
                images.stops,
                list(map(str, images.refused)),
            )
        )
    if images.others:
        kinds = sorted({os.path.splitext(name)[1] or "no ending" for name in images.others})
        found.append(
            Problem(
                "not images",
                images.name,
                f"{counted(len(images.others), 'file')} among the images of "
                f"{absolute(images.folder)} left out, no image by name: {some(images.others, 3)}.",
                [
                    f"# endings of images: {', '.join(sorted(IMAGE_EXTENSIONS))}; "
                    f"found: {some(kinds)}"
                ],
                (),
                images.others,
            )
        )
    return found


def ood_counts(images: ImageSet, expected: int, source: Sequence[str]) -> list[Problem]:
    """An OOD set whose number of images is not the protocol's."""
    if not expected or not images.images or len(images.images) == expected:
        return []
    found = len(images.images)
    what = (
        f"{counted(found, 'image')} in {absolute(images.folder)} where the protocol has "
        f"{expected:,}: figures are not comparable with the papers'."
    )
    if found > expected:
        what += " Is it the whole set, or unpacked twice, instead of the curated images?"
    mend = ["# fetch the set anew, in place of this folder:", *sources.in_comments(source)]
    return [Problem("count", images.name, what, mend)]


def id_counts(
    images: ImageSet, expected: int | None, per_class: int | None, shots: int
) -> list[Problem]:
    """Class folders without images, with too few, or not as many as the protocol has."""
    found = []
    empty = [name for name in images.classes or () if not images.counts[name]]
    if empty:
        found.append(
            Problem(
                "empty classes",
                images.name,
                f"{counted(len(empty), 'class folder')} without images "
                f"in {absolute(images.folder)}: {some(empty)}.",
                [
                    "# fill them, or choose classes with DATASET.CLASSES: "
                    "a .txt file with one a line"
                ],
                images.stops,
                empty,
            )
        )
    if images.images and expected is not None and len(images.images) != expected:
        found.append(_count(images, expected, per_class, empty))
    few = [name for name in images.classes or () if 0 < images.counts[name] < shots]
    if few:
        found.append(
            Problem(
                "few images",
                images.name,
                f"{counted(len(few), 'class')} with fewer than the {shots} "
                f"images asked for, taken whole, such as {few[0]} with {images.counts[few[0]]}.",
                [
                    "# add images to them, or train with fewer:",
                    f"#   --shots {min(images.counts[name] for name in few)}",
                ],
                (),
                few,
            )
        )
    return found


def _count(images: ImageSet, expected: int, per_class: int | None, empty: Sequence[str]) -> Problem:
    what = (
        f"{counted(len(images.images), 'image')} in {absolute(images.folder)} where the "
        f"protocol has {expected:,}: "
    )
    what += (
        "few-shot draws are others than the papers'."
        if images.name.endswith("train")
        else "figures are not comparable with the papers'."
    )
    odd = [
        name
        for name in images.classes or ()
        if per_class and name not in empty and images.counts[name] != per_class
    ]
    if odd:
        what += (
            f" {counted(len(odd), 'class')} without exactly {per_class}, such as {odd[0]} "
            f"with {images.counts[odd[0]]}."
        )
    return Problem("count", images.name, what, ["# complete it from its archive"], (), odd)


def expected_images(
    folder: Path, split: str, wanted: int, imagenet: bool
) -> tuple[int | None, int | None]:
    """Images the protocol has in a split, in all and in each class; None where it says nothing.

    Args:
        wanted: classes that the config asks for.
    """
    if imagenet and split != "train":
        return VAL_IMAGES_PER_CLASS * wanted, VAL_IMAGES_PER_CLASS
    if imagenet:
        return (IMAGENET_TRAIN_IMAGES if wanted == IMAGENET_CLASSES else None), None
    exported = SETS.get(folder.name)
    return (exported.images.get(split) if exported else None), None


def wrong_names(images: ImageSet) -> list[Problem]:
    """ImageNet's files say in their names which split, and in training which class, they are of."""
    training = re.compile(r"(n\d{8})_\d+")
    train = images.name.endswith("train")
    strays, misfiled = [], []
    for image in images.images:
        folder, _, name = image.rpartition("/")
        match = training.match(name)
        if name.startswith("ILSVRC2012_val_") if train else match:
            strays.append(image)
        elif match and match[1] != folder.partition("/")[0]:
            misfiled.append(image)
    found = []
    if strays:
        other = "validation" if train else "training"
        found.append(
            Problem(
                "wrong split",
                images.name,
                f"{counted(len(strays), 'file')} in "
                f"{absolute(images.folder)} named as {other} images: {some(strays, 3)}.",
                ["# restore this split from its archive: figures on such a mixture mean nothing"],
                (),
                strays,
            )
        )
    if misfiled:
        found.append(
            Problem(
                "wrong class",
                images.name,
                f"{counted(len(misfiled), 'image')} in another class "
                f"folder than the name says: {some(misfiled, 3)}.",
                [
                    f"mv {sources.quoted(images.path(image))} "
                    f"{sources.quoted(images.folder / training.match(os.path.basename(image))[1])}/"
                    for image in misfiled
                ],
                (),
                misfiled,
            )
        )
    return found
