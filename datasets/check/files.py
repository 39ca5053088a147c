"""Check the content of files: images that cannot be read, and images that are in two sets."""

import hashlib
import os
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from multiprocessing.pool import ThreadPool

from dassl.utils import BadImageError, progress_bar, read_image
from datasets.check.listing import ImageSet
from datasets.check.report import Problem
from datasets.folders import counted, first_few
from datasets.needs import NOTHING

DECODED = 100  # images of each set that are decoded, without --full
STATTED = 100_000  # files of each set whose size is read, without --full
PER_JOB = 64  # files that a thread takes at a time

ADVICE = "Fetch them again, or leave such images out: add DATALOADER.BAD_IMAGES skip."
FAULTS = {  # kind -> noun to count, rest of the sentence
    "empty files": ("file", f"without content: {{}}. {ADVICE}"),
    "broken links": ("link", f"to a file that does not exist: {{}}. {ADVICE}"),
    "no permission": ("file", "without permission to read: {}. Allow it with chmod u+r."),
    "unreadable": ("image", f"of {{decoded:,}} decoded cannot be read: {{}}. {ADVICE}"),
}


def file_problems(images: ImageSet, full: bool, skip: bool) -> list[Problem]:
    """Find empty or unreadable files and broken links, in a sample or all; with `skip` the run
    leaves such images out, so the problems stop nothing."""
    bad, good = defaultdict(list), []
    names = images.images
    for path in map(images.path, names if full else _sample(names, STATTED)):
        if not os.path.exists(path):
            bad["broken links"].append(path)
        elif not os.access(path, os.R_OK):
            bad["no permission"].append(path)
        elif os.path.getsize(path) == 0:
            bad["empty files"].append(path)
        else:
            good.append(path)
    decoded = good if full else _sample(good, DECODED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd but readable images
        readable = _in_threads(_decodes, decoded, f"reading {images.name}")
    bad["unreadable"] = sorted(p for p, fine in zip(decoded, readable, strict=True) if not fine)
    problems, stops = [], NOTHING if skip else images.stops
    for kind, (noun, sentence) in FAULTS.items():
        if paths := bad[kind]:
            fault = sentence.format(first_few(paths, 3), decoded=len(decoded))
            what = f"{counted(len(paths), noun)} {fault}"
            problems.append(Problem(images.name, kind, what, stops, paths))
    return problems


def duplicates(sets: Sequence[ImageSet]) -> list[Problem]:
    """Compare all files of the sets, and return the images that are byte for byte in two sets."""
    by_size, by_digest, pairs = defaultdict(list), defaultdict(list), defaultdict(list)
    for images in sets:
        for path in map(images.path, images.images):
            if os.path.exists(path):
                by_size[os.path.getsize(path)].append((images.name, path))
    by_size.pop(0, None)
    same_size = [group for group in by_size.values() if len({name for name, _ in group}) > 1]
    candidates = [item for group in same_size for item in group]
    digests = _in_threads(_digest, [path for _, path in candidates], "comparing files")
    for item, digest in zip(candidates, digests, strict=True):
        by_digest[digest].append(item)
    by_digest.pop(None, None)
    for group in by_digest.values():
        for (one, first), (other, second) in combinations(group, 2):
            if one != other:
                pairs[one, other].append(f"{second} = {first}")
    return [_duplicates(one, other, equal) for (one, other), equal in pairs.items()]


def _duplicates(one: str, other: str, equal: list[str]) -> Problem:
    kind = "wrong split" if one.startswith("ID") and other.startswith("ID") else "duplicates"
    count = counted(len({pair.partition(" = ")[0] for pair in equal}), "image")
    what = (
        f"{count} found, byte for byte, in {one} too, such as {equal[0]}. One of the two is "
        "in the wrong place: restore both sets from their archives (--json FILE lists all)."
    )
    return Problem(other, kind, what, files=equal)


def _sample(names: Sequence[str], count: int) -> Sequence[str]:
    return names if len(names) <= count else random.Random(0).sample(names, count)


def _decodes(path: str) -> bool:
    try:
        read_image(path)
    except BadImageError:
        return False
    return True


def _digest(path: str) -> bytes | None:
    """Return the BLAKE2b digest of a file, None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, hashlib.blake2b).digest()
    except OSError:
        return None


def _in_threads(function: Callable, paths: Sequence[str], title: str) -> list:
    """Apply `function` to every path, in order, with a progress bar if it takes long."""
    with ThreadPool(min(32, os.cpu_count() or 1)) as pool:
        results = pool.imap(function, paths, chunksize=PER_JOB)
        return list(
            progress_bar(results, total=len(paths), desc=title, unit="file", delay=2, leave=False)
        )
