"""List the images below a folder, and describe folders in messages."""

import errno
import functools
import os
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from PIL import Image, features

from dassl.utils.errors import InputError

# Pillow opens these, but needs other software to decode them, or their pixels have no brightness.
NOT_DECODED = ("BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # which Pillow may lack
# Files and folders that systems leave behind, in lower case, beside names that begin with a dot.
MACHINE_MADE = frozenset(
    (
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "@synoresource"),
        *("#recycle", "#snapshot", "$recycle.bin", "recycler", "recycled", "lost+found"),
        *("__macosx", "network trash folder", "temporary items", "system volume information"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__", "found.000"),
    )
)


class DataError(InputError):
    """A fault of a data set: its `kind` in a word or two, and the files it concerns (`names`)."""

    def __init__(self, message: str, kind: str = "refused", names: Sequence[str] = ()):
        super().__init__(message)
        self.kind, self.names = kind, list(names)


@functools.cache
def image_extensions() -> frozenset[str]:
    """Return the file extensions that the installed Pillow decodes, in lower case."""
    Image.init()
    lacking = {name for name, codec in CODECS.items() if not features.check(codec)}
    decoded = {*Image.OPEN, "MPO"}.difference(NOT_DECODED, lacking)
    known = Image.registered_extensions().items()
    extensions = frozenset(extension for extension, format_ in known if format_ in decoded)
    return extensions - {".pfm"}  # its pixels are floats of any range


def is_image(name: str) -> bool:
    """Return whether a file name has an image's extension, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in image_extensions()


def walk_images(
    folder: str | Path, others: list[str] | None = None, excluded: Collection[tuple[int, int]] = ()
) -> Iterator[str]:
    """Yield the images below a folder as posix paths relative to it, one folder after another.

    Paths are strings, because ImageNet has 1.3 million. Links are followed, except to a folder
    above them; no folder is visited twice.

    Args:
        others: is extended by the paths of files among images that have no image's extension.
        excluded: :func:`identity` of folders that are not entered.

    Raises:
        InputError: a folder cannot be listed.
    """
    visited, pending = set(excluded), deque([""])
    while pending:
        prefix = pending.popleft()
        path = os.path.join(folder, prefix)
        entries, key = entries_of(path), identity(path)
        if key in visited:
            continue
        visited.add(key)
        files = sorted(prefix + name for name, is_dir in entries.items() if not is_dir)
        images = [name for name in files if is_image(name)]
        if images and others is not None:
            others += [os.path.join(folder, name) for name in files if not is_image(name)]
        yield from images
        pending += sorted(f"{prefix}{name}/" for name, is_dir in entries.items() if is_dir)


def images_of(paths: Sequence[str]) -> Iterator[str]:
    """Yield the files among `paths`, whatever their extension, and all images below the folders."""
    for path in paths:
        if os.path.isdir(path):
            yield from (os.path.join(path, name) for name in walk_images(path))
        else:
            yield path


def identity(folder: str | Path) -> tuple[int, int]:
    """Return the device and inode of a folder: the same for every path to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def entries_of(folder: str | Path) -> dict[str, bool]:
    """Return {name: whether it is a folder, or a link to one} of a folder's entries.

    Hidden and `MACHINE_MADE` entries are skipped, pipes and sockets, and links to a folder that
    contains them. A link that leads nowhere, or to itself, is listed as a file.
    """
    entries: dict[str, bool] = {}
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                if entry.name.startswith(".") or entry.name.lower() in MACHINE_MADE:
                    continue
                is_dir = _is_folder(entry)
                if is_dir and entry.is_symlink() and _leads_up(entry.path):
                    continue
                if is_dir is not None:
                    entries[entry.name] = is_dir
    except OSError as error:
        raise DataError(
            f"{absolute(error.filename or folder)} cannot be listed: {error.strerror}. Check the "
            "path, what it links to, and the permissions (chmod -R u+rX).",
            "no permission",
        ) from error
    return entries


def _is_folder(entry: os.DirEntry) -> bool | None:
    """Return whether an entry is a folder; None for a pipe, socket or device: to read one may wait
    for ever."""
    try:
        is_dir, is_file = entry.is_dir(), entry.is_file()
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        return False
    return None if not (is_dir or is_file) and os.path.exists(entry.path) else is_dir


def _leads_up(link: str) -> bool:
    """Return whether a link leads to a folder above it, by its written or its real path."""
    target, above = os.path.realpath(link), Path(absolute(link)).parents
    real = Path(os.path.realpath(above[0]))
    return real.is_relative_to(target) or any(os.path.realpath(p) == target for p in above)


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder; none if it cannot be listed."""
    try:
        return sorted(name for name, is_dir in entries_of(folder).items() if is_dir)
    except InputError:
        return []


def find_folder(root: Path, name: str) -> Path | None:
    """Return the folder `root/name`, else one whose name differs only in upper and lower case.

    `name` may have several parts, or be absolute. Returns None if there is no such folder.
    """
    path = root
    for part in Path(name).parts:
        if not (path / part).is_dir():
            alike = [entry for entry in subfolders(path) if entry.lower() == part.lower()]
            if not alike:
                return None
            part = alike[0]
        path /= part
    return path


def first_few(names: Sequence[str], limit: int = 5, separator: str = ", ") -> str:
    """Join the first few names and say how many more there are, for messages."""
    rest = len(names) - limit
    return separator.join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def contents(folder: Path) -> str:
    """Describe the contents of a folder in a few words, for messages."""
    if not folder.is_dir():
        return f"nothing ({absolute(folder)} {no_folder(folder)})"
    return first_few(sorted(entries_of(folder))) or "nothing"


def not_images(folder: str | Path, files: Sequence[str]) -> DataError:
    """Return the error for files among a folder's images that have no image's extension."""
    extensions = sorted({os.path.splitext(name)[1] or "no extension" for name in files})
    return DataError(
        f"{counted(len(files), 'file')} among the images of {absolute(folder)} left out, as their "
        f"extension is not an image's ({first_few(extensions)}): {first_few(files, 3)}.",
        "not images",
        files,
    )


def wrong_count(name: str, found: int, expected: int) -> DataError:
    """Return the error for a set whose number of images is not the protocol's."""
    hint = " Is it the whole set instead of the curated images, or was it unpacked twice?"
    return DataError(
        f"{counted(found, 'image')} in {name} where the protocol has {expected:,}: figures are "
        f"not comparable with the papers'.{hint if found > expected else ''}",
        "count",
    )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 image, 2 images, 2,000 classes."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def no_folder(path: Path) -> str:
    """Say why a path is not a folder, for messages."""
    return "is a file, not a folder" if path.exists() else "does not exist"


def absolute(path: str | Path) -> str:
    """Return the absolute path, for messages, as users may be in another folder than they think."""
    return os.path.abspath(path)
