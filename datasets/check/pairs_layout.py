"""Whether the image-caption pairs of a training are where DATASET.PAIRS says, by names alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dassl.utils.errors import InputError
from datasets.caption_shards import find_shards
from datasets.captions import check_source, pairs_path
from datasets.check import sources
from datasets.check.findings import TRAINING, Problem
from datasets.classfolders import data_root
from datasets.folders import absolute, contents, holds_images, some

ROW = "DATASET.PAIRS"  # what the table calls them


def look(cfg) -> list[Problem]:
    """What is wrong with the shards, the table or the folder; of class names nothing can be.

    Raises:
        InputError: an unknown source, or no path.
    """
    check_source(cfg)
    if cfg.DATASET.PAIRS.SOURCE == "classnames":
        return []
    path = pairs_path(cfg)
    return {"shards": _shards, "csv": _table, "folder": _folder}[cfg.DATASET.PAIRS.SOURCE](
        cfg, path
    )


def _shards(cfg, pattern: Path) -> list[Problem]:
    folder = pattern if pattern.is_dir() else pattern.parent
    fetch = sources.pairs_source(folder, "shards", data_root(cfg))
    try:
        shards = find_shards(pattern)
    except InputError as error:
        if any(folder.glob("*.tar")):
            fetch = [
                "# to take those that are there, add to the command:",
                f"#   DATASET.PAIRS.PATH {sources.quoted(folder.absolute())}",
                *fetch,
            ]
        return [_problem("missing", str(error), fetch)]
    empty = [absolute(path) for path in shards if not path.stat().st_size]
    if not empty:
        return []
    what = f"{len(empty)} of {len(shards)} shards are empty files: {some(empty, 3)}."
    mend = [
        f"rm {' '.join(map(sources.quoted, empty))}",
        "# then fetch them again:",
        *sources.in_comments(fetch),
    ]
    return [_problem("empty shards", what, mend, empty)]


def _table(cfg, path: Path) -> list[Problem]:
    if path.is_file():
        return []
    what = (
        f"The table of pairs {absolute(path)} (DATASET.PAIRS.PATH) does not exist. Found beside "
        f"it: {contents(path.parent)}."
    )
    return [_problem("missing", what, sources.pairs_source(path, "csv", data_root(cfg)))]


def _folder(cfg, path: Path) -> list[Problem]:
    if path.is_dir() and holds_images(path):
        return []
    what = (
        f"The folder of pairs {absolute(path)} (DATASET.PAIRS.PATH) holds no images: "
        f"{contents(path)}."
    )
    return [_problem("missing", what, sources.pairs_source(path, "folder", data_root(cfg)))]


def _problem(kind: str, what: str, mend: Sequence[str], files: Sequence[str] = ()) -> Problem:
    return Problem(kind, ROW, what, mend, (TRAINING,), files)
