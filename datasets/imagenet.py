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
from datasets.folders import DataError, absolute, some, wrong_count
from datasets.splits import in_all, require_folders

logger = logging.getLogger(__name__)

VAL_IMAGES_PER_CLASS = 50
TRAIN_IMAGES = 1_281_167  # of all 1000 classes


@DATASET_REGISTRY.register()
class ImageNet(ClassFolders):
    """`<ROOT>/imagenet/[images/]{train,val}/nXXXXXXXX/`; `val` is the test set.

    Labels follow the order of the WordNet ids. DATASET.CLASSES chooses a subset such as
    ImageNet-10. Class names: DATASET.CLASSNAMES_FILE, else `classnames.txt` in the data
    set's folder where there is one, else CLIP's, built in. A file that lists just the class
    folders that are there chooses the classes too.

    Differs from upstream: CoOp's ImageNet gives `val` as validation set too, so that its
    TEST.FINAL_MODEL best_val chose the model on the test images.
    """

    # In any case of letters; the later ones are Kaggle's, OpenOOD's, and what users call it.
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
    def deciding_splits(cls, cfg: CfgNode, splits: dict[str, Path]) -> list[Path]:
        # An evaluation of all classes needs no training folders; "present" asks what is there.
        everything = cfg.DATASET.CLASSES == "present"
        return [path for name, path in splits.items() if everything or name != "train"]

    @classmethod
    def choose_classes(cls, cfg: CfgNode, found: dict[Path, list[str]]) -> list[str]:
        classes = cfg.DATASET.CLASSES
        if classes in ("", "present"):
            for path, folders in found.items():
                _require_known(folders, absolute(path))
            wanted = in_all(found) if classes else cls._listed(cfg, found) or imagenet_wnids()
        else:
            wanted = read_class_list(classes)
            _require_known(wanted, "DATASET.CLASSES")
        chosen = set(wanted)
        return [wnid for wnid in imagenet_wnids() if wnid in chosen]

    @classmethod
    def expected_images(cls, split: str, classes: int) -> int | None:
        if split == "train":
            return TRAIN_IMAGES if classes == 1000 else None
        return VAL_IMAGES_PER_CLASS * classes

    @classmethod
    def require_classes(cls, split: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
        if not set(wanted) <= set(found):
            _require_ids(found, absolute(split))
        require_folders(split, wanted, found)

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
    def _listed(cls, cfg: CfgNode, found: dict[Path, list[str]]) -> set[str]:
        """Return the ids in the user's class names, if the folders are just these."""
        path = cls._names_file(cfg)
        listed = {wnid for wnid, _ in read_classnames_file(path)} if path else set()
        return listed if all(listed == set(folders) for folders in found.values()) else set()


@DATASET_REGISTRY.register()
class ShiftedImageNet(ImageNet):
    """A test set of ImageNet's classes: V2, Sketch, A, R (DATASET.FOLDER holds the class folders).

    Folders are WordNet ids, or labels as in ImageNet-V2. What is learned is learned on ImageNet:
    there is nothing to train on.
    """

    @classmethod
    def find_splits(cls, folder: Path) -> dict[str, Path]:
        # Without class folders, the faults of a test set are those of this folder.
        return {"test": folder}

    @classmethod
    def choose_classes(cls, cfg, found: dict[Path, list[str]]) -> list[str]:
        ids = {path: list(map(_wnid, folders)) for path, folders in found.items()}
        named = {_wnid(name): name for folders in found.values() for name in folders}
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
            f"ImageNet-1K: {some(unknown)}. Expected names such as n01440764. For a data set of "
            "your own set DATASET.NAME to ImageFolder.",
            "unknown classes",
            unknown,
        )


def _require_ids(folders: Sequence[str], where: str) -> None:
    """Raise a DataError if folders are called by class name, such as great_white_shark."""
    ids = dict(zip(map(_plain, imagenet_classnames()), imagenet_wnids(), strict=True))
    named = [folder for folder in folders if _plain(folder) in ids]
    if named:
        meant = some([f"{folder} is {ids[_plain(folder)]}" for folder in named])
        raise DataError(
            f"{len(named)} class folders in {where} are called by name, not by WordNet id. "
            f"Rename them: {meant}.",
            "class names",
            named,
        )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
