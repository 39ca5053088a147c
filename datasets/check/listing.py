"""What a set holds, by name, and whether the numbers are the protocol's."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dassl.utils.errors import InputError
from datasets.check.report import Problem
from datasets.export import SETS
from datasets.folders import LeftOut, absolute, counted, entries_of, is_image, some, walk_images
from datasets.imagenet import VAL_IMAGES_PER_CLASS
from datasets.needs import NOTHING, Needs
from datasets.splits import class_images, empty_classes, loose_images

IMAGENET_TRAIN_IMAGES = 1_281_167
IMAGENET_CLASSES = 1000
TRAINING_NAME = re.compile(r"(n\d{8})_\d+")  # of ImageNet's training images: class and number


@dataclass
class ImageSet:
    """A set as it lies on the disk.

    Attributes:
        name: its row in the table.
        stops: runs that need one of these cannot go ahead with a fault in it.
        classes: the class folders that count, None where there are no classes.
        images: names relative to the folder, sorted.
        counts: images of each class folder (OOD sets: of each folder that holds some).
    """

    name: str
    folder: Path
    stops: Needs
    classes: Sequence[str] | None = None
    images: list[str] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    left_out: LeftOut = field(default_factory=lambda: LeftOut(unlistable=[]))

    def list(self) -> None:
        """Go through the folder, once; of a set with classes through their folders alone."""
        if self.classes is None:
            self.images = sorted(walk_images(self.folder, left_out=self.left_out))
            self.counts.update(os.path.dirname(name) for name in self.images)
            return
        entries_of(self.folder, self.left_out)
        for name, images in class_images(self.folder, self.classes, self.left_out):
            self.images += [f"{name}/{image}" for image in images]
            self.counts[name] = len(images)
        self.images.sort()

    def path(self, image: str) -> str:
        """Return the path of one of the images."""
        return f"{self.folder}/{image}"

    def problem(
        self, kind: str, what: str, names: Sequence[str] = (), stops: Needs = NOTHING
    ) -> Problem:
        """Return a problem of this set, of images or folders with these names."""
        return Problem(self.name, kind, what, stops, names)


def listing_problems(images: ImageSet) -> list[Problem]:
    """Return what the listing itself shows: folders without permission, files left out."""
    refused: list[InputError] = images.left_out.unlistable or []
    found = []
    if refused:
        what = f"{counted(len(refused), 'folder')} cannot be listed. {refused[0]}"
        names = list(map(str, refused))
        found.append(images.problem("no permission", what, names, images.stops))
    found += [Problem.of(fault, images.name) for fault in images.left_out.faults(images.folder)]
    if images.classes is not None:
        entries = entries_of(images.folder).items()
        loose = sorted(name for name, is_dir in entries if not is_dir and is_image(name))
        if loose:
            found.append(Problem.of(loose_images(images.folder, loose), images.name))
    return found


def class_problems(images: ImageSet, shots: int) -> list[Problem]:
    """Return class folders without images, or with fewer than ``shots``."""
    found, classes = [], images.classes or ()
    empty = [name for name in classes if not images.counts[name]]
    if empty:
        fault = empty_classes(images.folder, empty, len(classes))
        found.append(Problem.of(fault, images.name, images.stops))
    few = [name for name in classes if 0 < images.counts[name] < shots]
    if few:
        what = (
            f"{counted(len(few), 'class')} with fewer than the {shots} images asked for, taken "
            f"whole, such as {few[0]} with {images.counts[few[0]]}. Add images, or train with "
            f"--shots {min(images.counts[name] for name in few)}."
        )
        found.append(images.problem("few images", what, few))
    return found


def expected_images(folder: Path, split: str, classes: int, imagenet: bool) -> int | None:
    """Return the images that the protocol has in a split, None where it says nothing."""
    if imagenet and split != "train":
        return VAL_IMAGES_PER_CLASS * classes
    if imagenet:
        return IMAGENET_TRAIN_IMAGES if classes == IMAGENET_CLASSES else None
    return SETS[folder.name].images.get(split) if folder.name in SETS else None


def wrong_id_count(images: ImageSet, expected: int, per_class: int = 0) -> Problem:
    """Return the problem of a split with another number of images than the protocol's.

    Args:
        per_class: images that each class should have, 0 where that is unknown.
    """
    effect = "figures are not comparable with the papers'"
    if images.name.endswith("train"):
        effect = "few-shot draws are others than the papers'"
    what = (
        f"{counted(len(images.images), 'image')} in {absolute(images.folder)} where the protocol "
        f"has {expected:,}: {effect}. Complete it from its archive."
    )
    odd = [n for n in images.classes or () if per_class and images.counts[n] not in (0, per_class)]
    if odd:
        what += f" {counted(len(odd), 'class')} without exactly {per_class}, such as {odd[0]} "
        what += f"with {images.counts[odd[0]]}."
    return images.problem("count", what, odd)


def wrong_names(images: ImageSet) -> list[Problem]:
    """Return ImageNet's files of another split, or of another class, than their names say."""
    train = images.name.endswith("train")
    strays, misfiled, found = [], [], []
    for image in images.images:
        folder, _, name = image.rpartition("/")
        match = TRAINING_NAME.match(name)
        if name.startswith("ILSVRC2012_val_") if train else match:
            strays.append(image)
        elif match and match[1] != folder.partition("/")[0]:
            misfiled.append(image)
    where = absolute(images.folder)
    if strays:
        other = "validation" if train else "training"
        what = (
            f"{counted(len(strays), 'file')} in {where} named as {other} images: "
            f"{some(strays, 3)}. Restore this split from its archive: figures on such a mixture "
            "mean nothing."
        )
        found.append(images.problem("wrong split", what, strays))
    if misfiled:
        what = (
            f"{counted(len(misfiled), 'image')} in another class folder of {where} than named: "
            f"{some(misfiled, 3)}. Move each into the folder that its name begins with."
        )
        found.append(images.problem("wrong class", what, misfiled))
    return found
