"""ImageNet-1K and its subsets, in the standard folders."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY
from datasets.classfolders import ClassFolders
from datasets.classnames import (
    imagenet_classnames,
    imagenet_wnids,
    names_from_file,
    read_class_list,
    read_classnames_file,
)
from datasets.folders import DataError, absolute, first_few, subfolders, wrong_count
from datasets.splits import common_folders, require_folders

logger = logging.getLogger(__name__)

VAL_IMAGES_PER_CLASS = 50
TRAIN_IMAGES = 1_281_167  # in all 1000 classes


@DATASET_REGISTRY.register()
class ImageNet(ClassFolders):
    """`<ROOT>/imagenet/[images/]{train,val}/nXXXXXXXX/`; `val` is the test set.

    Labels follow the order of the WordNet ids. DATASET.CLASSES chooses a subset such as
    ImageNet-10. Class names come from DATASET.CLASSNAMES_FILE, else `classnames.txt` in the data
    set's folder if it exists, else CLIP's are used. A file that lists exactly the existing
    class folders also chooses the classes.

    Differs from upstream: CoOp's ImageNet uses `val` as validation set too, so that its
    TEST.FINAL_MODEL best_val chooses the model on the test images.
    """

    # In upper or lower case; after CoOp's name come Kaggle's, OpenOOD's and other common ones.
    default_folders = (
        "imagenet",
        "ILSVRC/Data/CLS-LOC",
        "images_largescale/imagenet_1k",
        "imagenet-1k",
        "ILSVRC2012",
    )

    def __init__(self, cfg: CfgNode, images: bool = True):
        super().__init__(cfg, images)
        expected = self.expected_images("val", len(self.class_folders))
        if images and expected and len(self.test) != expected:
            logger.warning("%s", wrong_count("ImageNet's val", len(self.test), expected))

    @classmethod
    def knows_classes(cls, cfg: CfgNode) -> bool:
        return cfg.DATASET.CLASSES != "present"

    @classmethod
    def find_splits(cls, folder: Path) -> dict[str, Path]:
        splits = super().find_splits(folder)
        if "val" in splits and "test" in splits and not subfolders(splits["test"]):
            del splits["test"]  # Kaggle's, without labels
        return splits

    @classmethod
    def deciding_splits(cls, cfg: CfgNode, splits: dict[str, Path]) -> list[Path]:
        # An evaluation of all classes needs no training folders, but "present" means all splits.
        present = cfg.DATASET.CLASSES == "present"
        return [path for name, path in splits.items() if present or name != "train"]

    @classmethod
    def choose_classes(cls, cfg: CfgNode, by_split: dict[Path, list[str]]) -> list[str]:
        classes = cfg.DATASET.CLASSES
        if classes in ("", "present"):
            for path, folders in by_split.items():
                _require_known(folders, absolute(path))
            chosen = common_folders(by_split) if classes else cls._listed_ids(cfg, by_split)
        else:
            chosen = read_class_list(classes)
            _require_known(chosen, "DATASET.CLASSES")
        chosen = set(chosen or imagenet_wnids())
        return [wnid for wnid in imagenet_wnids() if wnid in chosen]

    @classmethod
    def expected_images(cls, split: str, classes: int) -> int | None:
        if split == "train":
            return TRAIN_IMAGES if classes == 1000 else None
        return VAL_IMAGES_PER_CLASS * classes

    @classmethod
    def require_classes(cls, split: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
        if not set(wanted) <= set(present):
            _require_ids(present, absolute(split))
        require_folders(split, wanted, present)

    def name_classes(self, cfg: CfgNode, folders: Sequence[str]) -> tuple[list[str], str]:
        path = self._names_file(cfg)
        if path:
            return names_from_file(path, folders), absolute(path)
        names = dict(zip(imagenet_wnids(), imagenet_classnames(), strict=True))
        return [names[wnid] for wnid in folders], "open_clip (built in)"

    @classmethod
    def _names_file(cls, cfg: CfgNode) -> Path | None:
        path = Path(cfg.DATASET.CLASSNAMES_FILE or cls.locate(cfg) / "classnames.txt")
        return path if cfg.DATASET.CLASSNAMES_FILE or path.is_file() else None

    @classmethod
    def _listed_ids(cls, cfg: CfgNode, by_split: dict[Path, list[str]]) -> set[str]:
        """Return the ids in the user's class names, if every split has exactly these folders."""
        path = cls._names_file(cfg)
        listed = {wnid for wnid, _ in read_classnames_file(path)} if path else set()
        return listed if all(listed == set(folders) for folders in by_split.values()) else set()


@DATASET_REGISTRY.register()
class ShiftedImageNet(ImageNet):
    """A test set of ImageNet's classes: V2, Sketch, A, R (DATASET.FOLDER holds the class folders).

    Folders are named by WordNet ids, or by labels as in ImageNet-V2. It has no training images:
    evaluate models that were trained on ImageNet.
    """

    @classmethod
    def find_splits(cls, folder: Path) -> dict[str, Path]:
        # The folder itself is the split, so errors about missing class folders name it.
        return {"test": folder}

    @classmethod
    def choose_classes(cls, cfg, by_split: dict[Path, list[str]]) -> list[str]:
        ids = {path: list(map(_wnid, folders)) for path, folders in by_split.items()}
        named = {_wnid(name): name for folders in by_split.values() for name in folders}
        return [named.get(wnid, wnid) for wnid in super().choose_classes(cfg, ids)]

    @classmethod
    def expected_images(cls, split: str, classes: int) -> int | None:
        return None

    def name_classes(self, cfg, folders: Sequence[str]) -> tuple[list[str], str]:
        return super().name_classes(cfg, list(map(_wnid, folders)))


def _wnid(folder: str) -> str:
    """Return the WordNet id of a class folder that may be called by its label, 0 to 999."""
    is_label = re.fullmatch("0|[1-9][0-9]{0,2}", folder)
    return imagenet_wnids()[int(folder)] if is_label else folder


def _require_known(folders: Sequence[str], where: str) -> None:
    _require_ids(folders, where)
    unknown = sorted(set(folders).difference(imagenet_wnids()))
    if unknown:
        raise DataError(
            f"{len(unknown)} classes in {where} are not among the 1000 WordNet ids of "
            f"ImageNet-1K: {first_few(unknown)}. Expected are names such as n01440764. For a data "
            "set of your own, set DATASET.NAME to ImageFolder.",
            "unknown classes",
            unknown,
        )


def _require_ids(folders: Sequence[str], where: str) -> None:
    """Raise a DataError if folders have class names, such as great_white_shark."""
    ids = dict(zip(map(_plain, imagenet_classnames()), imagenet_wnids(), strict=True))
    named = [folder for folder in folders if _plain(folder) in ids]
    if named:
        renaming = first_few([f"{folder} is {ids[_plain(folder)]}" for folder in named])
        raise DataError(
            f"{len(named)} class folders in {where} are called by name, not by WordNet id. "
            f"Rename them: {renaming}.",
            "class names",
            named,
        )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
