"""OOD sets: plain folders of images, named in YAML."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from dassl.data.datasets import Datum
from dassl.utils.errors import InputError
from dassl.utils.names import check_set_name
from datasets.classfolders import data_root, require_root
from datasets.folders import absolute, contents, find_folder, image_names

logger = logging.getLogger(__name__)

OOD_LABEL = -1
TAKEN = ("average", "ID")  # names that the results give to rows of their own
# Under the root, or under one of these in it: where the public projects gather their OOD sets.
GATHERED = ("ImageNet_OOD_dataset", "ood_datasets", "ood_data", "ood-imagenet", "small_OOD_dataset")


def load_ood_sets(cfg) -> dict[str, list[Datum]]:
    """List every OOD set of ``cfg.OOD.SETS``, in its order, images sorted by path, label -1.

    The first of FOLDERS that exists under DATASET.ROOT is taken, else the first in one of its
    GATHERED folders, with all its subfolders; names are matched in any case of letters where none
    matches as written. A set with no FOLDERS is left out. A count other than IMAGES is warned of:
    Places365, for one, is easily taken for the curated 10,000.

    Raises:
        InputError: a set's name is unfit for the results, no set is configured, none of a set's
            folders exists (all such sets are listed with the paths tried), or a folder holds no
            images.
    """
    found = locate_ood_sets(cfg)
    missing = {name: cfg.OOD.SETS[name].FOLDERS for name, folder in found.items() if folder is None}
    if missing:
        root = data_root(cfg)
        require_root(root, [folder for folders in missing.values() for folder in folders])
        raise _not_found(root, missing)
    return {
        name: _read(name, folder, cfg.OOD.SETS[name].get("IMAGES", 0))
        for name, folder in found.items()
    }


def locate_ood_sets(cfg) -> dict[str, Path | None]:
    """The folder of every OOD set of ``cfg.OOD.SETS``, None where none of its FOLDERS exists.

    Raises:
        InputError: a set's name is unfit for the results, or no set is configured.
    """
    # Here, not when the results are written: that is hours later.
    _check_names(cfg.OOD.SETS)
    wanted = {name: _folders(name, entry) for name, entry in cfg.OOD.SETS.items()}
    if not any(wanted.values()):
        raise InputError(
            "No OOD set is configured. Name at least one: --ood-data FOLDER, or under OOD.SETS in "
            "the data set's YAML, such as   Texture: {FOLDERS: [Texture/images], IMAGES: 5640}"
        )
    root = data_root(cfg)
    return {
        name: next(iter(places(root, folders)), None) for name, folders in wanted.items() if folders
    }


def places(root: Path, folders: Sequence[str]) -> list[Path]:
    """All folders that a set may be meant by, the one that is taken first."""
    tried = (find_folder(root / above, folder) for above in ("", *GATHERED) for folder in folders)
    return [folder for folder in tried if folder is not None]


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        check_set_name(name)
        if name.lower() in map(str.lower, TAKEN):
            raise InputError(
                f"An OOD set may not be called {name!r}: in the results {' and '.join(TAKEN)} are "
                f"names of their own. Rename OOD.SETS.{name} in the data set's YAML."
            )


def _folders(name: str, entry) -> Sequence[str]:
    folders = entry.get("FOLDERS") if isinstance(entry, dict) else None
    if not isinstance(folders, (list, tuple)):
        raise InputError(
            f"OOD.SETS.{name} is {entry!r}. It must name its folders in a list, and may give "
            f"the expected count:   {name}: {{FOLDERS: [{name}], IMAGES: 10000}}"
        )
    return folders


def _not_found(root: Path, missing: dict[str, Sequence[str]]) -> InputError:
    tried = "".join(
        f"\n  {name}: tried " + ", ".join(absolute(root / folder) for folder in folders)
        for name, folders in missing.items()
    )
    example = next(iter(missing))
    return InputError(
        f"{len(missing)} OOD sets were not found:{tried}\nFound in {absolute(root)}: "
        f"{contents(root)}. Set DATASET.ROOT (--root), or name the folder in "
        f"OOD.SETS.{example}.FOLDERS; an empty list there leaves the set out."
    )


def _read(name: str, folder: Path, expected: int) -> list[Datum]:
    images = image_names(folder)
    if not images:
        raise InputError(
            f"The OOD set {name} has no images: {absolute(folder)} holds {contents(folder)}. "
            f"Fill it, or name another folder in OOD.SETS.{name}.FOLDERS."
        )
    logger.info("OOD set %s: %d images in %s", name, len(images), absolute(folder))
    if expected and len(images) != expected:
        logger.warning(
            "OOD set %s: %d images where the protocol has %d: figures are not comparable with "
            "the papers'",
            name,
            len(images),
            expected,
        )
    return [Datum(f"{folder}/{image}", OOD_LABEL) for image in images]
