"""OOD sets: plain folders of images, named in the YAML or by --ood-data."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import Datum
from dassl.utils.errors import InputError
from dassl.utils.names import check_set_name
from datasets.classfolders import data_root, require_root
from datasets.folders import (
    DataError,
    absolute,
    contents,
    find_folder,
    image_names,
    not_images,
    wrong_count,
)

logger = logging.getLogger(__name__)

OOD_LABEL = -1
AVERAGE = "average"
TAKEN = (AVERAGE, "ID")  # names that the results give to rows of their own
# Under the root, or under one of these in it: where the public projects gather their OOD sets.
GATHERED = ("ImageNet_OOD_dataset", "ood_datasets", "ood_data", "ood-imagenet", "small_OOD_dataset")


def load_ood_sets(cfg: CfgNode) -> dict[str, list[Datum]]:
    """List every OOD set of `cfg.OOD.SETS`, in its order, images sorted by path, label -1.

    A set with no FOLDERS is left out. A count other than IMAGES is warned of: Places365, for one,
    is easily taken for the curated 10,000.

    Raises:
        InputError: no set is configured, a set's name is unfit for the results, none of its
            folders exists, or the folder holds no images.
    """
    # All are found before any is listed: that takes longer.
    found = {name: find_ood_set(cfg, name) for name in ood_set_names(cfg)}
    return {name: _read(cfg, name, folder) for name, folder in found.items()}


def ood_set_names(cfg: CfgNode) -> list[str]:
    """Return the names of the OOD sets that have FOLDERS.

    Raises:
        InputError: a set's entry is malformed, or its name is unfit for the results.
        DataError: no set is configured.
    """
    for name, entry in cfg.OOD.SETS.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("FOLDERS"), (list, tuple)):
            raise InputError(
                f"OOD.SETS.{name} is {entry!r}. It must name its folders in a list, and may give "
                f"the expected count:   {name}: {{FOLDERS: [{name}], IMAGES: 10000}}"
            )
    names = [name for name, entry in cfg.OOD.SETS.items() if entry.FOLDERS]
    # Here, not when the results are written: that is hours later.
    for name in names:
        check_set_name(name)
        if name.lower() in map(str.lower, TAKEN) or name.lower().startswith(f"{AVERAGE} "):
            raise InputError(
                f"An OOD set may not be called {name!r}: in the results {' and '.join(TAKEN)} are "
                f"names of their own. Rename OOD.SETS.{name} in the data set's YAML."
            )
    if pair := same_file_name(names):
        raise InputError(
            f"The OOD sets {pair[0]!r} and {pair[1]!r} would write one file on macOS and Windows, "
            f"which know no capitals. Rename OOD.SETS.{pair[1]}, or use --ood-data NAME=FOLDER."
        )
    if not names:
        raise DataError(
            "No OOD set is configured. Name at least one: --ood-data FOLDER, or under OOD.SETS in "
            "the data set's YAML, such as   Texture: {FOLDERS: [Texture/images], IMAGES: 5640}",
            "missing",
        )
    return names


def ood_means(cfg: CfgNode) -> dict[str, list[str]]:
    """Return the means that tables give: name -> OOD sets.

    "average" is over the sets without a GROUP (over all, if each has one); "average GROUP" over the
    sets of a group of two or more. Near and far sets, say, are never averaged together.
    """
    group = {name: str(cfg.OOD.SETS[name].get("GROUP", "")) for name in ood_set_names(cfg)}
    means = {AVERAGE: [name for name in group if not group[name]] or list(group)}
    for own in dict.fromkeys(filter(None, group.values())):
        members = [name for name in group if group[name] == own]
        if len(members) > 1:
            means[f"{AVERAGE} {own}"] = members
    return means


def find_ood_set(cfg: CfgNode, name: str) -> Path:
    """Return the folder of an OOD set.

    The first of FOLDERS that exists under DATASET.ROOT is taken, else the first in one of its
    GATHERED folders; names are matched in any case of letters where none matches as written.

    Raises:
        DataError: none exists.
    """
    root, folders = data_root(cfg), cfg.OOD.SETS[name].FOLDERS
    for above in ("", *GATHERED):
        for folder in folders:
            if found := find_folder(root / above, folder):
                return found
    require_root(root, folders)
    raise DataError(
        f"The OOD set {name} was not found. Tried {', '.join(folders)} in {absolute(root)}, which "
        f"holds {contents(root)}. Set DATASET.ROOT (--root), or name its folder: "
        f"OOD.SETS.{name}.FOLDERS \"['FOLDER']\"; [] leaves the set out.",
        "missing",
    )


def same_file_name(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that are one file name on macOS or Windows, None if none are."""
    seen: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        if plain in seen:
            return seen[plain], name
        seen[plain] = name
    return None


def no_images(name: str, folder: Path) -> DataError:
    """Return the fault of a set in whose folder no image lies."""
    return DataError(
        f"The OOD set {name} has no images: {absolute(folder)} holds {contents(folder)}. "
        f"Fill it, or name another folder in OOD.SETS.{name}.FOLDERS.",
        "no images",
    )


def _read(cfg: CfgNode, name: str, folder: Path) -> list[Datum]:
    others: list[str] = []
    images, expected = image_names(folder, others), cfg.OOD.SETS[name].get("IMAGES", 0)
    if not images:
        raise no_images(name, folder)
    logger.info("OOD set %s: %d images in %s", name, len(images), absolute(folder))
    if others:
        logger.warning("%s", not_images(folder, others))
    if expected and len(images) != expected:
        logger.warning("%s", wrong_count(name, len(images), expected))
    return [Datum(f"{folder}/{image}", OOD_LABEL) for image in images]
