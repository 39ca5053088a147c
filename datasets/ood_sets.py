"""OOD sets, and shifted ID sets: folders or lists of images, named in the YAML or by --ood-data."""

import logging
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.data_manager import skips_bad_images
from dassl.data.datasets import Datum
from dassl.utils.errors import InputError
from dassl.utils.names import check_set_name, suggest
from datasets.classfolders import data_root, require_root
from datasets.classnames import read_class_list
from datasets.folders import (
    DataError,
    absolute,
    contents,
    counted,
    find_folder,
    not_images,
    walk_images,
)
from datasets.lists import OOD_LABEL, absent_images, not_there, protocol_faults, read_list
from datasets.splits import class_folders, class_images, require_folders

logger = logging.getLogger(__name__)

AVERAGE = "average"
KEYS = ("FOLDERS", "LIST", "CLASSES", "IMAGES", "MD5", "GROUP", "DOWNLOAD")  # of an entry
RESERVED = (AVERAGE, "ID")  # names of rows that the results add
# Folders under the root in which public projects gather their OOD sets.
GATHERED = ("ImageNet_OOD_dataset", "ood_datasets", "ood_data", "ood-imagenet", "small_OOD_dataset")


def load_ood_sets(cfg: CfgNode) -> dict[str, list[Datum]]:
    """Return the images of every OOD set of `cfg.OOD.SETS`, in its order, with label -1.

    Images in folders are sorted by path, those of a LIST keep its order. A set with no FOLDERS is
    left out. A count other than IMAGES, or a list with another MD5, gives a warning: the whole of
    Places365, for example, is easily mistaken for the curated 10,000.

    Raises:
        InputError: no set is configured, a set's name is unfit for the results, none of its
            folders exists, or the folder holds no images or lacks listed ones.
    """
    return _load(cfg, set_names(cfg)[0])


def load_shifted_sets(cfg: CfgNode, classnames: Sequence[str]) -> dict[str, list[Datum]]:
    """Return the images of every set of `cfg.OOD.SHIFTED`: ID classes, another distribution.

    Their labels need all ID classes; with DATASET.SUBSAMPLE_CLASSES base or new none are loaded.

    Raises:
        InputError: as `load_ood_sets`; a label that is no class.
    """
    _, names = set_names(cfg)
    if names and cfg.DATASET.SUBSAMPLE_CLASSES != "all":
        logger.warning("Shifted ID sets need all classes: %s left out", ", ".join(names))
        return {}
    return _load(cfg, names, classnames)


def warn_of_shared_images(sets: Mapping[str, Sequence[Datum]]) -> None:
    """Warn of images that belong to two of `sets`, such as the ID set and an OOD set."""
    shared = shared_images({name: [x.impath for x in items] for name, items in sets.items()})
    if shared:
        listed = ", ".join(f"{counted(n, 'image')} in both {a} and {b}" for a, b, n in shared)
        logger.warning("%s. They count in each of these sets", listed)


def shared_images(sets: Mapping[str, Sequence[str]]) -> list[tuple[str, str, int]]:
    """Return the pairs of `sets` that share files, by links too, and how many: name -> paths."""
    real = cache(os.path.realpath)  # of each folder once
    files = {
        name: {(real(os.path.dirname(path)), os.path.basename(path)) for path in paths}
        for name, paths in sets.items()
    }
    pairs = ((a, b, len(files[a] & files[b])) for a, b in combinations(files, 2))
    return [pair for pair in pairs if pair[-1]]


def set_entry(cfg: CfgNode, name: str) -> tuple[CfgNode, str]:
    """Return the entry of an OOD set or a shifted ID set, and its key, such as OOD.SETS.SUN."""
    node = "SETS" if name in cfg.OOD.SETS else "SHIFTED"
    return cfg.OOD[node][name], f"OOD.{node}.{name}"


def set_names(cfg: CfgNode) -> tuple[list[str], list[str]]:
    """Return the names of the OOD sets, and of the shifted ID sets, that have FOLDERS.

    Raises:
        InputError: a set's name is unfit for the results.
        DataError: no OOD set is configured.
    """
    sets = cfg.OOD.SETS, cfg.OOD.SHIFTED
    ood, shifted = ([name for name in node if node[name].FOLDERS] for node in sets)
    # Checked now, because the results are written hours later.
    for name in ood + shifted:
        check_set_name(name)
        if name.lower() in map(str.lower, RESERVED) or name.lower().startswith(f"{AVERAGE} "):
            raise InputError(
                f"An OOD set may not be called {name!r}: the results have rows of their own called "
                f"{' and '.join(RESERVED)}. Rename {set_entry(cfg, name)[1]} in the data set's "
                "YAML, or give it another name by --ood-data NAME=FOLDER."
            )
    if pair := same_file_name(ood + shifted):
        raise InputError(
            f"The OOD sets {pair[0]!r} and {pair[1]!r} are one file name on macOS and Windows, "
            f"which ignore capitals. Rename OOD.SETS.{pair[1]}, or use --ood-data NAME=FOLDER."
        )
    if pair := same_file_name(dict.fromkeys(cfg.OOD.SETS[name].get("GROUP", "") for name in ood)):
        raise InputError(
            f"The groups {pair[0]!r} and {pair[1]!r} of OOD sets differ only in capitals and would "
            "have an average each. Write GROUP alike in both."
        )
    if not ood:
        raise DataError(
            "No OOD set is configured. Name at least one: --ood-data FOLDER, or under OOD.SETS in "
            "the data set's YAML, such as   Texture: {FOLDERS: [Texture/images], IMAGES: 5640}",
            "missing",
        )
    return ood, shifted


def check_sets(cfg: CfgNode) -> None:
    """Raise InputError for an entry of OOD.SETS, OOD.SHIFTED or OOD.ID with an unknown key, which
    would be ignored, or with a value of another type."""
    sets = [(node, *item) for node in ("SETS", "SHIFTED") for item in cfg.OOD[node].items()]
    for node, name, entry in sets:
        key = f"OOD.{node}.{name}"
        if not isinstance(entry, dict) or "FOLDERS" not in entry:
            raise InputError(
                f"{key} is {entry!r}. It must list its folders, and may give the expected number "
                f"of images:   {name}: {{FOLDERS: [{name}], IMAGES: 10000}}"
            )
        _check_entry(entry, key, KEYS)
        if node == "SHIFTED" and entry.FOLDERS and not entry.get("LIST"):
            raise InputError(f"{key} has no LIST, which gives the labels of shifted ID images.")
    _check_entry(cfg.OOD.ID, "OOD.ID", ("IMAGES", "MD5"))


def _check_entry(entry: CfgNode, key: str, known: Sequence[str]) -> None:
    for name, value in entry.items():
        if name not in known:
            raise InputError(f"{key} has the unknown key {name!r}. {suggest(name, known)}")
        if name == "FOLDERS":
            fits = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
            wanted = "a list of paths, each in quotes if YAML takes it for a number"
        elif name == "IMAGES":
            fits, wanted = type(value) is int and value >= 0, "a whole number, 0 if unknown"
        else:
            fits = isinstance(value, str)
            wanted = "text, in quotes if YAML takes it for a number"
        if not fits:
            raise InputError(f"{key}.{name} is {value!r}. It must be {wanted}.")


def ood_means(cfg: CfgNode) -> dict[str, list[str]]:
    """Return the averages in tables: name -> OOD sets.

    "average" is over the sets without a GROUP (over all, if each has one), "average GROUP" over the
    sets of a group of two or more, such as near. Shifted ID sets are in no average.
    """
    group_of = {name: cfg.OOD.SETS[name].get("GROUP", "") for name in set_names(cfg)[0]}
    means = {AVERAGE: [name for name in group_of if not group_of[name]] or list(group_of)}
    for group in dict.fromkeys(filter(None, group_of.values())):
        members = [name for name in group_of if group_of[name] == group]
        if len(members) > 1:
            means[f"{AVERAGE} {group}"] = members
    return means


def find_ood_set(cfg: CfgNode, name: str) -> Path:
    """Return the folder of an OOD set or a shifted ID set, which holds the paths of a LIST.

    It is the first of FOLDERS that exists under DATASET.ROOT, else the first in one of its
    GATHERED folders, in upper or lower case if none matches as written; DataError if none exists.
    """
    entry, key = set_entry(cfg, name)
    root, folders = data_root(cfg), entry.FOLDERS
    for parent in ("", *GATHERED):
        for folder in folders:
            if path := find_folder(root / parent, folder):
                return path
    require_root(root, folders)
    kind = "OOD" if name in cfg.OOD.SETS else "shifted ID"
    raise DataError(
        f"The {kind} set {name} was not found. Tried {', '.join(folders)} in {absolute(root)}, "
        f"which holds {contents(root)}. Set DATASET.ROOT (--root), or name its folder: "
        f"{key}.FOLDERS \"['FOLDER']\"; [] leaves the set out.",
        "missing",
    )


def same_file_name(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that are the same file name on macOS or Windows, or None."""
    seen: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        if plain in seen:
            return seen[plain], name
        seen[plain] = name
    return None


def no_images(name: str, folder: Path) -> DataError:
    """Return the error for an OOD set whose folder holds no image."""
    return DataError(
        f"The OOD set {name} has no images: {absolute(folder)} holds {contents(folder)}. "
        f"Fill it, or name another folder in OOD.SETS.{name}.FOLDERS.",
        "no images",
    )


def list_file(cfg: CfgNode, name: str) -> Path | None:
    """Return the path of a set's LIST, under DATASET.ROOT or absolute; None if it has none."""
    file = set_entry(cfg, name)[0].get("LIST")
    return data_root(cfg) / file if file else None


def class_names_of(cfg: CfgNode, name: str, folder: Path) -> list[str] | None:
    """Return the class folders that make up an OOD set (CLASSES); None for its whole folder."""
    text = set_entry(cfg, name)[0].get("CLASSES")
    if not text:
        return None
    classes = read_class_list(text)
    require_folders(folder, classes, class_folders(folder))
    return classes


def _load(
    cfg: CfgNode, names: Sequence[str], classnames: Sequence[str] | None = None
) -> dict[str, list[Datum]]:
    # Find all before listing any, which takes longer.
    folders = {name: find_ood_set(cfg, name) for name in names}
    return {name: _read(cfg, name, folder, classnames) for name, folder in folders.items()}


def _read(cfg: CfgNode, name: str, folder: Path, classnames: Sequence[str] | None) -> list[Datum]:
    entry, _ = set_entry(cfg, name)
    file = list_file(cfg, name)
    items = read_list(file, folder, classnames) if file else _in_folder(cfg, name, folder)
    if file and not skips_bad_images(cfg) and (missing := absent_images(items)):
        raise not_there(absolute(file), missing)
    logger.info("%s: %d images in %s", name, len(items), absolute(file or folder))
    for fault in protocol_faults(name, items, entry, file):
        logger.warning("%s", fault)
    return items


def _in_folder(cfg: CfgNode, name: str, folder: Path) -> list[Datum]:
    others: list[str] = []
    classes = class_names_of(cfg, name, folder)
    if classes is None:
        images = sorted(walk_images(folder, others))
    else:
        by_class = class_images(folder, classes, others)
        images = sorted(f"{name}/{image}" for name, names in by_class for image in names)
    if not images:
        raise no_images(name, folder)
    if others:
        logger.warning("%s", not_images(folder, others))
    return [Datum(f"{folder}/{image}", OOD_LABEL) for image in images]
