"""Make a user's own folders the ID and OOD sets: set the config from --id-data and --ood-data."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from dassl.utils.errors import InputError
from datasets.folders import absolute, no_folder
from datasets.ood_sets import same_file_name
from datasets.splits import SPLITS

# Names of folders that do not describe their images.
GENERIC_NAMES = (*SPLITS, "images")


def use_id_folder(cfg: CfgNode, folder: str) -> None:
    """Make `folder`, relative to the working directory, the ID set."""
    cfg.DATASET.NAME, cfg.DATASET.FOLDER = "ImageFolder", _existing("--id-data", folder)
    cfg.DATASET.DOWNLOAD = cfg.DATASET.IMAGES = cfg.DATASET.SPLIT_FILE = ""
    cfg.OOD.SHIFTED = CfgNode(new_allowed=True)


def use_ood_folders(cfg: CfgNode, folders: Sequence[str]) -> None:
    """Make `folders` the only OOD sets, in this order: paths, or NAME=PATH.

    A set without a name gets that of its folder (:func:`folder_name`).
    """
    sets: dict[str, str] = {}
    for entry in folders:
        name, path = _name_and_path(entry)
        if pair := same_file_name([*sets, name]):
            first = pair[0]
            raise InputError(
                f"--ood-data: two sets are called {first!r} (in any case of letters), "
                f"{sets[first]} and {path}. Name them: "
                f"--ood-data {first}1={sets[first]} --ood-data {name}2={path}"
            )
        sets[name] = path
    cfg.OOD.SETS = CfgNode(
        {name: {"FOLDERS": [path], "IMAGES": 0} for name, path in sets.items()}, new_allowed=True
    )


def _name_and_path(entry: str) -> tuple[str, str]:
    name, equals, path = entry.partition("=")
    if not equals or os.path.isdir(os.path.expanduser(entry)):  # a path may contain "="
        path = _existing("--ood-data", entry)
        # Result files are named after the set, see dassl.utils.names.check_set_name.
        return re.sub(r"[^\w .+-]+|^[\W_]+", "-", folder_name(path)).lstrip("-") or "OOD", path
    return name, _existing("--ood-data", path)


def folder_name(folder: str) -> str:
    """Return the name of the images in a folder: the last part of its path that is not generic."""
    parts = Path(absolute(os.path.expanduser(folder))).parts
    return next(part for part in reversed(parts) if part.lower() not in GENERIC_NAMES)


def _existing(flag: str, folder: str) -> str:
    path = absolute(os.path.expanduser(folder))
    if not os.path.isdir(path):
        raise InputError(
            f"{flag} {folder}: {path} {no_folder(Path(path))}. Name a folder of images, relative "
            f"to the working directory ({os.getcwd()}) or absolute"
        )
    return path
