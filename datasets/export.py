"""Export CIFAR-10, CIFAR-100 or SVHN as class folders: python -m datasets.export --name cifar10

torchvision reads its own files, checked against their MD5 sums before anything in them is
unpickled; the images are written as PNG, without loss, to <ROOT>/<name>/{train,test}/<class>/.
As folders they serve every tool here, as ID set (ImageFolder) or as OOD set (<name>/test).
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torchvision import datasets as tv

from dassl.utils import progress_bar
from dassl.utils.errors import InputError, in_a_sentence
from dassl.utils.files import explain_write_error
from datasets.folders import absolute, image_names

logger = logging.getLogger(__name__)

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Exported:
    """A torchvision data set: how to open a split of it, and the images of each split."""

    open: Callable
    files: str  # where torchvision looks under the root
    images: dict[str, int]


SETS = {
    "cifar10": Exported(
        lambda root, split, download: tv.CIFAR10(root, split == "train", download=download),
        "cifar-10-batches-py/",
        {"train": 50_000, "test": 10_000},
    ),
    "cifar100": Exported(
        lambda root, split, download: tv.CIFAR100(root, split == "train", download=download),
        "cifar-100-python/",
        {"train": 50_000, "test": 10_000},
    ),
    "svhn": Exported(
        lambda root, split, download: tv.SVHN(root, split, download=download),
        "train_32x32.mat and test_32x32.mat",
        {"train": 73_257, "test": 26_032},
    ),
}


def export(name: str, root: str | Path, download: bool = False) -> Path:
    """Write a torchvision data set as class folders; nothing is done where they are complete.

    Args:
        name: one of SETS.
        root: holds torchvision's files, and gets the folder `name`.
        download: let torchvision fetch its files into `root` first.

    Returns:
        The folder. It appears whole or not at all.

    Raises:
        InputError: torchvision's files are missing or not what they should be, the folder is
            there but incomplete, or it cannot be written.
    """
    chosen, folder = SETS[name], Path(root).expanduser() / name
    if folder.exists():
        _require_complete(chosen, folder)
        logger.info("%s is complete: nothing to do", absolute(folder))
        return folder
    parts = {split: _opened(name, chosen, folder.parent, split, download) for split in SPLITS}
    beside = tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder.parent)
    with explain_write_error(folder), beside as temporary:
        whole = Path(temporary, name)
        for split, dataset in parts.items():
            _write(dataset, whole / split, f"{name} {split}")
        _require_complete(chosen, whole)
        os.replace(whole, folder)
    logger.info("%s: %s", absolute(folder), chosen.images)
    return folder


def _opened(name: str, chosen: Exported, root: Path, split: str, download: bool):
    try:
        return chosen.open(root, split, download)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"torchvision cannot open {name}: {error}. It looks for {chosen.files} in "
            f"{absolute(root)}, each file with the MD5 sum it knows. Put them there, or let it "
            f"download them: python -m datasets.export --name {name} --root {root} --download"
        ) from error


def _write(dataset, folder: Path, title: str) -> None:
    # SVHN has no names: its classes are the digits.
    names = getattr(dataset, "classes", None) or [str(digit) for digit in range(10)]
    for class_name in names:
        (folder / class_name).mkdir(parents=True)
    for index in progress_bar(range(len(dataset)), desc=title, unit="image"):
        image, label = dataset[index]
        image.save(folder / names[label] / f"{index:05}.png")


def _require_complete(chosen: Exported, folder: Path) -> None:
    splits = {split: folder / split for split in SPLITS}
    found = {s: len(image_names(path)) if path.is_dir() else 0 for s, path in splits.items()}
    if found != chosen.images:
        raise InputError(
            f"The folder {absolute(folder)} is there, but holds {found} images where the data set "
            f"has {chosen.images}. Remove it to have it written again, or use it as it is."
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m datasets.export", description=__doc__)
    parser.add_argument("--name", required=True, choices=SETS)
    parser.add_argument("--root", default="data", help="data folder (default: data)")
    parser.add_argument("--download", action="store_true", help="let torchvision fetch the files")
    args = parser.parse_args(arguments)
    folder = export(args.name, args.root, args.download)
    print(f"{args.name} is in {folder}: {SETS[args.name].images}")


if __name__ == "__main__":
    with in_a_sentence():
        main()
