"""List the images of a set, and check their names and numbers."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dassl.data.datasets import Datum
from datasets.check.report import Problem
from datasets.folders import absolute, counted, entries_of, first_few, not_images, walk_images
from datasets.lists import absent_images
from datasets.needs import Needs
from datasets.splits import class_images, empty_classes, loose_images, loose_names

TRAINING_NAME = re.compile(r"(n\d{8})_\d+")  # ImageNet's training images: class and number


@dataclass
class ImageSet:
    """A set on the disk.

    Attributes:
        name: its row in the table.
        stops: runs that need one of these cannot go ahead if the set has a fault.
        classes: the class folders that are used, None if there are no classes.
        expected: the protocol's IMAGES, and MD5 of a list, if it has any.
        file: the list of the images, None if they are found in the folder.
        items: the images in the list.
        images: names relative to the folder, sorted.
        counts: images in each class folder (OOD sets: each folder with images; lists: each label).
        others: paths of files among the images that have no image's extension.
        missing: paths of listed images that do not exist.
    """

    name: str
    folder: Path
    stops: Needs
    classes: Sequence[str] | None = None
    expected: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    items: Sequence[Datum] = ()
    images: list[str] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    others: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def list(self) -> None:
        """List the images, in class folders only if there are `classes`; InputError if a folder
        cannot be listed."""
        if self.file is not None:
            self._from_list()
            return
        if self.classes is None:
            self.images = sorted(walk_images(self.folder, self.others))
            self.counts.update(os.path.dirname(name) for name in self.images)
            return
        for name, images in class_images(self.folder, self.classes, self.others):
            self.images += [f"{name}/{image}" for image in images]
            self.counts[name] = len(images)
        self.images.sort()

    def _from_list(self) -> None:
        self.missing = absent_images(self.items)
        gone = set(self.missing)
        for item in self.items:
            name = item.impath.removeprefix(f"{self.folder}/")
            self.counts[item.label if item.label >= 0 else os.path.dirname(name)] += 1
            if item.impath not in gone:
                self.images.append(name)

    def path(self, image: str) -> str:
        return f"{self.folder}/{image}"


def listing_problems(images: ImageSet, shots: int) -> list[Problem]:
    """Return problems of a listed set: files left out, classes with no images or under `shots`."""
    problems = []
    if images.others:
        problems.append(Problem.of(not_images(images.folder, images.others), images.name))
    if images.classes is None:
        return problems
    if loose := loose_names(entries_of(images.folder)):
        problems.append(Problem.of(loose_images(images.folder, loose), images.name))
    empty = [name for name in images.classes if not images.counts[name]]
    if empty:
        fault = empty_classes(images.folder, empty, len(images.classes))
        problems.append(Problem.of(fault, images.name, images.stops))
    few = [name for name in images.classes if 0 < images.counts[name] < shots]
    if few:
        what = (
            f"{counted(len(few), 'class')} with fewer than the {shots} images asked for, taken "
            f"whole, such as {few[0]} with {images.counts[few[0]]}. Add images, or train with "
            f"--shots {min(images.counts[name] for name in few)}."
        )
        problems.append(Problem(images.name, "few images", what, files=few))
    return problems


def wrong_names(images: ImageSet) -> list[Problem]:
    """Return problems of ImageNet's files whose names belong to another split or class."""
    train = images.name.endswith("train")
    strays, misfiled, problems = [], [], []
    for image in images.images:
        folder, _, name = image.rpartition("/")
        match = TRAINING_NAME.match(name)
        if name.startswith("ILSVRC2012_val_") if train else match:
            strays.append(image)
        elif match and match[1] != folder.partition("/")[0]:
            misfiled.append(image)
    where = absolute(images.folder)
    if strays:
        what = (
            f"{counted(len(strays), 'file')} in {where} named as images of another split: "
            f"{first_few(strays, 3)}. Restore this split from its archive."
        )
        problems.append(Problem(images.name, "wrong split", what, files=strays))
    if misfiled:
        what = (
            f"{counted(len(misfiled), 'image')} in another class folder of {where} than named: "
            f"{first_few(misfiled, 3)}. Move each into the folder that its name begins with."
        )
        problems.append(Problem(images.name, "wrong class", what, files=misfiled))
    return problems
