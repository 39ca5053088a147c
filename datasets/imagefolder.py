"""Any folder of class folders as an ID data set, by YAML or flags alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils.errors import InputError
from datasets.classfolders import ClassFolders
from datasets.classnames import names_from_file, read_class_list
from datasets.folders import (
    SPLITS,
    absolute,
    class_folders,
    in_all,
    require_folders,
    some,
    split_meant,
    walk,
)
from datasets.holdout import hold_out

logger = logging.getLogger(__name__)


@DATASET_REGISTRY.register()
class ImageFolder(ClassFolders):
    """``<ROOT>/<FOLDER>/[images/]{train,val,test}/<class>/...``, classes in sorted order.

    ``test`` is the test set and ``val`` the validation set; ``val`` alone is the test set. With
    neither, the class folders of ``train``, or those in the folder itself, are divided: of every
    class the share DATASET.VAL_PERCENT is held out for testing. Class names are the folder names
    with spaces for underscores, unless DATASET.CLASSNAMES_FILE gives others.
    """

    def __init__(self, cfg, images: bool = True):
        self._share = cfg.DATASET.VAL_PERCENT
        super().__init__(cfg, images)

    @classmethod
    def find_splits(cls, folder: Path) -> dict[str, Path]:
        undivided = _undivided(folder)
        return {"train": undivided} if undivided else super().find_splits(folder)

    def _divided(self, names: Sequence[str]) -> tuple[list[Datum], list[Datum]]:
        """(training, test) images of a folder with neither val/ nor test/."""
        train = self.splits["train"]
        return hold_out(self._read(train, names), self._share, str(train))

    def _read_test(self, names: Sequence[str]) -> list[Datum]:
        if self.splits.keys() != {"train"}:
            return super()._read_test(names)
        kept, self.held_out = self._divided(names)
        logger.info(
            "ImageFolder: %s has neither val/ nor test/: %d of its %d images are held out for "
            "testing, the same ones for every seed (DATASET.VAL_PERCENT %g)",
            self.dataset_dir,
            len(self.held_out),
            len(kept) + len(self.held_out),
            self._share,
        )
        return self.held_out

    def _read_all_train(self, names: Sequence[str]) -> list[Datum]:
        if self.splits.keys() != {"train"}:
            return super()._read_all_train(names)
        return self._divided(names)[0]

    def choose_classes(self, cfg) -> list[str]:
        found = {name: class_folders(path) for name, path in self.splits.items()}
        if cfg.DATASET.CLASSES == "":
            return _same_in_all(found, self.splits)
        if cfg.DATASET.CLASSES == "present":
            return in_all(found)
        classes = sorted(read_class_list(cfg.DATASET.CLASSES))
        for name, path in self.splits.items():
            require_folders(path, classes, found[name])
        return classes

    def name_classes(self, cfg) -> tuple[list[str], str]:
        path = cfg.DATASET.CLASSNAMES_FILE
        if path:
            return names_from_file(path, self.class_folders), absolute(path)
        return [folder.replace("_", " ") for folder in self.class_folders], "the folder names"


def _undivided(folder: Path) -> Path | None:
    """The folder of class folders, where none is set apart for testing; None where one is."""
    if any((folder / inner / name).is_dir() for inner in ("images", "") for name in SPLITS[1:]):
        return None
    places = (folder / "images" / "train", folder / "train", folder / "images", folder)
    found = next((place for place in places if place.is_dir()), None)
    mistaken = [name for name in (class_folders(found) if found else ()) if split_meant(name)]
    beside = next(walk(found.parent))[1] if found and found.name == "train" else {}
    passed_over = sorted(name for name, is_dir in beside.items() if is_dir and split_meant(name))
    if passed_over:
        raise InputError(
            f"{absolute(found.parent / passed_over[0])} would be passed over, and a part of train/ "
            "held out for testing instead. If it is a part of the data set, call it val or test"
        )
    if mistaken:
        raise InputError(
            f"{absolute(found / mistaken[0])} would be taken for a class called {mistaken[0]!r}. "
            "If it is a part of the data set, call it train, val or test"
        )
    return found


def _same_in_all(found: dict[str, list[str]], splits: dict) -> list[str]:
    """The classes, if all splits agree; a difference would shift labels or lose images."""
    first, *others = found
    for other in others:
        only_first = sorted(set(found[first]) - set(found[other]))
        only_other = sorted(set(found[other]) - set(found[first]))
        if only_first or only_other:
            raise InputError(
                f"The class folders of {absolute(splits[first])} and {absolute(splits[other])} "
                f"differ. Only in {first}/: {some(only_first) or 'none'}. Only in {other}/: "
                f"{some(only_other) or 'none'}. Make them agree, or set DATASET.CLASSES: "
                '"present" takes the classes that all splits have, or name them.'
            )
    return found[first]
