"""Image lists: lines of `path label`, as OpenOOD's, or a CSV with the columns path and label."""

import csv
import functools
import hashlib
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from dassl.data.datasets import Datum
from dassl.utils.files import read_text
from datasets.folders import DataError, absolute, contents, counted, first_few, wrong_count

OOD_LABEL = -1
OUTSIDE = "with a path that is absolute or leads out of {}"
AMBIGUOUS = "whose label is the number of one class and the name of another (name classes in words)"
NO_CLASS = "with a label outside the {} classes (a number from 0, or a class name)"


def read_list(
    file: Path, images: Path, names: Sequence[str] | None = None, ending: str = ""
) -> list[Datum]:
    """Return the images in a list, in its order.

    A line of text is divided at its first blank. A label is a number, or a name among `names`.

    Args:
        images: the folder that paths are relative to.
        names: class names in label order. None: labels are not read, and all are -1.
        ending: is appended to each listed path.

    Raises:
        DataError: the list is missing, empty, no UTF-8, or has paths outside `images` or labels
            that are no class or may mean two. The images need not exist.
    """
    items, faults, known = [], defaultdict(list), set(names or ())
    for number, path, text in _rows(file):
        label = OOD_LABEL if names is None else _label(text, names)
        if not inside(path):
            faults[OUTSIDE.format(absolute(images))].append(f"line {number}, {path}")
        elif label is None:
            faults[NO_CLASS.format(len(names))].append(f"line {number}, {path} {text}".rstrip())
        elif text in known and names[label] != text:
            faults[AMBIGUOUS].append(f"line {number}, {path} {text}")
        else:
            name = "" if names is None else names[label]
            items.append(Datum(image_path(images, path + ending), label, classname=name))
    if faults:
        listed = "; ".join(
            f"{counted(len(lines), 'line')} {fault}: {first_few(lines, 3)}"
            for fault, lines in faults.items()
        )
        raise DataError(f"{absolute(file)} has {listed}. Correct them, or name another list.")
    if not items:
        raise DataError(f"{absolute(file)} lists no image. It must hold lines of path and label.")
    return items


def _rows(file: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the line number, path and label of each line that is not blank."""
    lines = io.StringIO(read_list_text(file), newline=None)
    if file.suffix.lower() != ".csv":
        for number, line in enumerate(lines, start=1):
            path, _, label = line.strip().partition(" ")
            if path:
                yield number, path, label.strip()
        return
    table = csv.DictReader(lines)
    if "path" not in (table.fieldnames or ()):
        raise DataError(
            f"{absolute(file)} has the columns {', '.join(table.fieldnames or ()) or 'none'}. Its "
            "first line must name the column path and, for an ID set, label."
        )
    try:
        for row in table:
            yield table.line_num, (row["path"] or "").strip(), (row.get("label") or "").strip()
    except csv.Error as error:
        raise DataError(f"{absolute(file)} is no CSV: line {table.line_num}, {error}.") from error


def read_list_text(file: Path) -> str:
    """Return the text of a list; DataError if it is missing, InputError if it is no UTF-8."""
    if not file.exists():
        raise DataError(
            f"The list {absolute(file)} does not exist. Found beside it: "
            f"{contents(file.parent)}. Put it there, or name another list.",
            "missing",
        )
    return read_text(Path(absolute(file)), "The list")


def image_path(images: Path, listed: str) -> str:
    """Return the path of a listed image, the same for `a.png`, `./a.png` and `.//a.png`."""
    return os.path.join(images, os.path.normpath(listed))


def inside(path: str) -> bool:
    """Return whether a path is relative and does not lead out of its folder."""
    absolute_ = os.path.isabs(path) or PureWindowsPath(path).drive
    return bool(path) and not absolute_ and ".." not in PurePath(path).parts


def _label(text: str, names: Sequence[str]) -> int | None:
    if re.fullmatch("[0-9]{1,9}", text):
        return int(text) if int(text) < len(names) else None
    # Where two classes share a name, as two pairs of ImageNet's do, only numbers are clear.
    return names.index(text) if names.count(text) == 1 else None


def lacks_only_label_0(file: Path, items: Sequence[Datum], classes: int) -> bool:
    """Return whether the labels in a list are numbers, and all of them but 0 occur."""
    present = {item.label for item in items}
    return present == set(range(1, classes)) and all(text.isdigit() for *_, text in _rows(file))


def absent_images(items: Sequence[Datum]) -> list[str]:
    """Return the paths of images that do not exist, or are folders; each folder is listed once,
    because to ask for a million files takes minutes on network drives."""

    @functools.cache
    def names(folder: str) -> frozenset[str]:
        if not os.path.isdir(folder):
            return frozenset()
        with os.scandir(folder) as scan:  # it knows folders, but not links to folders, for free
            return frozenset(
                entry.name for entry in scan if not entry.is_dir(follow_symlinks=False)
            )

    paths = (item.impath for item in items)
    return [p for p in paths if os.path.basename(p) not in names(os.path.dirname(p))]


def not_there(file: str | Path, missing: Sequence[str]) -> DataError:
    """Return the error for a list whose images do not exist."""
    paths = [f"{p} (a folder)" if os.path.isdir(p) else p for p in missing[:3]] + list(missing[3:])
    has_blanks = str(file).lower().endswith((".csv", ".json"))
    blanks = "" if has_blanks else " In such a list a path ends at the first blank; in a .csv not."
    return DataError(
        f"{counted(len(missing), 'listed image')} not there: {first_few(paths, 3)}. Unpack the "
        f"whole set, or name the folder of images that {absolute(file)} belongs to.{blanks}",
        "missing",
        missing,
    )


def protocol_faults(
    name: str, items: Sequence[Datum], expected: Mapping[str, Any], file: Path | None = None
) -> list[DataError]:
    """Return errors for what differs from the protocol: the number of images (IMAGES), the MD5 of
    the list, images listed more than once. 0 and "" expect nothing."""
    faults, count = [], expected.get("IMAGES", 0)
    if count and len(items) != count:
        faults.append(wrong_count(name, len(items), count))
    if file and (md5 := expected.get("MD5", "")):
        digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        if digest != md5:
            text = f"The list of {name}, {absolute(file)}, is not the protocol's: MD5 {digest}, not"
            faults.append(DataError(f"{text} {md5}. Figures are not comparable.", "checksum"))
    if file and (twice := [p for p, n in Counter(x.impath for x in items).items() if n > 1]):
        text = f"{counted(len(twice), 'image')} more than once in the list of {name},"
        text = f"{text} {absolute(file)}: {first_few(twice, 3)}. Each line of it counts."
        faults.append(DataError(text, "listed twice", twice))
    return faults
