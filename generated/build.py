"""Writes the generated benchmark to disk: whole, or not at all."""

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
    """Images: `train`, `val` and, of these, corrupted ones (`shifted`) for each ID class, `ood` for
    each OOD set; captioned `pairs`."""

    train: int = 32
    val: int = 50
    ood: int = 240
    pairs: int = 2000
    shifted: int = 10

    def images(self) -> int:
        own = (self.train + self.val + min(self.val, self.shifted)) * len(ID_OBJECTS)
        return own + self.ood * len(OOD_SETS) + self.pairs


def build(
    root: str | os.PathLike, counts: Counts = Counts(), workers: int | None = None, seed: int = SEED
) -> bool:
    """Write the benchmark under `root`; False if it is already there, complete, in this version.

    Everything is drawn into a temporary folder beside its place and moved there at the end; the
    ID folder, whose marker says what was built, comes last. An outdated or damaged benchmark is
    replaced.

    Raises:
        InputError: `root` cannot be written to, or a folder of that name holds something that
            this generator did not make.
    """
    root = Path(root)
    if is_complete(root, counts, seed):
        return False
    _refuse_strangers(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".generated-", dir=root) as temporary:
            _draw_all(Path(temporary), counts, workers, seed)
            for name in (OOD_FOLDER, ID_FOLDER):
                _swap_in(Path(temporary) / name, root / name)
    except OSError as error:
        raise InputError(
            f"Cannot write the generated benchmark under {root}: "
            f"{error.strerror or error}. Choose another folder with --root, or free "
            "some space."
        ) from error
    return True


def is_complete(root: Path, counts: Counts = Counts(), seed: int = SEED) -> bool:
    """Return whether both markers say this version, seed and counts, and no image is missing."""
    wanted = {"version": VERSION, "seed": seed, "counts": asdict(counts)}
    for name in (ID_FOLDER, OOD_FOLDER):
        try:
            found = json.loads((root / name / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if {key: found.get(key) for key in wanted} != wanted:
            return False
    if not (root / ID_FOLDER / WORDS).is_dir():
        return False
    if not (root / ID_FOLDER / f"{SHIFTED}.txt").is_file():
        return False
    folders = [root / ID_FOLDER / name for name in ("images", PAIRS, SHIFTED)]
    pictures = sum(1 for folder in (*folders, root / OOD_FOLDER) for _ in folder.rglob("*.png"))
    return pictures == counts.images()


def _refuse_strangers(root: Path) -> None:
    for name in (ID_FOLDER, OOD_FOLDER):
        folder = root / name
        if folder.exists() and not (folder / MARKER).is_file():
            raise InputError(
                f"{folder} exists, but has no {MARKER}: it was not made by this "
                "generator and will not be replaced. Move it away, or choose another "
                "folder with --root."
            )


def _swap_in(new: Path, place: Path) -> None:
    if place.exists():
        place.rename(new.with_name(f"old-{place.name}"))  # deleted with the temporary folder
    new.rename(place)


def _draw_all(folder: Path, counts: Counts, workers: int | None, seed: int) -> None:
    jobs = _jobs(folder, counts, seed)
    rows, digests = [], []
    for captions, hashes in in_processes(run_job, jobs, workers, "drawing the benchmark"):
        rows += captions
        digests += hashes
    for table, wanted in (("captions.csv", "images/"), (f"{PAIRS}.csv", f"{PAIRS}/")):
        _write_table(folder / ID_FOLDER / table, [row for row in rows if row[0].startswith(wanted)])
    _write_shifted(folder / ID_FOLDER / f"{SHIFTED}.txt", rows)
    write_lists(folder / ID_FOLDER / WORDS)
    content = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    marker = {
        "version": VERSION,
        "seed": seed,
        "counts": asdict(counts),
        "images": counts.images(),
        "pixels_sha256": content,
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
    """Write the list of the shifted images: `path label`, as OpenOOD's, of folders in order."""
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
        Job(where, split, name, first, min(first + chunk, count), seed, counts.shifted)
        for where, split, name, count in streams
        for first in range(0, count, chunk)
    ]
