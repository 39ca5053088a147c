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

    ``DATASET.DOWNLOAD``: where the data set can be had, or the command that makes it, for the data
    check; ``{root}`` stands for the data root. OOD sets and pairs have such a line of their own.

    ``OOD.SETS.<name>``: ``FOLDERS``, the names tried in turn under DATASET.ROOT (absolute paths
    are taken as they are; an empty list leaves the set out), and ``IMAGES``, the count the
    protocol expects (0 = unknown).

    ``DATASET.PAIRS``: the image-caption pairs that CLIPN is trained on.
    ``SOURCE``: shards, csv, folder or classnames (datasets/captions.py says what each is).
    ``PATH``: under DATASET.ROOT, or absolute: ``cc3m/{00000..00331}.tar`` or a folder of tars, a
    table, a folder. ``NUM_PAIRS``: pairs an epoch, another choice of them in each; 0 for all.
    ``COLUMNS``: of the table, the path and the caption. ``TEMPLATES``: of classnames. ``SHUFFLE``:
    pairs that each worker holds, undecoded, to draw from; of shards.
    """
    cfg.DATASET.FOLDER = ""
    cfg.DATASET.CLASSES = ""
    cfg.DATASET.CLASSNAMES_FILE = ""
    cfg.DATASET.DOWNLOAD = ""
    cfg.DATASET.PAIRS = CN(
        {
            "SOURCE": "",
            "PATH": "",
            "DOWNLOAD": "",
            "NUM_PAIRS": 0,
            "COLUMNS": ("path", "caption"),
            "TEMPLATES": ("a photo of a {}.",),
            "SHUFFLE": 2000,
        }
    )
    if "OOD" not in cfg:
        cfg.OOD = CN()
    cfg.OOD.SETS = CN(new_allowed=True)
