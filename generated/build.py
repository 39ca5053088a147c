"""Writing of the generated benchmark to disk, whole or not at all."""

import csv
import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from dassl.utils.errors import InputError
from generated.jobs import PAIRS, SHIFTED, Job, folder_name, run_job
from generated.kinds import ID_OBJECTS, OOD_SETS
from generated.parallel import in_processes
from generated.streams import SEED
from generated.words import write_lists

logger = logging.getLogger(__name__)

VERSION = 3
MARKER = "generated.json"
ID_FOLDER, OOD_FOLDER = "generated", "generated_ood"
WORDS = "words"  # lists of words in NegLabel's format


@dataclass(frozen=True)
class Counts:
    """Numbers of images: for each ID class `train`, `val`, and corrupted ones of these (`shifted`);
    `ood` for each OOD set; captioned `pairs`."""

    train: int = 32
    val: int = 50
    ood: int = 240
    pairs: int = 2000
    shifted: int = 10

    def images(self) -> int:
        per_class = self.train + self.val + min(self.val, self.shifted)
        return per_class * len(ID_OBJECTS) + self.ood * len(OOD_SETS) + self.pairs


def build(
    root: str | os.PathLike, counts: Counts = Counts(), workers: int | None = None, seed: int = SEED
) -> bool:
    """Write the benchmark under `root`; return False if it is there, complete, in this version.

    Everything is drawn into a temporary folder under `root` and moved into place at the end; the
    ID folder, whose marker says what was built, comes last. An outdated or damaged benchmark is
    replaced.

    Raises:
        InputError: `root` cannot be written to, or a folder to write was not made by this
            generator.
    """
    root = Path(root)
    if is_complete(root, counts, seed):
        return False
    _check_replaceable(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".generated-", dir=root) as temporary:
            _draw_all(Path(temporary), counts, workers, seed)
            for name in (OOD_FOLDER, ID_FOLDER):
                _replace(Path(temporary) / name, root / name)
    except OSError as error:
        raise InputError(
            f"Cannot write the generated benchmark under {root}: "
            f"{error.strerror or error}. Free some space, or choose another folder with --root."
        ) from error
    return True


def is_complete(root: Path, counts: Counts = Counts(), seed: int = SEED) -> bool:
    """Return whether both markers have this version, seed and counts, and no image is missing."""
    expected = {"version": VERSION, "seed": seed, "counts": asdict(counts)}
    for name in (ID_FOLDER, OOD_FOLDER):
        try:
            marker = json.loads((root / name / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if {key: marker.get(key) for key in expected} != expected:
            return False
    if not (root / ID_FOLDER / WORDS).is_dir():
        return False
    if not (root / ID_FOLDER / f"{SHIFTED}.txt").is_file():
        return False
    folders = [root / ID_FOLDER / name for name in ("images", PAIRS, SHIFTED)]
    images = sum(1 for folder in (*folders, root / OOD_FOLDER) for _ in folder.rglob("*.png"))
    return images == counts.images()


def _check_replaceable(root: Path) -> None:
    """Raise InputError if a folder to write exists and was not made by this generator."""
    for name in (ID_FOLDER, OOD_FOLDER):
        folder = root / name
        if folder.exists() and not (folder / MARKER).is_file():
            raise InputError(
                f"{folder} exists, but has no {MARKER}: it was not made by this generator and is "
                "not replaced. Move it away, or choose another folder with --root."
            )


def _replace(new: Path, target: Path) -> None:
    if target.exists():
        target.rename(new.with_name(f"old-{target.name}"))  # deleted with the temporary folder
    new.rename(target)


def _draw_all(folder: Path, counts: Counts, workers: int | None, seed: int) -> None:
    jobs = _jobs(folder, counts, seed)
    rows, digests = [], []
    for captions, hashes in in_processes(run_job, jobs, workers, "drawing the benchmark"):
        rows += captions
        digests += hashes
    for table, prefix in (("captions.csv", "images/"), (f"{PAIRS}.csv", f"{PAIRS}/")):
        _write_table(folder / ID_FOLDER / table, [row for row in rows if row[0].startswith(prefix)])
    _write_shifted(folder / ID_FOLDER / f"{SHIFTED}.txt", rows)
    write_lists(folder / ID_FOLDER / WORDS)
    marker = {
        "version": VERSION,
        "seed": seed,
        "counts": asdict(counts),
        "images": counts.images(),
        "pixels_sha256": hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        "note": "generated (synthetic) images; figures say nothing about ImageNet",
    }
    for name in (ID_FOLDER, OOD_FOLDER):
        (folder / name / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def _write_table(path: Path, rows: list[tuple[str, ...]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("path", "caption", "class", "background"))
        writer.writerows(rows)


def _write_shifted(path: Path, rows: list[tuple[str, ...]]) -> None:
    """Write the list of the shifted images, `path label`; labels follow the sorted folders."""
    labels = {name: label for label, name in enumerate(sorted(ID_OBJECTS, key=folder_name))}
    lines = [
        f"{row[0].removeprefix(f'{SHIFTED}/')} {labels[row[2]]}\n"
        for row in rows
        if row[0].startswith(f"{SHIFTED}/")
    ]
    path.write_text("".join(lines), encoding="utf-8")


def _jobs(folder: Path, counts: Counts, seed: int, chunk: int = 50) -> list[Job]:
    streams = [
        (folder / ID_FOLDER, split, name, count)
        for name in ID_OBJECTS
        for split, count in (("train", counts.train), ("val", counts.val))
    ]
    streams += [(folder / OOD_FOLDER, "", name, counts.ood) for name in OOD_SETS]
    streams.append((folder / ID_FOLDER, PAIRS, PAIRS, counts.pairs))
    return [
        Job(target, split, name, first, min(first + chunk, count), seed, counts.shifted)
        for target, split, name, count in streams
        for first in range(0, count, chunk)
    ]
