"""ID sets whose images are listed in files: CoOp's split_zhou_*.json, FGVC-Aircraft's lists."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import read_json
from datasets.classfolders import data_root, require_root
from datasets.classnames import report_classnames
from datasets.fewshot import draw_as_listed, keep_classes, part_of_classes
from datasets.folders import DataError, absolute, contents, find_folder, no_folder, some

SPLITS = ("train", "val", "test")
VAL_SHOTS = 4  # images a class that CoOp validates on at most, where few are trained on
Lists = dict[str, list[Datum]]


@DATASET_REGISTRY.register()
class ImageList(DatasetBase):
    """Images of DATASET.FOLDER/IMAGES that DATASET.SPLIT_FILE, beside them or a path, divides.

    A `.json` file is CoOp's: {"train", "val", "test": [[path, label, class name], ...]}. A name
    with {} is FGVC-Aircraft's lists, with train, val and test for {}: lines `1025794 707-320`, the
    classes in the order of variants.txt.

    Few-shot images of train, and at most 4 a class of val, are drawn as CoOp draws them, before
    DATASET.SUBSAMPLE_CLASSES keeps a half of the classes.

    Differs from upstream: seed and shots are no file of their own; the draw is made anew.
    """

    def __init__(self, cfg) -> None:
        folder, lists = self.read(cfg)
        self.dataset_dir = str(folder)
        names = _names(lists, cfg.DATASET.SPLIT_FILE)
        part = part_of_classes(len(names), cfg.DATASET.SUBSAMPLE_CLASSES)
        shots, rng = cfg.DATASET.NUM_SHOTS, random.Random(cfg.SEED)
        train = draw_as_listed(lists["train"], shots, cfg.SEED, rng)
        val = draw_as_listed(lists["val"], min(shots, VAL_SHOTS), cfg.SEED, rng)
        own = [names[label] for label in part]
        report_classnames("ImageList", own, cfg.DATASET.SPLIT_FILE)
        kept = (keep_classes(items, part) for items in (train, val, lists["test"]))
        super().__init__(**dict(zip(("train_x", "val", "test"), kept, strict=True)), classnames=own)

    @classmethod
    def read(cls, cfg) -> tuple[Path, Lists]:
        """Return the data set's folder, and what its lists say.

        Raises:
            DataError: a folder, list or listed image is not there, or a list is damaged.
        """
        given, root = cfg.DATASET, data_root(cfg)
        require_root(root, [given.FOLDER])
        folder = find_folder(root, given.FOLDER) or root / given.FOLDER
        images = find_folder(folder, given.IMAGES) or folder / given.IMAGES
        if not images.is_dir():
            raise DataError(
                f"The images' folder {absolute(images)} {no_folder(images)}. Found beside it: "
                f"{contents(images.parent)}. Set DATASET.ROOT (--root), DATASET.FOLDER under it or "
                "DATASET.IMAGES under that.",
                "missing",
            )
        read = _read_texts if "{}" in given.SPLIT_FILE else _read_json
        lists = read(_beside(folder, given.SPLIT_FILE), images)
        for split in ("train", "test"):
            first = next(iter(lists[split]), None)
            if first is None or not os.path.isfile(first.impath):
                what = f"no image {first.impath}" if first else f"nothing to {split} on"
                raise DataError(
                    f"{given.SPLIT_FILE} and {absolute(images)} do not belong together: there is "
                    f"{what}. Unpack the whole data set, or set DATASET.IMAGES.",
                    "missing",
                )
        return folder, lists


def _beside(folder: Path, name: str) -> Path:
    """Return a list in the data set's folder, or at a path of the user's."""
    path = Path(name).expanduser()
    return path if path.parent.is_dir() and path.parent != Path() else folder / name


def _read_json(path: Path, images: Path) -> Lists:
    if not path.is_file():
        raise _no_list(path)
    content = read_json(path)
    try:
        return {
            split: [
                Datum(os.path.join(images, name), int(label), classname=str(classname))
                for name, label, classname in content[split]
            ]
            for split in SPLITS
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{absolute(path)} is not CoOp's kind of split file ({error!r}). It must hold "
            '{"train": [["path.jpg", 0, "class name"], ...], "val": ..., "test": ...}.'
        ) from error


def _read_texts(pattern: Path, images: Path) -> Lists:
    classes = _lines(pattern.with_name("variants.txt"))
    labels = {name: label for label, name in enumerate(classes)}
    lists: Lists = {}
    for split in SPLITS:
        path = pattern.with_name(pattern.name.replace("{}", split))
        pairs = [line.split(" ", 1) for line in _lines(path)]
        unknown = [" ".join(pair) for pair in pairs if pair[-1] not in labels]
        if unknown:
            raise DataError(f"{absolute(path)} names no class of variants.txt in: {some(unknown)}.")
        lists[split] = [
            Datum(os.path.join(images, f"{image}.jpg"), labels[name], classname=name)
            for image, name in pairs
        ]
    return lists


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise _no_list(path)
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _no_list(path: Path) -> DataError:
    return DataError(
        f"The list {absolute(path)} does not exist. Found beside it: {contents(path.parent)}. Put "
        "it there, or name it: DATASET.SPLIT_FILE /its/path.",
        "missing",
    )


def _names(lists: Lists, source: str) -> Sequence[str]:
    """Return the class names in label order."""
    names = {(item.label, item.classname) for items in lists.values() for item in items}
    labels = sorted(label for label, _ in names)
    if labels != list(range(len(names))):
        wrong = sorted({label for label in labels if labels.count(label) > 1})
        raise DataError(
            f"{source}: labels must run from 0, each with one class name; found {len(set(labels))} "
            f"labels from {labels[0]} to {labels[-1]}, of several names: {wrong[:5] or 'none'}."
        )
    return [name for _, name in sorted(names)]
