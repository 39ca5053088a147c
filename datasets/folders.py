"""Image listings and class folders: the one place that walks the disk."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dassl.data.datasets import Datum
from dassl.utils.errors import InputError

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
)
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {  # what else they are called, in small letters
    "train": ("training", "trainset", "train_set", "ilsvrc2012_img_train", "train_images"),
    "val": (
        "validation",
        "valid",
        "vali",
        "dev",
        "valset",
        "val_set",
        "ilsvrc2012_img_val",
        "val_images",
    ),
    "test": ("testing", "eval", "testset", "test_set", "test_images"),
}


def image_names(folder: str | Path, recursive: bool = True) -> list[str]:
    """Images in a folder: posix paths relative to it, sorted; hidden entries are skipped.

    Strings, because ImageNet's training set has 1.3 million of them. Links are followed, but no
    folder is listed twice: of its names the shortest counts, then the first.

    Raises:
        InputError: the folder, or one in it, cannot be listed.
    """
    return sorted(walk_images(folder, recursive))


def walk_images(folder: str | Path, recursive: bool = True) -> Iterator[str]:
    """As :func:`image_names`, one by one: folder by folder, sorted in each. Holds the names of
    folders and of one folder's files."""
    for prefix, entries in walk(folder):
        yield from sorted(
            prefix + name for name, is_dir in entries.items() if not is_dir and is_image(name)
        )
        if not recursive:
            return


def walk(
    folder: str | Path, refused: Callable[[InputError], None] | None = None
) -> Iterator[tuple[str, dict[str, bool]]]:
    """The folder and all below it: posix path relative to it, and entries -> whether a folder.

    The path is "" for the folder itself, else ends in a slash; parents come before what is in
    them. Links are followed, no folder comes twice, hidden entries are skipped.

    Args:
        refused: told of each folder that cannot be listed, which is then left out.

    Raises:
        InputError: a folder cannot be listed, and nobody is told of it.
    """
    visited = set()
    pending = deque([""])
    while pending:
        prefix = pending.popleft()
        path = os.path.join(folder, prefix)
        try:
            entries = _entries(path)
        except InputError as error:
            if refused is None:
                raise
            refused(error)
            continue
        found = os.stat(path)
        if (found.st_dev, found.st_ino) in visited:
            continue
        visited.add((found.st_dev, found.st_ino))
        yield prefix, entries
        pending += sorted(f"{prefix}{name}/" for name, is_dir in entries.items() if is_dir)


def find_folder(root: Path, name: str) -> Path | None:
    """The folder ``root/name`` if it is there, else one whose name differs in upper and lower case.

    ``name`` may have several parts, or be absolute.
    """
    if (root / name).is_dir() or os.path.isabs(name):
        return root / name if (root / name).is_dir() else None
    found = root
    for part in Path(name).parts:
        if not (found / part).is_dir():
            entries = _entries(found) if found.is_dir() else {}
            alike = sorted(
                entry
                for entry, is_dir in entries.items()
                if is_dir and entry.lower() == part.lower()
            )
            if not alike:
                return None
            part = alike[0]
        found /= part
    return found


def holds_images(folder: str | Path) -> bool:
    """Whether there is an image in the folder or below it; looks no further than the first."""
    return any(True for _ in walk_images(folder))


def list_images(folder: str | Path, recursive: bool = True) -> list[Path]:
    """The files of :func:`image_names` as paths that start with ``folder``, in the same order."""
    return [Path(folder, name) for name in image_names(folder, recursive)]


def is_image(name: str) -> bool:
    """Whether the file name ends like an image's, in any case of letters."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def class_folders(split: Path) -> list[str]:
    """Sorted names of the class folders in a split such as ``.../val``.

    Images beside the class folders belong to no class: a warning counts them.

    Raises:
        InputError: the split is missing, empty, or flat (images but no class folders).
    """
    if not split.is_dir():
        raise InputError(
            f"The folder {absolute(split)} {no_folder(split)}. It must hold one folder of images "
            f"for each class. Found beside it: {contents(split.parent)}."
        )
    entries = _entries(split)
    folders = sorted(name for name, is_dir in entries.items() if is_dir)
    loose = sorted(name for name, is_dir in entries.items() if is_image(name) and not is_dir)
    if not folders:
        raise _no_class_folders(split, loose)
    if loose:
        logger.warning(
            "%d images lie directly in %s, in no class folder, and are left out, such as %s",
            len(loose),
            absolute(split),
            loose[0],
        )
    return folders


def _no_class_folders(split: Path, loose: list[str]) -> InputError:
    if not loose:
        return InputError(
            f"The folder {absolute(split)} holds no class folders. Found in it: "
            f"{contents(split)}. Put one folder of images for each class into it."
        )
    return InputError(
        f"The folder {absolute(split)} is flat: {len(loose)} images such as {loose[0]} lie "
        f"directly in it, and no class folders. Sort them into {split.name}/<class>/. For "
        "ImageNet's validation set the usual valprep.sh does it: run it inside that folder, it "
        "moves each of the 50,000 files into its nXXXXXXXX folder."
    )


def split_meant(name: str) -> str | None:
    """The split that a folder of another name seems to be: ``Val`` and ``validation`` are val."""
    if name in SPLITS:
        return None
    return next(
        (
            split
            for split, others in SPLIT_NAMES.items()
            if name.lower() == split or name.lower() in others
        ),
        None,
    )


def find_splits(folder: Path) -> dict[str, Path]:
    """The splits of a data set: ``folder/images/{train,val,test}`` or ``folder/{train,...}``.

    Raises:
        InputError: no such folder, or neither ``val`` nor ``test`` in it.
    """
    if not folder.is_dir():
        raise InputError(
            f"The data set's folder {absolute(folder)} {no_folder(folder)}. Found beside it: "
            f"{contents(folder.parent)}. Set DATASET.ROOT (--root) and DATASET.FOLDER, the "
            "folder under it."
        )
    for parent in (folder / "images", folder):
        splits = {name: parent / name for name in SPLITS if (parent / name).is_dir()}
        if "val" in splits or "test" in splits:
            return splits
    raise InputError(
        f"The folder {absolute(folder)} has no images to evaluate on: neither val/<class>/ nor "
        f"test/<class>/ lies in it or in its images/ folder. Found in it: {contents(folder)}. "
        "Sort the images into train/<class>/ and val/<class>/ (or test/<class>/)."
    )


def read_class_folders(
    split: Path, folders: Sequence[str], classnames: Sequence[str]
) -> list[Datum]:
    """Every image of the given class folders: label = position of its folder in ``folders``.

    Raises:
        InputError: a class folder is missing or has no images; all such folders are counted.
    """
    require_folders(split, folders, class_folders(split))
    items: list[Datum] = []
    empty = []
    for label, (folder, classname) in enumerate(zip(folders, classnames, strict=True)):
        path = os.path.join(split, folder)
        names = image_names(path)
        if not names:
            empty.append(folder)
        items += [Datum(f"{path}/{name}", label, classname=classname) for name in names]
    if empty:
        raise InputError(
            f"{len(empty)} of {len(folders)} class folders in {absolute(split)} hold no images: "
            f"{some(empty)}. Allowed: {', '.join(sorted(IMAGE_EXTENSIONS))}. Fill or remove "
            "them, or choose classes with DATASET.CLASSES."
        )
    return items


def require_folders(split: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raise an InputError that counts and names the ``wanted`` class folders not in ``found``."""
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise InputError(
            f"{len(missing)} of {len(wanted)} class folders are missing in {absolute(split)}: "
            f"{some(missing)}. Found: {len(found)} class folders. Complete the data, or set "
            'DATASET.CLASSES: "present" takes the classes whose folders exist, or name them.'
        )


def in_all(found: dict[str, list[str]]) -> list[str]:
    """The class folders that all splits have, sorted: DATASET.CLASSES "present".

    Raises:
        InputError: there is none.
    """
    common = sorted(set.intersection(*map(set, found.values())))
    if not common:
        raise InputError(
            f'DATASET.CLASSES is "present", but {", ".join(found)} have no class folder in '
            "common. Name the class folders alike in all of them."
        )
    return common


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few names and how many more there are, for messages."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def contents(folder: Path) -> str:
    """What a folder holds, in a few words, for messages."""
    if not folder.is_dir():
        return f"nothing ({absolute(folder)} {no_folder(folder)})"
    return some(sorted(_entries(folder))) or "nothing"


def no_folder(path: Path) -> str:
    """Why a path that should be a folder is none, for messages."""
    return "is a file, not a folder" if path.exists() else "does not exist"


def absolute(path: str | Path) -> str:
    """The absolute path, for messages: users are often not in the folder they think they are."""
    return os.path.abspath(path)


def _entries(folder: str | Path) -> dict[str, bool]:
    """Names in a folder but hidden ones -> whether each is a folder, or a link to one."""
    try:
        with os.scandir(folder) as scan:
            return {entry.name: entry.is_dir() for entry in scan if entry.name[0] != "."}
    except OSError as error:  # of the folder, or of a link in it that leads to itself
        raise InputError(
            f"{absolute(error.filename or folder)} cannot be listed: {error.strerror}. Check the "
            "path, what it links to, and the permissions."
        ) from error
