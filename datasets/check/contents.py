"""What is in the files: images that cannot be read, and images that are in two sets."""

from __future__ import annotations

import hashlib
import os
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations

from tqdm import tqdm

from dassl.utils import BadImageError, read_image
from datasets.check.findings import Problem, counted
from datasets.check.listing import ImageSet
from datasets.folders import some

DECODED = 100  # images of each set, without --full
COMPARED = 1000  # images of all sets together, without --full
STATTED = 100_000  # a set with more images is looked at by some of its classes
TAIL = 4096  # bytes that tell most files apart: photographs begin alike, but do not end so
CHUNK = 64  # files a job of a thread

SKIP = [
    "# fetch them again, or leave such images out by adding to the command:",
    "#   DATALOADER.BAD_IMAGES skip",
]


@dataclass
class Files:
    """The files of a set that were looked at, with their sizes in bytes; and those that are bad."""

    images: ImageSet
    sizes: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)

    @property
    def empty(self) -> list[str]:
        return [name for name, size in self.sizes.items() if size == 0]


def look_at(images: ImageSet, full: bool) -> Files:
    """Size of every image of the set, or of whole classes of a large one."""
    files = Files(images)
    for name in images.images if full else _some_classes(images):
        path = images.path(name)
        try:
            size = os.stat(path).st_size
        except OSError:
            files.broken.append(name)
            continue
        if os.access(path, os.R_OK):
            files.sizes[name] = size
        else:
            files.denied.append(name)
    return files


def _some_classes(images: ImageSet) -> list[str]:
    if len(images.images) <= STATTED or not images.classes:
        return images.images
    share = STATTED / len(images.images)
    count = max(1, int(share * len(images.classes)))
    chosen = set(random.Random(0).sample(list(images.classes), count))
    return [name for name in images.images if name.partition("/")[0] in chosen]


def file_problems(files: Files, skip: bool) -> list[Problem]:
    """Empty files, links that lead nowhere, files that may not be read.

    Args:
        skip: the run leaves unreadable images out (DATALOADER.BAD_IMAGES).
    """
    images = files.images
    told = (
        ("empty files", files.empty, "file", "without content", SKIP),
        ("broken links", files.broken, "link", "to a file that is not there", SKIP),
        (
            "no permission",
            files.denied,
            "file",
            "that may not be read",
            [f"chmod u+r {images.path(name)!r}" for name in files.denied],
        ),
    )
    return [
        _about(kind, images, bad, f"{counted(len(bad), noun)} {fault}", mend, skip)
        for kind, bad, noun, fault, mend in told
        if bad
    ]


def unreadable(files: Files, full: bool, skip: bool) -> list[Problem]:
    """Decode a sample of the images, or all: those that cannot be."""
    names = [name for name, size in files.sizes.items() if size]
    if not full:
        names = random.Random(0).sample(names, min(DECODED, len(names)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about odd but readable images
        readable = _in_threads(
            _decodes, [files.images.path(name) for name in names], f"decoding {files.images.name}"
        )
    bad = sorted(name for name, good in zip(names, readable, strict=True) if not good)
    what = f"{counted(len(bad), 'image')} of {len(names):,} that were decoded cannot be read"
    return [_about("unreadable", files.images, bad, what, SKIP, skip)] if bad else []


def _decodes(path: str) -> bool:
    try:
        read_image(path)
    except BadImageError:
        return False
    return True


def _about(kind: str, images: ImageSet, bad: Sequence[str], what: str, mend, skip: bool) -> Problem:
    return Problem(
        kind,
        images.name,
        f"{what}: {some([images.path(n) for n in bad], 3)}.",
        mend,
        () if skip else images.stops,
        list(bad),
    )


def duplicates(sets: Sequence[Files], full: bool) -> list[Problem]:
    """Images that are byte for byte in two sets.

    Only files of one size can be equal; of those the last bytes are compared, then all. Without
    `full`, some sizes are: first those at which two sets have files of one name.
    """
    files = [
        (part.images, name, size) for part in sets for name, size in part.sizes.items() if size
    ]
    candidates = _spanning(_grouped(files, lambda item: item[2]))
    if not full:
        candidates = _sampled(candidates)
    compared = sum(map(len, candidates))
    for digest in (_tail, _whole):
        candidates = [part for group in _digested(candidates, digest) for part in _spanning(group)]
    pairs = defaultdict(list)
    for group in candidates:
        for (one, first, _), (other, second, _) in combinations(group, 2):
            if one is not other:
                pairs[one.name, other.name].append((one.path(first), other.path(second)))
    return [
        _twins(one, other, found, compared, len(files), full)
        for (one, other), found in pairs.items()
    ]


def _grouped(items: Iterable, key: Callable) -> list[list]:
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def _spanning(groups: Iterable[list]) -> list[list]:
    """Groups with files of more than one set."""
    return [group for group in groups if any(item[0] is not group[0][0] for item in group)]


def _sampled(groups: list[list]) -> list[list]:
    """COMPARED files in all: those with a namesake of the same size in another set come first."""
    draw = random.Random(0)
    draw.shuffle(groups)
    groups.sort(key=lambda group: not _namesakes(group))  # stable: the rest stays shuffled
    chosen, left = [], COMPARED
    for group in groups:
        shared = _namesakes(group)
        drawn = sorted(draw.sample(group, len(group)), key=lambda item: _first(item[1], shared))
        kept = set(map(id, drawn[:left]))
        chosen.append([item for item in group if id(item) in kept])
        left -= len(kept)
        if left <= 0:
            break
    return chosen


def _namesakes(group: list) -> set[str]:
    owners = defaultdict(set)
    for images, name, _ in group:
        owners[os.path.basename(name)].add(images.name)
    return {name for name, sets in owners.items() if len(sets) > 1}


def _first(path: str, names: set[str]) -> tuple[bool, str]:
    name = os.path.basename(path)
    return (False, name) if name in names else (True, "")


def _digested(groups: list[list], digest: Callable) -> Iterable[list[list]]:
    """Each group, split by a digest of its files."""
    paths = [images.path(name) for group in groups for images, name, _ in group]
    found = iter(_in_threads(digest, paths, "comparing files"))
    for group in groups:
        digests = {id(item): next(found) for item in group}
        readable = [item for item in group if digests[id(item)] is not None]
        yield _grouped(readable, lambda item, digests=digests: digests[id(item)])


def _tail(path: str) -> bytes | None:
    return _digest(path, TAIL)


def _whole(path: str) -> bytes | None:
    return _digest(path, None)


def _digest(path: str, last: int | None) -> bytes | None:
    """BLAKE2b of the last bytes of a file, or of all; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            if last is not None:
                file.seek(-min(last, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return hashlib.blake2b(file.read(), digest_size=16).digest()
    except OSError:
        return None


def _twins(
    one: str, other: str, found: Sequence[tuple[str, str]], compared: int, files: int, full: bool
) -> Problem:
    extent = "all files compared" if full else f"{compared:,} of {files:,} files compared"
    kind = "wrong split" if one.startswith("ID") and other.startswith("ID") else "duplicates"
    count = counted(len({second for _, second in found}), "image")
    what = (
        f"{count} can be found, byte for byte, in {one} too ({extent}), such as {found[0][1]} "
        f"= {found[0][0]}."
    )
    return Problem(
        kind,
        other,
        what,
        [
            "# one of the two is in the wrong place: restore both sets from their archives;",
            "# --json FILE lists all pairs",
        ],
        (),
        [" = ".join(pair) for pair in found],
    )


def _in_threads(function: Callable, paths: Sequence[str], title: str) -> list:
    """`function` of every path, in order; a bar with the time left appears when it takes long."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    pool = ThreadPoolExecutor(min(32, os.cpu_count() or 1))
    results: list = []
    try:
        with tqdm(total=len(paths), desc=title, unit="file", delay=2, leave=False) as bar:
            for part in pool.map(lambda chunk: list(map(function, chunk)), chunks):
                results += part
                bar.update(len(part))
    finally:
        pool.shutdown(cancel_futures=True)
    return results
