"""ImageNet-1K and its subsets, in the standard folders."""

from __future__ import annotations

import logging
import os

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.errors import InputError
from datasets.classfolders import ClassFolders
from datasets.classnames import (
    imagenet_classnames,
    imagenet_wnids,
    names_from_file,
    read_class_list,
)
from datasets.folders import absolute, class_folders, in_all, require_folders, some

logger = logging.getLogger(__name__)

VAL_IMAGES_PER_CLASS = 50


@DATASET_REGISTRY.register()
class ImageNet(ClassFolders):
    """``<ROOT>/imagenet/[images/]{train,val}/nXXXXXXXX/``; ``val`` is the test set.

    Labels follow the order of the WordNet ids. DATASET.CLASSES chooses a subset such as
    ImageNet-10. Class names: DATASET.CLASSNAMES_FILE, else ``classnames.txt`` in the data
    set's folder where there is one, else CLIP's, built in.

    Differs from upstream: CoOp's ImageNet gives ``val`` as validation set too, so that its
    TEST.FINAL_MODEL best_val chose the model on the test images.
    """

    # In any case of letters; the later ones are Kaggle's, OpenOOD's, and what users call it.
    default_folders = (
        "imagenet",
        "ILSVRC/Data/CLS-LOC",
        "images_largescale/imagenet_1k",
        "imagenet-1k",
        "imagenet_1k",
        "imagenet1k",
        "imagenet2012",
        "ILSVRC2012",
        "ILSVRC-2012",
    )

    def __init__(self, cfg, images: bool = True):
        super().__init__(cfg, images)
        if images:
            _check_count(len(self.test), len(self.class_folders))

    @classmethod
    def knows_classes(cls, cfg) -> bool:
        return cfg.DATASET.CLASSES != "present"

    def choose_classes(self, cfg) -> list[str]:
        wanted = self._wanted(cfg.DATASET.CLASSES)
        for split in self.evaluation_splits():
            require_folders(split, wanted, class_folders(split))
        return [wnid for wnid in imagenet_wnids() if wnid in wanted]

    def name_classes(self, cfg) -> tuple[list[str], str]:
        path = cfg.DATASET.CLASSNAMES_FILE or os.path.join(self.dataset_dir, "classnames.txt")
        if cfg.DATASET.CLASSNAMES_FILE or os.path.isfile(path):
            return names_from_file(path, self.class_folders), absolute(path)
        names = dict(zip(imagenet_wnids(), imagenet_classnames(), strict=True))
        return [names[wnid] for wnid in self.class_folders], "open_clip (built in)"

    def _wanted(self, classes: str) -> set[str]:
        if classes not in ("", "present"):
            wanted = set(read_class_list(classes))
            _require_known(wanted, "DATASET.CLASSES")
            return wanted
        # An evaluation of all classes needs no training folders; "present" asks what is there.
        splits = list(self.splits.values()) if classes else self.evaluation_splits()
        found = {path.name: class_folders(path) for path in splits}
        for path in splits:
            _require_known(set(found[path.name]), absolute(path))
        return set(in_all(found)) if classes else set(imagenet_wnids())


def _require_known(wnids: set[str], where: str) -> None:
    unknown = sorted(wnids.difference(imagenet_wnids()))
    if unknown:
        raise InputError(
            f"{len(unknown)} classes in {where} are not among the 1000 WordNet ids of "
            f"ImageNet-1K: {some(unknown)}. Expected names such as n01440764. For a data set of "
            "your own set DATASET.NAME to ImageFolder."
        )


def _check_count(images: int, classes: int) -> None:
    expected = VAL_IMAGES_PER_CLASS * classes
    if images != expected:
        logger.warning(
            "ImageNet: %d validation images where the protocol has %d (%d classes): figures are "
            "not comparable with the papers'",
            images,
            expected,
            classes,
        )
