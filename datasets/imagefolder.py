"""Any folder of class folders as an ID data set, by YAML or flags alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from datasets.classfolders import ClassFolders
from datasets.classnames import names_from_file, read_class_list
from datasets.folders import absolute
from datasets.holdout import hold_out
from datasets.splits import in_all, named_splits

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

    def _divided(self, folders: list[str], names: list[str]) -> tuple[list[Datum], list[Datum]]:
        """Return (training, test) images of a folder with neither val/ nor test/."""
        train = self.splits["train"]
        return hold_out(self._read(train, folders, names), self._share, str(train))

    def _read_test(self, folders: list[str], names: list[str]) -> list[Datum]:
        if self.splits.keys() != {"train"}:
            return super()._read_test(folders, names)
        kept, self.held_out = self._divided(folders, names)
        logger.info(
            "ImageFolder: %s has neither val/ nor test/: %d of its %d images are held out for "
            "testing, the same ones for every seed (DATASET.VAL_PERCENT %g)",
            self.dataset_dir,
            len(self.held_out),
            len(kept) + len(self.held_out),
            self._share,
        )
        return self.held_out

    def _read_all_train(self, folders: list[str], names: list[str]) -> list[Datum]:
        if self.splits.keys() != {"train"}:
            return super()._read_all_train(folders, names)
        return self._divided(folders, names)[0]

    @classmethod
    def choose_classes(cls, cfg, found: dict[Path, list[str]]) -> list[str]:
        if cfg.DATASET.CLASSES == "":
            return sorted(set().union(*found.values()))  # all of which each split must have
        if cfg.DATASET.CLASSES == "present":
            return in_all(found)
        return sorted(read_class_list(cfg.DATASET.CLASSES))

    def name_classes(self, cfg, folders: Sequence[str]) -> tuple[list[str], str]:
        path = cfg.DATASET.CLASSNAMES_FILE
        if path:
            return names_from_file(path, folders), absolute(path)
        return [folder.replace("_", " ") for folder in folders], "the folder names"


def _undivided(folder: Path) -> Path | None:
    """Return the folder of class folders, where none is set apart for testing; else None."""
    holders = [holder for holder in (folder / "images", folder) if holder.is_dir()]
    splits = [named_splits(holder) for holder in holders]
    if any("val" in own or "test" in own for own in splits):
        return None
    return next((own["train"] for own in splits if own), next(iter(holders), None))
