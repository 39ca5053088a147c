"""The config keys of this room, added to Dassl's."""

from __future__ import annotations

from yacs.config import CfgNode as CN


def add_dataset_cfg(cfg: CN) -> None:
    """Add the data set keys to a Dassl config, in place.

    ``DATASET.FOLDER``: the data set's folder under DATASET.ROOT; "" is the data set's own
    default, which is ``imagenet`` for ImageNet and the root itself for ImageFolder.

    ``DATASET.CLASSES``: "" for all classes, each of which must be there; "present" for those
    whose folders exist; or class folders (WordNet ids), separated by commas, or the path of a
    .txt file with one a line. Labels follow the sorted folder names, not the list.

    ``DATASET.CLASSNAMES_FILE``: a file of ``n01440764 tench`` lines that wins over the
    built-in names.

    ``OOD.SETS.<name>``: ``FOLDERS``, the names tried in turn under DATASET.ROOT (absolute paths
    are taken as they are; an empty list leaves the set out), and ``IMAGES``, the count the
    protocol expects (0 = unknown).
    """
    cfg.DATASET.FOLDER = ""
    cfg.DATASET.CLASSES = ""
    cfg.DATASET.CLASSNAMES_FILE = ""
    if "OOD" not in cfg:
        cfg.OOD = CN()
    cfg.OOD.SETS = CN(new_allowed=True)
