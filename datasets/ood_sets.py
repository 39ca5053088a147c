"""OOD sets, and shifted ID sets: folders or lists of images, named in the YAML or by --ood-data."""

import logging
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.data_manager import skips_bad_images
from dassl.data.datasets import Datum
from dassl.utils.errors import InputError
from dassl.utils.names import check_set_name
from datasets.classfolders import data_root, require_root
from datasets.classnames import read_class_list
from datasets.folders import DataError, absolute, contents, find_folder, not_images, walk_images
from datasets.lists import OOD_LABEL, absent_images, not_there, protocol_faults, read_list
from datasets.splits import class_folders, class_images, require_folders

logger = logging.getLogger(__name__)

AVERAGE = "average"
TAKEN = (AVERAGE, "ID")  # names that the results give to rows of their own
# Under the root, or under one of these in it: where the public projects gather their OOD sets.
GATHERED = ("ImageNet_OOD_dataset", "ood_datasets", "ood_data", "ood-imagenet", "small_OOD_dataset")


def load_ood_sets(cfg: CfgNode) -> dict[str, list[Datum]]:
    """Return the images of every OOD set of `cfg.OOD.SETS`, in its order, with label -1.

    Those of folders are sorted by path, those of a LIST in its order. A set with no FOLDERS is left
    out. A count other than IMAGES, or a list of another MD5, is warned of: Places365, for one, is
    easily taken for the curated 10,000.

    Raises:
        InputError: no set is configured, a set's name is unfit for the results, none of its
            folders exists, or the folder holds no images, or not those of the list.
    """
    return _load(cfg, set_names(cfg)[0])


def load_shifted_sets(cfg: CfgNode, classnames: Sequence[str]) -> dict[str, list[Datum]]:
    """Return the images of every set of `cfg.OOD.SHIFTED`: ID images of another distribution.

    Their labels are those of the ID set. Half of its classes (DATASET.SUBSAMPLE_CLASSES) have none.

    Raises:
        InputError: as `load_ood_sets`; a set without a LIST; a label that is no class.
    """
    _, names = set_names(cfg)
    if names and cfg.DATASET.SUBSAMPLE_CLASSES != "all":
        logger.warning("Shifted ID sets have labels of all classes: %s left out", ", ".join(names))
        return {}
    return _load(cfg, names, classnames)


def set_entry(cfg: CfgNode, name: str) -> tuple[CfgNode, str]:
    """Return the entry of an OOD set or a shifted ID set, and its key, such as OOD.SETS.SUN."""
    node = "SETS" if name in cfg.OOD.SETS else "SHIFTED"
    return cfg.OOD[node][name], f"OOD.{node}.{name}"


def set_names(cfg: CfgNode) -> tuple[list[str], list[str]]:
    """Return the names of the OOD sets, and of the shifted ID sets, that have FOLDERS.

    Raises:
        InputError: a set's entry is malformed, or its name is unfit for the results.
        DataError: no OOD set is configured.
    """
    for name in (*cfg.OOD.SETS, *cfg.OOD.SHIFTED):
        _check_entry(*set_entry(cfg, name), name)
    sets = cfg.OOD.SETS, cfg.OOD.SHIFTED
    outside, shifted = ([name for name in node if node[name].FOLDERS] for node in sets)
    # Here, not when the results are written: that is hours later.
    for name in outside + shifted:
        check_set_name(name)
        if name.lower() in map(str.lower, TAKEN) or name.lower().startswith(f"{AVERAGE} "):
            raise InputError(
                f"An OOD set may not be called {name!r}: in the results {' and '.join(TAKEN)} are "
                f"names of their own. Rename OOD.SETS.{name} in the data set's YAML."
            )
    if pair := same_file_name(outside + shifted):
        raise InputError(
            f"The OOD sets {pair[0]!r} and {pair[1]!r} would write one file on macOS and Windows, "
            f"which know no capitals. Rename OOD.SETS.{pair[1]}, or use --ood-data NAME=FOLDER."
        )
    if not outside:
        raise DataError(
            "No OOD set is configured. Name at least one: --ood-data FOLDER, or under OOD.SETS in "
            "the data set's YAML, such as   Texture: {FOLDERS: [Texture/images], IMAGES: 5640}",
            "missing",
        )
    return outside, shifted


def _check_entry(entry: CfgNode, key: str, name: str) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("FOLDERS"), (list, tuple)):
        raise InputError(
            f"{key} is {entry!r}. It must name its folders in a list, and may give "
            f"the expected count:   {name}: {{FOLDERS: [{name}], IMAGES: 10000}}"
        )
    if key.startswith("OOD.SHIFTED") and entry.FOLDERS and not entry.get("LIST"):
        raise InputError(f"{key} has no LIST: labels of shifted ID images come from a list.")


def ood_means(cfg: CfgNode) -> dict[str, list[str]]:
    """Return the means that tables give: name -> OOD sets.

    "average" is over the sets without a GROUP (over all, if each has one); "average GROUP" over the
    sets of a group of two or more, such as near ones. Shifted ID sets are in none.
    """
    group = {name: str(cfg.OOD.SETS[name].get("GROUP", "")) for name in set_names(cfg)[0]}
    means = {AVERAGE: [name for name in group if not group[name]] or list(group)}
    for own in dict.fromkeys(filter(None, group.values())):
        members = [name for name in group if group[name] == own]
        if len(members) > 1:
            means[f"{AVERAGE} {own}"] = members
    return means


def find_ood_set(cfg: CfgNode, name: str) -> Path:
    """Return the folder of an OOD set or a shifted ID set; of a LIST, that its paths are under.

    The first of FOLDERS that exists under DATASET.ROOT is taken, else the first in one of its
    GATHERED folders; names are matched in any case of letters where none matches as written.
    DataError where none exists.
    """
    entry, key = set_entry(cfg, name)
    root, folders = data_root(cfg), entry.FOLDERS
    for above in ("", *GATHERED):
        for folder in folders:
            if found := find_folder(root / above, folder):
                return found
    require_root(root, folders)
    kind = "OOD" if name in cfg.OOD.SETS else "shifted ID"
    raise DataError(
        f"The {kind} set {name} was not found. Tried {', '.join(folders)} in {absolute(root)}, "
        f"which holds {contents(root)}. Set DATASET.ROOT (--root), or name its folder: "
        f"{key}.FOLDERS \"['FOLDER']\"; [] leaves the set out.",
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


def list_file(cfg: CfgNode, name: str) -> Path | None:
    """Return the path of a set's list, under DATASET.ROOT or absolute; None where it has none."""
    file = set_entry(cfg, name)[0].get("LIST")
    return data_root(cfg) / file if file else None


def class_names_of(cfg: CfgNode, name: str, folder: Path) -> list[str] | None:
    """Return the class folders that are an OOD set (CLASSES); None: all that is in its folder."""
    wanted = set_entry(cfg, name)[0].get("CLASSES")
    if not wanted:
        return None
    classes = read_class_list(wanted)
    require_folders(folder, classes, class_folders(folder))
    return classes


def _load(
    cfg: CfgNode, names: Sequence[str], classnames: Sequence[str] | None = None
) -> dict[str, list[Datum]]:
    # All are found before any is listed: that takes longer.
    found = {name: find_ood_set(cfg, name) for name in names}
    return {name: _read(cfg, name, folder, classnames) for name, folder in found.items()}


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
        found = class_images(folder, classes, others)
        images = sorted(f"{own}/{image}" for own, names in found for image in names)
    if not images:
        raise no_images(name, folder)
    if others:
        logger.warning("%s", not_images(folder, others))
    return [Datum(f"{folder}/{image}", OOD_LABEL) for image in images]
