"""Export CIFAR-10, CIFAR-100 or SVHN as class folders: python -m datasets.export --name cifar10

torchvision checks the MD5 sums of its files before it unpickles them; the images are written
as PNG, without loss, to <ROOT>/<name>/{train,test}/<class>/. As folders they can be used by every
command here, as ID set (ImageFolder) or as OOD set (<name>/test).
"""

import argparse
import logging
import os
import tempfile
from pathlib import Path

from torch.utils.data import Dataset
from torchvision import datasets as tv

from dassl.command import run
from dassl.utils import InputError, progress_bar
from dassl.utils.files import explain_write_error
from datasets.folders import absolute, walk_images

logger = logging.getLogger(__name__)

IMAGES = {  # number of images in each split
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "svhn": {"train": 73_257, "test": 26_032},
}


def export(name: str, root: str | Path, download: bool = False) -> Path:
    """Write a torchvision data set, one of IMAGES, as class folders, and return their folder.

    It appears only when it is complete; a complete one stays as it is.

    Args:
        root: holds torchvision's files (`download` fetches them first), and gets the folder `name`.

    Raises:
        InputError: torchvision's files are missing or have a wrong MD5 sum, the folder exists but
            is incomplete, or it cannot be written.
    """
    folder = Path(root).expanduser() / name
    if folder.exists():
        _require_complete(name, folder)
        logger.info("%s is complete: nothing to do", absolute(folder))
        return folder
    splits = {split: _open_split(name, folder.parent, split, download) for split in IMAGES[name]}
    workspace = tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder.parent)
    with explain_write_error(folder), workspace as temporary:
        complete = Path(temporary, name)
        for split, dataset in splits.items():
            _write(dataset, complete / split, f"{name} {split}")
        _require_complete(name, complete)
        os.replace(complete, folder)
    return folder


def _open_split(name: str, root: Path, split: str, download: bool) -> Dataset:
    try:
        if name == "svhn":
            return tv.SVHN(root, split, download=download)
        dataset_class = tv.CIFAR10 if name == "cifar10" else tv.CIFAR100
        return dataset_class(root, split == "train", download=download)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"torchvision cannot open {name} in {absolute(root)}: {error}. Put its files there, "
            "with the MD5 sums that torchvision expects, or download them: python -m "
            f"datasets.export --name {name} --root {root} --download"
        ) from error


def _write(dataset: Dataset, folder: Path, title: str) -> None:
    # SVHN has no class names: its classes are the digits.
    names = getattr(dataset, "classes", None) or [str(digit) for digit in range(10)]
    for class_name in names:
        (folder / class_name).mkdir(parents=True)
    for index in progress_bar(range(len(dataset)), desc=title, unit="image"):
        image, label = dataset[index]
        image.save(folder / names[label] / f"{index:05}.png")


def _require_complete(name: str, folder: Path) -> None:
    paths = {split: folder / split for split in IMAGES[name]}
    found = {s: len([*walk_images(path)]) if path.is_dir() else 0 for s, path in paths.items()}
    if found != IMAGES[name]:
        raise InputError(
            f"The folder {absolute(folder)} exists, but holds {found} images where the data set "
            f"has {IMAGES[name]}. Remove it and run the same command again, or use it as it is."
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.export", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--name", required=True, choices=IMAGES)
    parser.add_argument("--root", default="data", help="data folder (default: data)")
    parser.add_argument("--download", action="store_true", help="let torchvision fetch the files")
    args = parser.parse_args(arguments)
    folder = export(args.name, args.root, args.download)
    print(f"{args.name} is in {folder}: {IMAGES[args.name]}")


if __name__ == "__main__":
    run(main)
