"""Find and list the splits and class folders of an ID set; a `DataError` says what is wrong."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dassl.data.datasets import Datum
from datasets.folders import (
    DataError,
    absolute,
    contents,
    entries_of,
    first_few,
    identity,
    is_image,
    no_folder,
    not_images,
    subfolders,
    walk_images,
)

logger = logging.getLogger(__name__)

SPLITS = {  # other names of each split, in lower case
    "train": "training trainset train_set train_images ilsvrc2012_img_train",
    "val": "validation valid vali dev valset val_set val_images ilsvrc2012_img_val",
    "test": "testing eval testset test_set test_images",
}


def named_splits(parent: Path) -> dict[str, Path]:
    """Return the folders of the splits in `parent`: `val`, else one such as `Val`, `validation`.

    Raises:
        DataError: two folders may be the same split, or the only one may be a class.
    """
    splits, names = {}, subfolders(parent)
    for split, others in SPLITS.items():
        alike = [name for name in names if name.lower() in (split, *others.split())]
        candidates = [split] if split in names else alike
        if len(candidates) > 1:
            raise DataError(
                f"In {absolute(parent)} {' and '.join(candidates)} may be the {split} images: "
                f"rename one of them to {split}, and move the others away.",
                "two folders",
            )
        if candidates:
            splits[split] = parent / candidates[0]
    if len(splits) == 1 and len(names) > 1:
        [(split, path)] = splits.items()
        if path.name != split:
            raise DataError(
                f"{absolute(path)} may be the {split} images or a class. If it is a split, call it "
                f"{split}; if a class, give it another name. Found beside it: {contents(parent)}.",
                "misnamed",
            )
    return splits


def find_splits(folder: Path) -> dict[str, Path]:
    """Return the splits of a data set: `folder/images/{train,val,test}` or `folder/{...}`;
    DataError if there is no such folder, or neither `val` nor `test` in it."""
    if not folder.is_dir():
        raise DataError(
            f"The data set's folder {absolute(folder)} {no_folder(folder)}. Found beside it: "
            f"{contents(folder.parent)}. Set DATASET.ROOT (--root) or DATASET.FOLDER under it.",
            "missing",
        )
    for parent in (folder / "images", folder):
        splits = named_splits(parent)
        if "val" in splits or "test" in splits:
            return splits
    raise DataError(
        f"The folder {absolute(folder)} has no images to evaluate on: no val/<class>/ or "
        f"test/<class>/ in it or in its images/ folder. Found in it: {contents(folder)}.",
        "no splits",
    )


def class_folders(split: Path) -> list[str]:
    """Return the sorted names of the class folders in a split such as `.../val`.

    Images beside the class folders belong to no class: a warning counts them.

    Raises:
        DataError: the split is missing, empty, or flat (images but no class folders).
    """
    if not split.is_dir():
        raise DataError(
            f"{absolute(split)} {no_folder(split)}. It must hold one folder of images for each "
            f"class. Found beside it: {contents(split.parent)}.",
            "missing",
        )
    entries = entries_of(split)
    folders = sorted(name for name, is_dir in entries.items() if is_dir)
    loose = loose_names(entries)
    if not folders:
        raise _no_class_folders(split, loose)
    if loose:
        logger.warning("%s", loose_images(split, loose))
    return folders


def loose_names(entries: dict[str, bool]) -> list[str]:
    """Return the images among a split's entries: they lie in no class folder."""
    return sorted(name for name, is_dir in entries.items() if is_image(name) and not is_dir)


def loose_images(split: Path, loose: Sequence[str]) -> DataError:
    """Return the error for images that lie directly in a split, not in a class folder."""
    return DataError(
        f"{len(loose)} images lie directly in {absolute(split)}, in no class folder, and are left "
        f"out, such as {loose[0]}. Move each into the folder of its class.",
        "loose images",
        loose,
    )


def _no_class_folders(split: Path, loose: list[str]) -> DataError:
    if not loose:
        return DataError(
            f"The folder {absolute(split)} holds no class folders. Found in it: "
            f"{contents(split)}. Put one folder of images for each class into it.",
            "empty",
        )
    return DataError(
        f"The folder {absolute(split)} is flat: {len(loose)} images such as {loose[0]} lie "
        f"directly in it, and no class folders. Sort them into {split.name}/<class>/; for "
        "ImageNet's validation set, run the usual valprep.sh inside that folder.",
        "flat",
        loose,
    )


def require_folders(split: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    """Raise a DataError if `wanted` class folders are not in `present`."""
    missing = sorted(set(wanted) - set(present))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(wanted)} class folders are missing in {absolute(split)}: "
            f"{first_few(missing)}. Found: {len(present)} class folders. Complete the data, or set "
            'DATASET.CLASSES to "present", for the classes whose folders exist, or to their names.',
            "classes missing",
            missing,
        )


def common_folders(by_split: dict[Path, list[str]]) -> list[str]:
    """Return the sorted class folders that all splits have (DATASET.CLASSES "present"); DataError
    if there is none."""
    common = sorted(set.intersection(*map(set, by_split.values())))
    if not common:
        raise DataError(
            f'DATASET.CLASSES is "present", but {", ".join(path.name for path in by_split)} have '
            "no class folder in common. Give each class folder the same name in all of them.",
            "classes differ",
        )
    return common


def class_images(
    split: Path, folders: Sequence[str], others: list[str]
) -> Iterator[tuple[str, list[str]]]:
    """Yield each class folder with its images' paths relative to it; `others` as in `walk_images`.

    A link to the folder of another class is not followed, so that no image gets two labels.
    """
    excluded = {identity(split / name) for name in subfolders(split)}
    for folder in folders:
        key = identity(split / folder)
        excluded.discard(key)
        yield folder, sorted(walk_images(os.path.join(split, folder), others, excluded))
        excluded.add(key)


def read_class_folders(
    split: Path, folders: Sequence[str], classnames: Sequence[str]
) -> list[Datum]:
    """Return every image of the class folders: its label is its folder's position in `folders`.
    DataError if class folders hold no images."""
    items: list[Datum] = []
    empty, others = [], []
    for label, (folder, names) in enumerate(class_images(split, folders, others)):
        path = os.path.join(split, folder)
        items += [Datum(f"{path}/{name}", label, classname=classnames[label]) for name in names]
        if not names:
            empty.append(folder)
    if empty:
        raise empty_classes(split, empty, len(folders))
    if others:
        logger.warning("%s", not_images(split, others))
    return items


def empty_classes(split: Path, empty: Sequence[str], count: int) -> DataError:
    """Return the error for class folders that hold no images."""
    return DataError(
        f"{len(empty)} of {count} class folders in {absolute(split)} hold no images: "
        f"{first_few(empty)}. Images have an extension that Pillow decodes (.jpg, .png, .webp, "
        "...). Fill or remove the folders, or choose classes with DATASET.CLASSES.",
        "empty classes",
        empty,
    )
