"""Class names: ImageNet's built in, a user's file, and the hash of a list.

Differs from upstream: CoOp and LoCoOp need a `classnames.txt` that no repository ships, and
lists found elsewhere differ in hundreds of names, which moves the figures. Here the list is
built in, a user's file still wins, and the hash of whatever was used goes into the results.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dassl.utils.errors import InputError
from dassl.utils.names import classnames_hash
from datasets.folders import absolute, counted, some

logger = logging.getLogger(__name__)


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """Return the 1000 WordNet ids of ImageNet-1K in label order (from timm), n01440764 first."""
    from timm.data import ImageNetInfo  # here, for it takes seconds to import

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def imagenet_classnames() -> list[str]:
    """Return CLIP's 1000 ImageNet class names (from open_clip), in the order of the WordNet ids."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return list(IMAGENET_CLASSNAMES)


def read_classnames_file(path: str | Path) -> list[tuple[str, str]]:
    """Read `n01440764 tench` lines: a class folder, white space, its name.

    A folder whose own name has spaces is ended by a tab. Blank lines are skipped.

    Returns:
        (folder or WordNet id, class name) in the file's order.

    Raises:
        InputError: no such file, a line without a name, a class listed twice, or no line at all.
    """
    pairs = []
    for number, line in enumerate(_lines(path), start=1):
        folder, _, name = line.partition("\t") if "\t" in line else line.partition(" ")
        if not line:
            continue
        if not name.strip():
            raise InputError(
                f"Line {number} of the class names {absolute(path)} is {line!r}. Each line must "
                "be a class folder and a name, such as: n01440764 tench"
            )
        pairs.append((folder.strip(), name.strip()))
    _require_once([folder for folder, _ in pairs], absolute(path))
    return pairs


def _lines(path: str | Path) -> list[str]:
    try:
        # utf-8-sig: editors on Windows put a byte order mark in front of the first id.
        text = Path(path).read_text(encoding="utf-8-sig")
        if "\0" in text:  # as in UTF-16, which else would pass for names
            raise ValueError("it holds zero bytes")
    except (OSError, ValueError) as error:  # a UnicodeDecodeError, too
        raise InputError(
            f"The list {absolute(path)} cannot be read as UTF-8 text: {error}. Give the path of "
            "a text file with one name a line."
        ) from error
    return [line.strip() for line in text.splitlines()]


def _require_once(names: Sequence[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        found = f"names classes more than once: {some(twice)}" if twice else "names no class"
        raise InputError(f"{where} {found}. Name each class once.")


def names_from_file(path: str | Path, folders: Sequence[str]) -> list[str]:
    """Return the names a user's file gives to `folders`; further lines are ignored; InputError
    where it lacks a folder, or :func:`read_classnames_file` refuses it."""
    names = dict(read_classnames_file(path))
    missing = [folder for folder in folders if folder not in names]
    if missing:
        raise InputError(
            f"The class names {absolute(path)} lack {len(missing)} of the {len(folders)} "
            f"classes: {some(missing)}. Found: {len(names)} lines. Add a line for each, or "
            "leave DATASET.CLASSNAMES_FILE empty for the built-in names."
        )
    return [names[folder] for folder in folders]


def read_class_list(text: str) -> list[str]:
    """Return the classes that DATASET.CLASSES names, by commas or as lines of a .txt file.

    Of a file of `n01440764 tench` lines the ids count.

    Raises:
        InputError: the file cannot be read, or a class is named twice, or none is.
    """
    classes = _entries(text)
    pairs = [re.fullmatch(r"(n\d{8})\s+.+", line) for line in classes]
    if all(pairs):
        classes = [pair[1] for pair in pairs]
    _require_once(classes, f"DATASET.CLASSES ({text})")
    return classes


def read_names(text: str) -> list[str]:
    """Return the class names that `text` lists, by commas or as lines of a .txt file.

    Of a file whose every line has a class folder before the name, as `n01440764 tench` or with a
    tab between them, the names count. Names that no prompt can tell apart, such as `hot_dog` and
    `Hot dog`, are warned of.

    Raises:
        InputError: the file cannot be read, or there is no name.
    """
    names = _entries(text)
    if not names:
        raise InputError(f"{text} holds no name: give some, as cat,dog or as lines of a file")
    if all("\t" in name or re.match(r"n\d{8}\s+\S", name) for name in names):
        names = [name.split("\t" if "\t" in name else None, 1)[1].strip() for name in names]
    if shared := shared_prompts(names):
        logger.warning("%s: %s", text, shared)
    return names


def _entries(text: str) -> list[str]:
    """Return what `text` lists by commas, or a .txt file by lines; `#` starts a comment there."""
    if text.lower().endswith(".txt"):
        entries = [line.partition("#")[0].strip() for line in _lines(text)]
    else:
        entries = [part.strip() for part in text.split(",")]
    return [entry for entry in entries if entry]


def report_classnames(dataset: str, names: Sequence[str], source: str) -> None:
    """Log which class names are used, and warn of classes that share one."""
    logger.info(
        "%s: %d class names from %s, hash %s", dataset, len(names), source, classnames_hash(names)
    )
    if shared := shared_prompts(names):
        logger.warning("%s: %s", dataset, shared)


def as_in_prompts(name: str) -> str:
    """Return what a prompt has of a name: spaces for underscores, and the tokenizer knows neither
    capitals nor the number of spaces, so `Hot_dog` is `hot dog`."""
    return " ".join(name.replace("_", " ").lower().split())


def shared_prompts(names: Sequence[str]) -> str:
    """Say which class names give equal prompts, "" if none do."""
    groups = defaultdict(list)
    for name in names:
        groups[as_in_prompts(name)].append(name)
    shared = [" = ".join(own) for own in groups.values() if len(own) > 1]
    if not shared:
        return ""
    return (
        f"{counted(len(shared), 'class name')} for more than one class each, no prompt can tell "
        f"these class names apart: {some(shared)}"
    )
