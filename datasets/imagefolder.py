"""Any folder of class folders as an ID set, by YAML or flags alone."""

import logging
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, Datum
from datasets.classfolders import ClassFolders
from datasets.classnames import names_from_file, read_class_list
from datasets.fewshot import hold_out
from datasets.folders import absolute
from datasets.splits import common_folders, named_splits

logger = logging.getLogger(__name__)


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
        items = self._read(train, folders, names)
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
