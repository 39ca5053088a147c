"""ID sets stored as one folder for each class; any such set, by YAML or flags alone."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from datasets.classnames import names_from_file, read_class_list, report_classnames
from datasets.fewshot import few_shot, hold_out, keep_classes, part_of_classes
from datasets.folders import DataError, absolute, find_folder, no_folder
from datasets.splits import (
    class_folders,
    common_folders,
    find_splits,
    named_splits,
    read_class_folders,
    require_folders,
)

logger = logging.getLogger(__name__)


class ClassFolders(DatasetBase):
    """An ID set in class folders; subclasses say which classes it has and what they are called.

    The training set is listed and sampled (DATASET.NUM_SHOTS, SEED) when `train_x` is first
    read, so that an evaluation needs no training images. If only one of `val/` and `test/`
    exists, it is the test set and `val` is None, because a model must not be chosen on the
    test images. DATASET.SUBSAMPLE_CLASSES base or new keeps a half of the classes.

    Attributes:
        default_folders: names of its folder, best first, if DATASET.FOLDER is empty.
        dataset_dir: the data set's folder.
        splits: the folders of `train`, `val` and `test` that exist.
    """

    default_folders: Sequence[str] = ("",)

    def __init__(self, cfg: CfgNode, images: bool = True):
        folder = self.locate(cfg)
        if images:
            require_root(data_root(cfg), [cfg.DATASET.FOLDER])
        self.dataset_dir = str(folder)
        self.splits = self.find_splits(folder) if images else {}
        by_split = {path: class_folders(path) for path in self.deciding_splits(cfg, self.splits)}
        folders = self.choose_classes(cfg, by_split)
        for path in by_split:
            self.require_classes(path, folders, by_split[path])
        names, source = self.name_classes(cfg, folders)
        part = part_of_classes(len(folders), cfg.DATASET.SUBSAMPLE_CLASSES)
        self.class_folders = [folders[label] for label in part]
        classnames = [names[label] for label in part]
        report_classnames(type(self).__name__, classnames, source)
        lists = self._images(cfg, folders, names, part) if images else {}
        super().__init__(**lists, classnames=classnames)

    @classmethod
    def knows_classes(cls, cfg: CfgNode) -> bool:
        """Return whether the config lists the classes, so that `images` may be False."""
        return cfg.DATASET.CLASSES not in ("", "present")

    @classmethod
    def locate(cls, cfg: CfgNode) -> Path:
        """Return the data set's folder, or the path where it should be."""
        names = [cfg.DATASET.FOLDER] if cfg.DATASET.FOLDER else cls.default_folders
        existing = (find_folder(data_root(cfg), name) for name in names)
        return next(filter(None, existing), data_root(cfg) / names[0])

    find_splits = staticmethod(find_splits)

    @classmethod
    def deciding_splits(cls, cfg: CfgNode, splits: dict[str, Path]) -> list[Path]:
        """Return the splits whose class folders decide which classes there are."""
        return list(splits.values())

    @classmethod
    def choose_classes(cls, cfg: CfgNode, by_split: dict[Path, list[str]]) -> list[str]:
        """Choose the class folders, in label order, given those of each of `deciding_splits`."""
        raise NotImplementedError

    @classmethod
    def expected_images(cls, split: str, classes: int) -> int | None:
        """Return the protocol's number of images in a split, None if it has none."""
        return None

    require_classes = staticmethod(require_folders)

    def name_classes(self, cfg: CfgNode, folders: Sequence[str]) -> tuple[list[str], str]:
        """Return the class names of the folders, and their source, for the log."""
        raise NotImplementedError

    def _images(self, cfg: CfgNode, folders: list[str], names: list[str], part: range) -> dict:
        def train() -> list[Datum]:
            items = self._read_all_train(folders, names)
            # Like CoOp, draw from all classes before a part of them is kept.
            return keep_classes(few_shot(items, cfg.DATASET.NUM_SHOTS, cfg.SEED), part)

        val = None
        if "val" in self.splits and "test" in self.splits:
            val = keep_classes(read_class_folders(self.splits["val"], folders, names), part)
        test = keep_classes(self._read_test(cfg, folders, names), part)
        self.held_out = keep_classes(self.held_out, part)
        return {"train_x": train, "val": val, "test": test}

    def _read_test(self, cfg: CfgNode, folders: list[str], names: list[str]) -> list[Datum]:
        split = self.splits.get("test", self.splits.get("val"))
        return read_class_folders(split, folders, names)

    def _read_all_train(self, folders: list[str], names: list[str]) -> list[Datum]:
        # If there is no such folder, the error names the one to fill.
        default = next(iter(self.splits.values())).with_name("train")
        split = self.splits.get("train", default)
        self.require_classes(split, folders, class_folders(split))
        return read_class_folders(split, folders, names)


@DATASET_REGISTRY.register()
class ImageFolder(ClassFolders):
    """`<ROOT>/<FOLDER>/[images/]{train,val,test}/<class>/...`, classes in sorted order.

    `test` is the test set and `val` the validation set; `val` alone is the test set. If there is
    neither, the images of `train`, or of the folder itself, are divided: the share
    DATASET.VAL_PERCENT of every class is held out for testing. Class names are the folder names
    with spaces for underscores, unless DATASET.CLASSNAMES_FILE gives others.
    """

    _kept: Sequence[Datum] = ()  # training images, if some were held out

    @classmethod
    def find_splits(cls, folder: Path) -> dict[str, Path]:
        undivided = _undivided(folder)
        return {"train": undivided} if undivided else super().find_splits(folder)

    def _read_test(self, cfg: CfgNode, folders: list[str], names: list[str]) -> list[Datum]:
        if self.splits.keys() != {"train"}:
            return super()._read_test(cfg, folders, names)
        train, share = self.splits["train"], cfg.DATASET.VAL_PERCENT
        items = read_class_folders(train, folders, names)
        self._kept, self.held_out = hold_out(items, share, str(train))
        logger.info(
            f"ImageFolder: {self.dataset_dir} has neither val/ nor test/: {len(self.held_out)} of "
            f"its {len(items)} images are held out for testing, the same ones for every seed "
            f"(DATASET.VAL_PERCENT {share:g})"
        )
        return self.held_out

    def _read_all_train(self, folders: list[str], names: list[str]) -> list[Datum]:
        return self._kept or super()._read_all_train(folders, names)

    @classmethod
    def choose_classes(cls, cfg: CfgNode, by_split: dict[Path, list[str]]) -> list[str]:
        if cfg.DATASET.CLASSES == "":
            return sorted(set().union(*by_split.values()))  # each split must have all of them
        if cfg.DATASET.CLASSES == "present":
            return common_folders(by_split)
        return sorted(read_class_list(cfg.DATASET.CLASSES))

    def name_classes(self, cfg: CfgNode, folders: Sequence[str]) -> tuple[list[str], str]:
        path = cfg.DATASET.CLASSNAMES_FILE
        if path:
            return names_from_file(path, folders), absolute(path)
        return [folder.replace("_", " ") for folder in folders], "the folder names"


def _undivided(folder: Path) -> Path | None:
    """Return the folder of class folders if there is no test split, else None."""
    parents = [parent for parent in (folder / "images", folder) if parent.is_dir()]
    splits = [named_splits(parent) for parent in parents]
    if any("val" in named or "test" in named for named in splits):
        return None
    return next((named["train"] for named in splits if named), next(iter(parents), None))


def data_root(cfg: CfgNode) -> Path:
    """Return DATASET.ROOT with `~` expanded; a relative root stays relative."""
    return Path(cfg.DATASET.ROOT).expanduser()


def require_root(root: Path, folders: Iterable[str]) -> None:
    """Raise a DataError if one of `folders` needs the root and it is not a folder."""
    if not root.is_dir() and not all(map(os.path.isabs, folders)):
        raise DataError(
            f"The data root {absolute(root)} {no_folder(root)}. DATASET.ROOT (--root) must be the "
            "folder that holds the data sets' folders.",
            "no data root",
        )
