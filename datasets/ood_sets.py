"""OOD sets: plain folders of images, named in the YAML or by --ood-data."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from dassl.data.datasets import Datum
from dassl.utils.errors import InputError
from dassl.utils.names import check_set_name
from datasets.classfolders import data_root, require_root
from datasets.folders import DataError, LeftOut, absolute, contents, find_folder, image_names

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
    """Return the folder of every OOD set of ``cfg.OOD.SETS``, None where none of FOLDERS exists.

    Raises:
        InputError: a set's name is unfit for the results, or no set is configured.
    """
    # Here, not when the results are written: that is hours later.
    wanted = {name: _folders(name, entry) for name, entry in cfg.OOD.SETS.items()}
    _check_names([name for name, folders in wanted.items() if folders])
    if not any(wanted.values()):
        raise InputError(
            "No OOD set is configured. Name at least one: --ood-data FOLDER, or under OOD.SETS in "
            "the data set's YAML, such as   Texture: {FOLDERS: [Texture/images], IMAGES: 5640}"
        )
    root = data_root(cfg)
    return {name: _first(root, folders) for name, folders in wanted.items() if folders}


def _first(root: Path, folders: Sequence[str]) -> Path | None:
    tried = (find_folder(root / above, folder) for above in ("", *GATHERED) for folder in folders)
    return next(filter(None, tried), None)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        check_set_name(name)
        if name.lower() in map(str.lower, TAKEN):
            raise InputError(
                f"An OOD set may not be called {name!r}: in the results {' and '.join(TAKEN)} are "
                f"names of their own. Rename OOD.SETS.{name} in the data set's YAML."
            )
    if pair := same_file_name(names):
        raise InputError(
            f"The OOD sets {pair[0]!r} and {pair[1]!r} would write one file on macOS and Windows, "
            f"which know no capitals. Rename OOD.SETS.{pair[1]}, or use --ood-data NAME=FOLDER."
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


def _folders(name: str, entry) -> Sequence[str]:
    folders = entry.get("FOLDERS") if isinstance(entry, dict) else None
    if not isinstance(folders, (list, tuple)):
        raise InputError(
            f"OOD.SETS.{name} is {entry!r}. It must name its folders in a list, and may give "
            f"the expected count:   {name}: {{FOLDERS: [{name}], IMAGES: 10000}}"
        )
    return folders


def _not_found(root: Path, missing: dict[str, Sequence[str]]) -> DataError:
    tried = "".join(
        f"\n  {name}: tried " + ", ".join(absolute(root / folder) for folder in folders)
        for name, folders in missing.items()
    )
    example = next(iter(missing))
    count = "1 OOD set was" if len(missing) == 1 else f"{len(missing)} OOD sets were"
    return DataError(
        f"{count} not found:{tried}\nFound in {absolute(root)}: {contents(root)}. Set DATASET.ROOT "
        f"(--root), or name the folder in OOD.SETS.{example}.FOLDERS; an empty list there leaves "
        "the set out.",
        "missing",
    )


def no_images(name: str, folder: Path) -> DataError:
    """Return the fault of a set in whose folder no image lies."""
    return DataError(
        f"The OOD set {name} has no images: {absolute(folder)} holds {contents(folder)}. "
        f"Fill it, or name another folder in OOD.SETS.{name}.FOLDERS.",
        "no images",
    )


def wrong_count(name: str, found: int, expected: int) -> DataError:
    """Return the fault of a set with another number of images than the protocol's."""
    more = " Is it the whole set, or unpacked twice, instead of the curated images?"
    return DataError(
        f"OOD set {name}: {found} images where the protocol has {expected}: figures are not "
        f"comparable with the papers'.{more if found > expected else ''}",
        "count",
    )


def _read(name: str, folder: Path, expected: int) -> list[Datum]:
    left_out = LeftOut()
    images = image_names(folder, left_out=left_out)
    if not images:
        raise no_images(name, folder)
    logger.info("OOD set %s: %d images in %s", name, len(images), absolute(folder))
    faults = left_out.faults(folder)
    if expected and len(images) != expected:
        faults.append(wrong_count(name, len(images), expected))
    for fault in faults:
        logger.warning("%s", fault)
    return [Datum(f"{folder}/{image}", OOD_LABEL) for image in images]
