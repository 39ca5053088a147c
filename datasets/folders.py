"""Images below a folder: the one place that walks the disk."""

import functools
import os
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from PIL import Image, features

from dassl.utils.errors import InputError

# Pillow opens these, but cannot decode them by itself, or their pixels have no brightness.
NOT_DECODED = ("BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # that Pillow may lack
# What systems leave behind, in small letters; names with a dot in front are such too.
MACHINE_MADE = frozenset(
    (
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "@synoresource"),
        *("#recycle", "#snapshot", "$recycle.bin", "recycler", "recycled", "lost+found"),
        *("__macosx", "network trash folder", "temporary items", "system volume information"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__", "found.000"),
    )
)


class DataError(InputError):
    """A fault of a data set, raised by what reads it."""

    def __init__(self, message: str, kind: str = "refused", names: Sequence[str] = ()):
        super().__init__(message)
        self.kind, self.names = kind, list(names)


@functools.cache
def image_extensions() -> frozenset[str]:
    """Return the endings of image files that the installed Pillow decodes, in small letters."""
    Image.init()
    lacking = {name for name, codec in CODECS.items() if not features.check(codec)}
    decoded = {*Image.OPEN, "MPO"}.difference(NOT_DECODED, lacking)
    known = Image.registered_extensions().items()
    return frozenset(ending for ending, kind in known if kind in decoded) - {".pfm"}  # brightness


def is_image(name: str) -> bool:
    """Return whether the file name ends like an image's, in any case of letters."""
    return os.path.splitext(name)[1].lower() in image_extensions()


def walk_images(
    folder: str | Path, others: list[str] | None = None, taken: Collection[tuple[int, int]] = ()
) -> Iterator[str]:
    """Yield the images below a folder as posix paths relative to it, one folder after another.

    As strings: ImageNet has 1.3 million. Links are followed, but to a folder that they lie in; no
    folder comes twice. Holds the names of folders and of one folder's files.

    Args:
        others: gets the paths of files among images that are none by their ending.
        taken: :func:`identity` of folders that are not entered.

    Raises:
        InputError: a folder cannot be listed.
    """
    visited, pending = set(taken), deque([""])
    while pending:
        prefix = pending.popleft()
        path = os.path.join(folder, prefix)
        entries, found = entries_of(path), identity(path)
        if found in visited:
            continue
        visited.add(found)
        files = sorted(prefix + name for name, is_dir in entries.items() if not is_dir)
        images = [name for name in files if is_image(name)]
        if images and others is not None:
            others += [os.path.join(folder, name) for name in files if not is_image(name)]
        yield from images
        pending += sorted(f"{prefix}{name}/" for name, is_dir in entries.items() if is_dir)


def images_of(paths: Sequence[str]) -> Iterator[str]:
    """Yield files as they are named, whatever their ending, and all images under folders."""
    for path in paths:
        if os.path.isdir(path):
            yield from (os.path.join(path, name) for name in walk_images(path))
        else:
            yield path


def identity(folder: str | Path) -> tuple[int, int]:
    """Return device and inode of a folder: the same under every name that leads to it."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def entries_of(folder: str | Path) -> dict[str, bool]:
    """Return {entry: is it a folder, or a link to one} of what counts in a folder.

    What is hidden or left behind by a system is skipped, and links to a folder around themselves.
    """
    entries: dict[str, bool] = {}
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                if entry.name.startswith(".") or entry.name.lower() in MACHINE_MADE:
                    continue
                if not (entry.is_symlink() and entry.is_dir() and _leads_up(entry.path)):
                    entries[entry.name] = entry.is_dir()
    except OSError as error:  # of the folder, or of a link in it that leads to itself
        raise DataError(
            f"{absolute(error.filename or folder)} cannot be listed: {error.strerror}. Check the "
            "path, what it links to, and the permissions (chmod -R u+rX).",
            "no permission",
        ) from error
    return entries


def _leads_up(link: str) -> bool:
    """Return whether a link leads to a folder above it, by written or by real path."""
    target, above = os.path.realpath(link), Path(absolute(link)).parents
    real = Path(os.path.realpath(above[0]))
    return real.is_relative_to(target) or any(os.path.realpath(p) == target for p in above)


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder; none where it cannot be listed."""
    try:
        return sorted(name for name, is_dir in entries_of(folder).items() if is_dir)
    except InputError:
        return []


def find_folder(root: Path, name: str) -> Path | None:
    """Return the folder `root/name`, else one whose name differs in upper and lower case.

    `name` may have several parts, or be absolute. None where there is no such folder.
    """
    found = root
    for part in Path(name).parts:
        if not (found / part).is_dir():
            alike = [entry for entry in subfolders(found) if entry.lower() == part.lower()]
            if not alike:
                return None
            part = alike[0]
        found /= part
    return found


def some(names: Sequence[str], limit: int = 5, separator: str = ", ") -> str:
    """Name the first few and how many more there are, for messages."""
    rest = len(names) - limit
    return separator.join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def contents(folder: Path) -> str:
    """Say what a folder holds, in a few words, for messages."""
    if not folder.is_dir():
        return f"nothing ({absolute(folder)} {no_folder(folder)})"
    return some(sorted(entries_of(folder))) or "nothing"


def not_images(folder: str | Path, files: Sequence[str]) -> DataError:
    """Return the fault of files among the images of a folder that are none by their ending."""
    endings = sorted({os.path.splitext(name)[1] or "no ending" for name in files})
    return DataError(
        f"{counted(len(files), 'file')} among the images of {absolute(folder)} left out, no image "
        f"by name ({some(endings)}): {some(files, 3)}.",
        "not images",
        files,
    )


def wrong_count(name: str, found: int, expected: int) -> DataError:
    """Return the fault of a set with another number of images than the protocol's."""
    more = " Is it the whole set, or unpacked twice, instead of the curated images?"
    return DataError(
        f"{counted(found, 'image')} in {name} where the protocol has {expected:,}: figures are "
        f"not comparable with the papers'.{more if found > expected else ''}",
        "count",
    )


def counted(number: int, what: str) -> str:
    """Return 1 image, 2 images, 2,000 classes."""
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def no_folder(path: Path) -> str:
    """Say why a path that should be a folder is none, for messages."""
    return "is a file, not a folder" if path.exists() else "does not exist"


def absolute(path: str | Path) -> str:
    """Return the absolute path, for messages: users may not be where they think they are."""
    return os.path.abspath(path)
