"""Files and folders: written whole or not at all."""

import errno
import json
import logging
import math
import os
import re
import secrets
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import InputError, WriteError

logger = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # the disk takes no more
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # as `temporary_beside` names them


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path` and move it into place when the block ends well.

    Readers see the old file or the whole new one. On any error the temporary file is removed and
    the old file stays. `mode` is "w" (UTF-8) or "wb". A full disk, a missing permission and the
    like become a WriteError that names `path`.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write writes whole files: mode 'w' or 'wb', not {mode!r}")
    path = Path(path)
    temporary = temporary_beside(path)
    encoding = "utf-8" if mode == "w" else None
    with explain_write_error(path, alias=temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, mode, encoding=encoding) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files that belong together into `folder`; readers look for the last one.

    All of them are on the disk before the old last one is removed, so that a full disk changes
    nothing, and an interruption leaves no old last file beside new others.
    """
    *_, last = contents
    with ExitStack() as stack:
        for name, content in reversed(contents.items()):  # the last to be left is moved last
            file = stack.enter_context(atomic_write(folder / name, "wb"))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        (folder / last).unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """Return the path of a new temporary file or folder beside `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def file_name(text: str) -> str:
    """Make `text` part of a file name: letters, digits, `_`, `.` and `-` stay."""
    return re.sub(r"[^\w.-]+", "_", text)


def remove_leftovers(folder: str | os.PathLike, age: float = 0) -> None:
    """Remove the temporary files and folders in `folder` that killed processes have left.

    Args:
        age: seconds without a write after which one is removed; 0 if no other process writes.
    """
    for path in Path(folder).glob(".*.tmp"):
        written = [file.stat().st_mtime for file in (path, *path.glob("*")) if file.exists()]
        old = written and (not age or time.time() - max(written) > age)
        if old and LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def explain_write_error(path: str | os.PathLike, alias: str | os.PathLike = "") -> Iterator[None]:
    """Turn the OSError of a failed write to `path`, or to its `alias`, into a WriteError.

    An OSError about some other file, raised inside the block, passes through unchanged.
    """
    try:
        yield
    except OSError as error:
        failed = error.filename2 or error.filename
        written = {str(path), str(alias), str(Path(path).parent)}
        if failed is not None and str(failed) not in written:
            raise
        raise _cannot_write(path, error) from error


@contextmanager
def explain_full_disk() -> Iterator[None]:
    """Turn the OSError of a full disk into a WriteError, wherever it comes from.

    For writes without `explain_write_error` around them: those of libraries, or to the console.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        path = error.filename2 or error.filename
        raise _cannot_write("a file" if path is None else path, error) from error


def _cannot_write(path: str | os.PathLike, error: OSError) -> WriteError:
    return WriteError(
        f"Cannot write {path}: {error.strerror or error}. What was there before is unchanged. "
        "Free some space or permit writing there, or choose another output folder."
    )


def mkdir_if_missing(dirname: str | os.PathLike) -> None:
    """Create the folder `dirname` and its parents if they are missing."""
    with explain_write_error(dirname):
        os.makedirs(dirname, exist_ok=True)


def check_isfile(fpath: str | os.PathLike) -> bool:
    """Return whether `fpath` is a file; warn if it is not."""
    is_file = os.path.isfile(fpath)
    if not is_file:
        logger.warning("No file found at %s", fpath)
    return is_file


def read_text(path: Path | zipfile.Path, what: str) -> str:
    """Return the text of a UTF-8 file, without the byte order mark that editors on Windows write.

    Args:
        what: the kind of file, which begins a message.

    Raises:
        InputError: it cannot be read, or is in another encoding.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "\0" in text:  # the bytes of UTF-16 may be valid UTF-8
            raise ValueError("it holds zero bytes")
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # includes UnicodeDecodeError
        likely = "UTF-16" if b"\0" in path.read_bytes() else "LATIN1"
        raise InputError(
            f"{what} {path} is no UTF-8 text ({error}). Name a text file, saved as UTF-8 or "
            f"converted, for example by iconv -f {likely} -t UTF-8 {path.name}"
        ) from error
    return text


def read_json(fpath: str | os.PathLike) -> Any:
    """Read a JSON file; InputError if it is missing, cannot be read, or is not JSON."""
    try:
        return json.loads(Path(fpath).read_text(encoding="utf-8-sig"))  # as in `read_text`
    except FileNotFoundError as error:
        raise InputError(f"There is no file {fpath}.") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{fpath} cannot be read as JSON ({error}). Mend it, or delete it if it was generated."
        ) from error


def write_json(obj: Any, fpath: str | os.PathLike, indent: int = 4) -> None:
    """Write `obj` as indented JSON, atomically."""
    with atomic_write(fpath) as handle:
        json.dump(obj, handle, indent=indent)
        handle.write("\n")


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: NaN and infinity become None, unknown types text.

    Tensors and arrays become numbers or lists, mappings dicts with text keys.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def listdir_nohidden(path: str | os.PathLike, sort: bool = False) -> list[str]:
    """List the names in a folder that do not begin with a dot, sorted if asked."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names
