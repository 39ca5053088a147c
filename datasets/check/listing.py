"""What a set holds, by name, and whether the numbers are the protocol's."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dassl.data.datasets import Datum
from datasets.check.report import Problem
from datasets.folders import absolute, counted, entries_of, is_image, not_images, some, walk_images
from datasets.lists import absent_images
from datasets.needs import Needs
from datasets.splits import class_images, empty_classes, loose_images

TRAINING_NAME = re.compile(r"(n\d{8})_\d+")  # of ImageNet's training images: class and number


@dataclass
class ImageSet:
    """A set as it lies on the disk.

    Attributes:
        name: its row in the table.
        stops: runs that need one of these cannot go ahead with a fault in it.
        classes: the class folders that count, None where there are no classes.
        expected: what the protocol has: IMAGES, and MD5 of a list; nothing if it says none.
        file: the list of the images, None where the folder is gone through.
        items: what the list says.
        images: names relative to the folder, sorted.
        counts: images of each class folder (OOD sets: of each folder that holds some; lists: of
            each label).
        others: paths of files among the images that are none by their ending.
        missing: paths of listed images that are not there.
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
        """Go through the folder, once; of a set with classes through their folders alone;
        InputError where a folder cannot be listed."""
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
    """Return what the listing shows: files left out, classes with no images or under `shots`."""
    found = []
    if images.others:
        found.append(Problem.of(not_images(images.folder, images.others), images.name))
    if images.classes is None:
        return found
    entries = entries_of(images.folder).items()
    loose = sorted(name for name, is_dir in entries if not is_dir and is_image(name))
    if loose:
        found.append(Problem.of(loose_images(images.folder, loose), images.name))
    empty = [name for name in images.classes if not images.counts[name]]
    if empty:
        fault = empty_classes(images.folder, empty, len(images.classes))
        found.append(Problem.of(fault, images.name, images.stops))
    few = [name for name in images.classes if 0 < images.counts[name] < shots]
    if few:
        what = (
            f"{counted(len(few), 'class')} with fewer than the {shots} images asked for, taken "
            f"whole, such as {few[0]} with {images.counts[few[0]]}. Add images, or train with "
            f"--shots {min(images.counts[name] for name in few)}."
        )
        found.append(Problem(images.name, "few images", what, files=few))
    return found


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
        what = (
            f"{counted(len(strays), 'file')} in {where} named as images of another split: "
            f"{some(strays, 3)}. Restore this split from its archive."
        )
        found.append(Problem(images.name, "wrong split", what, files=strays))
    if misfiled:
        what = (
            f"{counted(len(misfiled), 'image')} in another class folder of {where} than named: "
            f"{some(misfiled, 3)}. Move each into the folder that its name begins with."
        )
        found.append(Problem(images.name, "wrong class", what, files=misfiled))
    return found
