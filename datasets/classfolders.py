"""ID sets stored as one folder a class."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DatasetBase, Datum
from datasets.classnames import report_classnames
from datasets.fewshot import few_shot, keep_classes, part_of_classes
from datasets.folders import DataError, absolute, find_folder, no_folder
from datasets.splits import class_folders, find_splits, read_class_folders, require_folders


class ClassFolders(DatasetBase):
    """An ID set in class folders; a data set says which classes it has and what they are called.

    The training set is listed and sampled (DATASET.NUM_SHOTS, SEED) when `train_x` is first
    read, so that an evaluation needs no training images. With only one of `val/` and
    `test/` there, it is the test set and `val` is None: a model chosen on it would be chosen
    on the test images. Of DATASET.SUBSAMPLE_CLASSES, base and new keep a half of the classes.

    Attributes:
        default_folders: names of its folder, where DATASET.FOLDER gives none; the first that is
            there counts.
        dataset_dir: the data set's folder.
        splits: the folders of `train`, `val` and `test`, of those that are there.
    """

    default_folders: Sequence[str] = ("",)

    def __init__(self, cfg: CfgNode, images: bool = True):
        folder = self.locate(cfg)
        if images:
            require_root(data_root(cfg), [cfg.DATASET.FOLDER])
        self.dataset_dir = str(folder)
        self.splits = self.find_splits(folder) if images else {}
        found = {path: class_folders(path) for path in self.deciding_splits(cfg, self.splits)}
        everything = self.choose_classes(cfg, found)
        for path in found:
            self.require_classes(path, everything, found[path])
        names, source = self.name_classes(cfg, everything)
        part = part_of_classes(len(everything), cfg.DATASET.SUBSAMPLE_CLASSES)
        self.class_folders = [everything[label] for label in part]
        own = [names[label] for label in part]
        report_classnames(type(self).__name__, own, source)
        lists = self._images(cfg, everything, names, part) if images else {}
        super().__init__(**lists, classnames=own)

    @classmethod
    def knows_classes(cls, cfg: CfgNode) -> bool:
        """Return whether the config says which classes there are, so that `images` may be False."""
        return cfg.DATASET.CLASSES not in ("", "present")

    @classmethod
    def locate(cls, cfg: CfgNode) -> Path:
        """Return the data set's folder, or where it should be."""
        names = [cfg.DATASET.FOLDER] if cfg.DATASET.FOLDER else cls.default_folders
        found = (find_folder(data_root(cfg), name) for name in names)
        return next(filter(None, found), data_root(cfg) / names[0])

    find_splits = staticmethod(find_splits)

    @classmethod
    def deciding_splits(cls, cfg: CfgNode, splits: dict[str, Path]) -> list[Path]:
        """Return the splits whose class folders decide which classes there are."""
        return list(splits.values())

    @classmethod
    def choose_classes(cls, cfg: CfgNode, found: dict[Path, list[str]]) -> list[str]:
        """Return the class folders in label order, of those `found` in `deciding_splits`."""
        raise NotImplementedError

    @classmethod
    def expected_images(cls, split: str, classes: int) -> int | None:
        """Return the images that the protocol has in a split, None where it says nothing."""
        return None

    require_classes = staticmethod(require_folders)

    def name_classes(self, cfg: CfgNode, folders: Sequence[str]) -> tuple[list[str], str]:
        """Return the class names of the folders, and where they come from, for the log."""
        raise NotImplementedError

    def _images(self, cfg: CfgNode, folders: list[str], names: list[str], part: range) -> dict:
        def train() -> list[Datum]:
            everything = self._read_all_train(folders, names)
            # Drawn of all classes before a part is kept, as CoOp does.
            return keep_classes(few_shot(everything, cfg.DATASET.NUM_SHOTS, cfg.SEED), part)

        both = "val" in self.splits and "test" in self.splits
        val = keep_classes(self._read(self.splits["val"], folders, names), part) if both else None
        test = keep_classes(self._read_test(cfg, folders, names), part)
        self.held_out = keep_classes(self.held_out, part)
        return {"train_x": train, "val": val, "test": test}

    def _read(self, split: Path, folders: list[str], names: list[str]) -> list[Datum]:
        self.require_classes(split, folders, class_folders(split))
        return read_class_folders(split, folders, names)

    def _read_test(self, cfg: CfgNode, folders: list[str], names: list[str]) -> list[Datum]:
        return self._read(self.splits.get("test", self.splits.get("val")), folders, names)

    def _read_all_train(self, folders: list[str], names: list[str]) -> list[Datum]:
        # Named even where it is missing, so that the error says which folder to fill.
        missing = next(iter(self.splits.values())).with_name("train")
        return self._read(self.splits.get("train", missing), folders, names)


def data_root(cfg: CfgNode) -> Path:
    """Return DATASET.ROOT, with `~` spelled out; a relative root stays relative."""
    return Path(cfg.DATASET.ROOT).expanduser()


def require_root(root: Path, folders: Iterable[str]) -> None:
    """Raise a DataError if one of `folders` lies under a root that is no folder."""
    if not root.is_dir() and not all(map(os.path.isabs, folders)):
        raise DataError(
            f"The data root {absolute(root)} {no_folder(root)}. DATASET.ROOT (--root) must be the "
            "folder that holds the data sets' folders.",
            "no data root",
        )
