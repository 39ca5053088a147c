"""What data sets stored as one folder a class have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dassl.data.datasets import DatasetBase, Datum
from dassl.utils.errors import InputError
from datasets.classnames import report_classnames
from datasets.fewshot import few_shot
from datasets.folders import absolute, find_folder, find_splits, no_folder, read_class_folders


class ClassFolders(DatasetBase):
    """An ID set in class folders; a data set says which classes it has and what they are called.

    The training set is listed and sampled (DATASET.NUM_SHOTS, SEED) when ``train_x`` is first
    read, so that an evaluation needs no training images. With only one of ``val/`` and
    ``test/`` there, it is the test set and ``val`` is None: a model chosen on it would be chosen
    on the test images.

    Attributes:
        default_folders: names of its folder, where DATASET.FOLDER gives none; the first that is
            there counts.
        dataset_dir: the data set's folder.
        class_folders: folder names in label order (ImageNet: WordNet ids).
        held_out: images set apart for testing where no split is; empty otherwise.
    """

    default_folders: Sequence[str] = ("",)
    held_out: Sequence[Datum] = ()

    def __init__(self, cfg, images: bool = True):
        folder = self.locate(cfg)
        if images:
            require_root(data_root(cfg), [cfg.DATASET.FOLDER])
        self.dataset_dir = str(folder)
        self.splits = self.find_splits(folder) if images else {}
        self.class_folders = self.choose_classes(cfg)
        names, source = self.name_classes(cfg)
        report_classnames(type(self).__name__, names, source)
        super().__init__(**self._images(cfg, names) if images else {}, classnames=names)

    @classmethod
    def without_images(cls, cfg) -> ClassFolders:
        if not cls.knows_classes(cfg):
            raise InputError(
                f"DATASET.CLASSES is {cfg.DATASET.CLASSES!r}: which classes {cls.__name__} has is "
                "then known by its folders alone. Name them in DATASET.CLASSES."
            )
        return cls(cfg, images=False)

    @classmethod
    def knows_classes(cls, cfg) -> bool:
        """Whether the config says which classes there are, whatever folders are there."""
        return cfg.DATASET.CLASSES not in ("", "present")

    @classmethod
    def locate(cls, cfg) -> Path:
        """The data set's folder, or where it should be."""
        names = [cfg.DATASET.FOLDER] if cfg.DATASET.FOLDER else cls.default_folders
        found = (find_folder(data_root(cfg), name) for name in names)
        return next(filter(None, found), data_root(cfg) / names[0])

    @classmethod
    def find_splits(cls, folder: Path) -> dict[str, Path]:
        """The folders of ``train``, ``val`` and ``test``, of those that are there."""
        return find_splits(folder)

    def choose_classes(self, cfg) -> list[str]:
        """The class folders in label order."""
        raise NotImplementedError

    def name_classes(self, cfg) -> tuple[list[str], str]:
        """The class names in label order, and where they come from, for the log."""
        raise NotImplementedError

    def evaluation_splits(self) -> list[Path]:
        """The splits other than ``train``."""
        return [path for name, path in self.splits.items() if name != "train"]

    def _images(self, cfg, names: Sequence[str]) -> dict:
        both = "val" in self.splits and "test" in self.splits
        return {
            "train_x": lambda: self._read_train(cfg.DATASET.NUM_SHOTS, cfg.SEED, names),
            "val": self._read(self.splits["val"], names) if both else None,
            "test": self._read_test(names),
        }

    def _read(self, split: Path, names: Sequence[str]) -> list[Datum]:
        return read_class_folders(split, self.class_folders, names)

    def _read_test(self, names: Sequence[str]) -> list[Datum]:
        return self._read(self.splits.get("test", self.splits.get("val")), names)

    def _read_all_train(self, names: Sequence[str]) -> list[Datum]:
        # Named even where it is missing, so that the error says which folder to fill.
        return self._read(self.evaluation_splits()[0].parent / "train", names)

    def _read_train(self, num_shots: int, seed: int, names: Sequence[str]) -> list[Datum]:
        return few_shot(self._read_all_train(names), num_shots, seed)


def data_root(cfg) -> Path:
    """DATASET.ROOT, with ``~`` spelled out; a relative root stays relative."""
    return Path(cfg.DATASET.ROOT).expanduser()


def require_root(root: Path, folders: Iterable[str]) -> None:
    """Raise an InputError if one of ``folders`` lies under a root that is no folder."""
    if not root.is_dir() and not all(map(os.path.isabs, folders)):
        raise no_root(root)


def no_root(root: Path) -> InputError:
    """What is told of a root that is no folder."""
    return InputError(
        f"The data root {absolute(root)} {no_folder(root)}. DATASET.ROOT (--root) must be the "
        "folder that holds the data sets' folders."
    )
