"""Class names: ImageNet's, which are built in, and those of a user's file.

Differs from upstream: CoOp and LoCoOp need a `classnames.txt` that no repository ships, and
lists found elsewhere differ in hundreds of names, which changes the figures. Here the list is
built in, a user's file overrides it, and the hash of the names used goes into the results.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dassl.utils.errors import InputError
from dassl.utils.files import read_text
from dassl.utils.names import classnames_hash
from datasets.folders import absolute, counted, first_few

logger = logging.getLogger(__name__)

COMMENT = re.compile(r"(^|\s)#+(\s.*)?$")
NO_BLANK = re.compile(r"#+[^\W\d_]")  # `#pets`: a comment to some, a name to others
NUMBERED = re.compile(r"(\d+)[.:)]?(\s+)(\S.*)")


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """Return the 1000 WordNet ids of ImageNet-1K in label order (from timm), n01440764 first."""
    from timm.data import ImageNetInfo  # here, because its import takes seconds

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def imagenet_classnames() -> list[str]:
    """Return CLIP's 1000 ImageNet class names (from open_clip), in the order of the WordNet ids."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return list(IMAGENET_CLASSNAMES)


def read_classnames_file(path: str | Path) -> list[tuple[str, str]]:
    """Read lines such as `n01440764 tench`: a class folder, white space, its name.

    If the folder's name has spaces, a tab must follow it. Blank lines and comments are skipped.

    Returns:
        (folder or WordNet id, class name) in the file's order.

    Raises:
        InputError: the file cannot be read, a line has no name, a class is listed twice, or none.
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


def _lines(path: str | Path, labelled: bool = False) -> list[str]:
    """Return the lines of a list without outer blanks and comments.

    `#` begins a comment at the start of a line or after a blank, if a blank or the end of the line
    follows it: `#1 dad` and `C# code` are names. So is `#pets`, with a warning; InputError in a
    `labelled` list, where a comment taken for a name would shift labels.
    """
    text = read_text(Path(absolute(path)), "The list")
    lines = [COMMENT.sub("", line).strip() for line in text.splitlines()]
    if unclear := [line for line in lines if NO_BLANK.match(line)]:
        fault = f"{absolute(path)} has {counted(len(unclear), 'line')} like {first_few(unclear, 3)}"
        if labelled:
            raise InputError(
                f"{fault}: a comment needs a blank after #. If it is a class name, leave out "
                f"the #, or number all names from 0, as in: 0 {unclear[0]}"
            )
        logger.warning("%s, read as names: a comment needs a blank after #", fault)
    return lines


def _require_once(names: Sequence[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        fault = f"names classes more than once: {first_few(twice)}" if twice else "names no class"
        raise InputError(f"{where} {fault}. Name each class once.")


def names_from_file(path: str | Path, folders: Sequence[str]) -> list[str]:
    """Return the names that a user's file gives to `folders`; InputError if it lacks one."""
    names = dict(read_classnames_file(path))
    missing = [folder for folder in folders if folder not in names]
    if missing:
        raise InputError(
            f"The class names {absolute(path)} lack {len(missing)} of the {len(folders)} classes: "
            f"{first_few(missing)}. Found: {len(names)} lines. Add a line for each class, or "
            "leave DATASET.CLASSNAMES_FILE empty to use the default names."
        )
    return [names[folder] for folder in folders]


def read_class_list(text: str) -> list[str]:
    """Return the classes in DATASET.CLASSES: names separated by commas, or lines of a .txt file.

    If all lines are such as `n01440764 tench`, the classes are the ids.

    Raises:
        InputError: the file cannot be read, a class is named twice, or none is named.
    """
    classes = _entries(text)
    pairs = [re.fullmatch(r"(n\d{8})\s+.+", line) for line in classes]
    if all(pairs):
        classes = [pair[1] for pair in pairs]
    _require_once(classes, f"DATASET.CLASSES ({text})")
    return classes


def read_names(text: str, labelled: bool = False) -> list[str]:
    """Return the class names in `text`: separated by commas, or lines of a .txt file.

    If every line has a class folder before the name, as in `n01440764 tench` or with a tab between
    them, the folders are dropped, and so are numbers that count the lines, as in `0 tench`.

    Args:
        labelled: the position of a name is its label, so that nothing blank may lie between names.

    Raises:
        InputError: the file cannot be read, or there is no name; for `labelled` names: they are
            numbered in another order, a blank entry or a comment lies between them, or a line
            such as `#pets` may be a comment.
    """
    names = _entries(text, labelled)
    if not names:
        raise InputError(f"{text} holds no name: give names, as cat,dog or as lines of a file")
    if _is_file(text):
        names = _without_numbers(text, names, labelled)
    if all("\t" in name or re.match(r"n\d{8}\s+\S", name) for name in names):
        names = [name.split("\t" if "\t" in name else None, 1)[1].strip() for name in names]
    return names


def _without_numbers(text: str, names: list[str], labelled: bool) -> list[str]:
    """Return the names without the numbers before them, if these count the lines from 0 or 1 or
    end in tabs. Others, such as the years of `2012 Audi TT` and `2010 BMW M3`, belong to the names,
    and so does that of a single line, such as `1 dollar bill`."""
    matches, count = [NUMBERED.fullmatch(name) for name in names], len(names)
    if count == 1 or not all(matches):
        return names
    numbers = [int(match[1]) for match in matches]
    orders = (list(range(count)), list(range(1, count + 1)))
    if sorted(numbers) not in orders and not all("\t" in match[2] for match in matches):
        return names
    if labelled and numbers not in orders:
        raise InputError(
            f"{text}: positions are the labels, but the lines are not numbered 0, 1, 2, ... or "
            f"1, 2, 3, ... in this order: {first_few(names, 3)}. Sort and number them so, or leave "
            "the numbers out. A number that belongs to a name is joined to it, as in 7_up."
        )
    return [match[3] for match in matches]


def _is_file(text: str) -> bool:
    return text.lower().endswith(".txt")


def _entries(text: str, labelled: bool = False) -> list[str]:
    """Split `text` at commas, or read the lines of a .txt file (see `_lines`); drop blank ones."""
    is_file = _is_file(text)
    parts = _lines(text, labelled) if is_file else [part.strip() for part in text.split(",")]
    entries = [part for part in parts if part]
    first = parts.index(entries[0]) if entries else 0
    if labelled and parts[first : first + len(entries)] != entries:
        raise InputError(
            f"{text}: entry {parts.index('', first) + 1} is blank or a comment. It lies between "
            "class names, whose positions are the labels: remove it, or put the missing name there."
        )
    return entries


def report_classnames(dataset: str, names: Sequence[str], source: str) -> None:
    """Log the source and hash of the class names, and warn if some give equal prompts."""
    logger.info(
        "%s: %d class names from %s, hash %s", dataset, len(names), source, classnames_hash(names)
    )
    if shared := shared_prompts(names):
        logger.warning("%s: %s", dataset, shared)


@cache
def _tokenizer():
    from open_clip import SimpleTokenizer  # here, because its import takes seconds

    return SimpleTokenizer()


def as_in_prompts(name: str) -> tuple[int, ...]:
    """Return the token ids of a name in a prompt, the same for `Hot_dog` and `hot dog`, for `7up`
    and `7 up`, and for `salt & pepper` and `salt &amp; pepper`."""
    return tuple(_tokenizer().encode(name.replace("_", " ")))


def shared_prompts(names: Sequence[str]) -> str:
    """Return a sentence that lists the class names with equal prompts, "" if there are none."""
    groups = defaultdict(list)
    for name in names:
        groups[as_in_prompts(name)].append(name)
    shared = [" = ".join(group) for group in groups.values() if len(group) > 1]
    if not shared:
        return ""
    return (
        f"{counted(len(shared), 'class name')} for more than one class each, no prompt can tell "
        f"these class names apart: {first_few(shared)}"
    )
