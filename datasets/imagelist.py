"""ID sets whose images are listed in files: CoOp's split_zhou_*.json, OpenOOD's image lists."""

import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path

from dassl.data.data_manager import skips_bad_images
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from datasets.classfolders import data_root, require_root
from datasets.classnames import imagenet_classnames, read_names, report_classnames
from datasets.fewshot import draw_as_listed, few_shot, keep_classes, part_of_classes
from datasets.folders import DataError, absolute, contents, find_folder, first_few, no_folder
from datasets.lists import (
    OUTSIDE,
    absent_images,
    image_path,
    inside,
    lacks_only_label_0,
    not_there,
    protocol_faults,
    read_list,
    read_list_text,
)
from datasets.splits import SPLITS

logger = logging.getLogger(__name__)

VAL_SHOTS = 4  # CoOp's limit on validation images of each class in few-shot training
VARIANTS = "variants.txt"  # class names of FGVC-Aircraft
Lists = dict[str, list[Datum]]


@DATASET_REGISTRY.register()
class ImageList(DatasetBase):
    """Images in DATASET.FOLDER/IMAGES, divided into splits by DATASET.SPLIT_FILE.

    A `.json` file is CoOp's: {"train", "val", "test": [[path, label, class name], ...]}. A name
    with {} means lists (datasets/lists.py), where {} is train, val or test; a .txt or .csv file
    without {} is the test list, which is enough for an evaluation. Classes are the lines of
    DATASET.CLASSNAMES_FILE, or of variants.txt for FGVC-Aircraft's lists, `1025794 707-320`.

    For CoOp's data sets, few-shot images of train, and at most 4 of each class of val, are drawn
    as CoOp draws them, before DATASET.SUBSAMPLE_CLASSES keeps a half of the classes.

    Differs from upstream: the draw is made anew, not read from a file for each seed and shots.
    """

    def __init__(self, cfg) -> None:
        folder, names, lists = self.read(cfg)
        self.dataset_dir, file = str(folder), self.list_file(cfg, "test")
        for fault in protocol_faults("ID", lists["test"], cfg.OOD.ID, file):
            logger.warning("%s", fault)
        if lacks_only_label_0(file, lists["test"], len(names)):
            text = "%s has all labels but 0 (%s): subtract 1 if they were counted from 1"
            logger.warning(text, absolute(file), names[0])
        part = part_of_classes(len(names), cfg.DATASET.SUBSAMPLE_CLASSES)
        classnames = [names[label] for label in part]
        source = cfg.DATASET.CLASSNAMES_FILE or cfg.DATASET.SPLIT_FILE
        report_classnames(type(self).__name__, classnames, source)
        shots, seed = cfg.DATASET.NUM_SHOTS, cfg.SEED

        def keep(items: list[Datum]) -> list[Datum]:
            if not skips_bad_images(cfg) and (missing := absent_images(items)):
                raise not_there(file, missing)
            return keep_classes(items, part)

        def train() -> list[Datum]:
            return keep(few_shot(self.read(cfg, ["train"])[2]["train"], shots, seed))

        val = lists.get("val")
        if "train" in lists:  # CoOp draws train and val with the same generator
            rng = random.Random(seed)
            train = keep(draw_as_listed(lists["train"], shots, seed, rng))
            val = draw_as_listed(val or [], min(shots, VAL_SHOTS), seed, rng)
        val = None if val is None else keep(val)
        super().__init__(train_x=train, val=val, test=keep(lists["test"]), classnames=classnames)

    @classmethod
    def read(cls, cfg, splits: Sequence[str] = ("val", "test")) -> tuple[Path, list[str], Lists]:
        """Return the data set's folder, its class names, and its lists.

        Args:
            splits: the lists to read; val may be missing. A CoOp file is read whole.

        Raises:
            DataError: a folder or list is missing, or a list is damaged. The listed images
                need not exist.
        """
        if not cfg.DATASET.SPLIT_FILE:
            raise DataError(
                f"DATASET.SPLIT_FILE is empty: {cls.__name__} reads its images from a list. Name "
                "a CoOp split file (.json), or lists, with {} for train, val and test."
            )
        folder, images = cls.folders(cfg)
        file = cls.list_file(cfg)
        if "{}" in file.name or file.suffix.lower() in (".txt", ".csv"):
            names = cls.class_names(cfg, folder, file)
            lists = _read_lists(file, images, names, splits)
        else:
            names, lists = _read_json(file, images)
        for split in ("train", "test"):
            if split in lists and not lists[split]:
                raise DataError(f"{absolute(file)} lists no images to {split} on.", "missing")
        return folder, names, lists

    @classmethod
    def folders(cls, cfg) -> tuple[Path, Path]:
        """Return the data set's folder, and that of its images; DataError if there is none."""
        root, name, images_name = data_root(cfg), cfg.DATASET.FOLDER, cfg.DATASET.IMAGES
        require_root(root, [name])
        folder = find_folder(root, name) or root / name
        images = find_folder(folder, images_name) or folder / images_name
        if not images.is_dir():
            raise DataError(
                f"The images' folder {absolute(images)} {no_folder(images)}. Found beside it: "
                f"{contents(images.parent)}. Set DATASET.ROOT (--root), DATASET.FOLDER under it or "
                "DATASET.IMAGES under that.",
                "missing",
            )
        return folder, images

    @classmethod
    def list_file(cls, cfg, split: str = "{}") -> Path:
        """Return the path of DATASET.SPLIT_FILE, or of the list of one split."""
        file = _beside(cls.folders(cfg)[0], cfg.DATASET.SPLIT_FILE)
        return file.with_name(file.name.replace("{}", split))

    @classmethod
    def class_names(cls, cfg, folder: Path, lists: Path) -> list[str]:
        """Return the class names of lists, in label order."""
        text, variants = cfg.DATASET.CLASSNAMES_FILE, lists.with_name(VARIANTS)
        if text:
            text = str(_beside(folder, text)) if text.lower().endswith(".txt") else text
            return read_names(text, labelled=True)
        if variants.is_file():
            return read_names(str(variants), labelled=True)
        raise DataError(
            f"The lists {absolute(lists)} have labels, but no class names: set "
            "DATASET.CLASSNAMES_FILE to a .txt file with one name per line, in label order."
        )


@DATASET_REGISTRY.register()
class ImageNetList(ImageList):
    """Lists of ImageNet-1K's images, such as OpenOOD's: labels in the order of the WordNet ids.

    Class names are CLIP's, which are built in, unless DATASET.CLASSNAMES_FILE gives others.
    """

    @classmethod
    def class_names(cls, cfg, folder: Path, lists: Path) -> list[str]:
        if cfg.DATASET.CLASSNAMES_FILE:
            return super().class_names(cfg, folder, lists)
        return imagenet_classnames()


def _beside(folder: Path, name: str) -> Path:
    """Return the path `name` if it has an existing parent folder, else `folder / name`."""
    path = Path(name).expanduser()
    return path if path.parent.is_dir() and path.parent != Path() else folder / name


def _read_lists(file: Path, images: Path, names: Sequence[str], splits: Sequence[str]) -> Lists:
    """Read the lists of `splits`, for {} in `file`; a file without {} is the test list."""
    has_variants, several = file.with_name(VARIANTS).is_file(), "{}" in file.name
    if "train" in splits and not several:
        raise DataError(
            f"{absolute(file)} lists test images only. To train, name lists with {{}} for train, "
            "val and test: DATASET.SPLIT_FILE lists/{}_mine.txt",
            "missing",
        )
    lists: Lists = {}
    for split in SPLITS if has_variants else splits:
        path = file.with_name(file.name.replace("{}", split))
        if split != "val" or (several and path.is_file()):
            lists[split] = read_list(path, images, names, ".jpg" if has_variants else "")
    return lists


def _read_json(path: Path, images: Path) -> tuple[list[str], Lists]:
    """Return the class names and lists in CoOp's split file."""
    text = read_list_text(path)
    try:
        content = json.loads(text)
        lists = {
            split: [
                # Through str, because int(0.7) would be class 0.
                Datum(image_path(images, name), int(str(label)), classname=str(classname))
                for name, label, classname in content[split]
            ]
            for split in SPLITS
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{absolute(path)} is not a split file of CoOp's kind ({error!r}). It must hold "
            '{"train": [["path.jpg", 0, "class name"], ...], "val": ..., "test": ...}.'
        ) from error
    if outside := [row[0] for split in SPLITS for row in content[split] if not inside(row[0])]:
        fault = OUTSIDE.format(absolute(images))
        raise DataError(f"{absolute(path)} has images {fault}: {first_few(outside, 3)}.")
    return _names_by_label(lists, str(path)), lists


def _names_by_label(lists: Lists, source: str) -> Sequence[str]:
    names = {(item.label, item.classname) for items in lists.values() for item in items}
    labels = sorted(label for label, _ in names)
    if labels != list(range(len(names))):
        ambiguous = sorted({label for label in labels if labels.count(label) > 1})
        raise DataError(
            f"{source}: labels must run from 0, each with one class name; found {len(set(labels))} "
            f"labels from {labels[0]} to {labels[-1]}; labels with several names: "
            f"{ambiguous[:5] or 'none'}."
        )
    return [name for _, name in sorted(names)]
