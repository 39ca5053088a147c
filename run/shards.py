"""Verdicts on more images than one machine has time for: tars in, a Parquet file a tar out."""

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from dassl.utils import InputError, remove_leftovers, write_json
from dassl.utils.console import LONG
from dassl.utils.errors import require_installed
from datasets.caption_shards import find_shards
from datasets.folders import absolute
from detector import Detector
from detector.shards import ShardScorer, score_on_ray, summarise
from detector.spec import FILE, fingerprint, read_spec
from run.folder import locked

SUMMARY = "summary.json"
FLAGS = {  # of detect.py, with what they take
    "shards TARS": "webdataset shards: a path with braces, {00000..09999}, or a folder",
    "out FOLDER": "of --shards: a Parquet file for each; those there are not repeated",
    "engine ray": "of --shards: all cores or GPUs of a Ray cluster (default: one process)",
    "address HOST:PORT": "of --engine ray: its cluster (default: this machine alone)",
}
Task = dict[str, str]  # "shard" and "target"


def check_shard_flags(args: argparse.Namespace) -> None:
    """Raise InputError for flags that --shards needs or has no use for, or that need it."""
    idle = ("images", "csv", "regions") if args.shards else ("out", "engine", "address")
    if wrong := [flag for flag in idle if getattr(args, flag)]:
        name = "images" if wrong[0] == "images" else f"--{wrong[0]}"
        raise InputError(f"{name}: no effect with{'' if args.shards else 'out'} --shards")
    if args.shards and not args.out:
        raise InputError("--shards: where to? Add --out FOLDER, for a Parquet file a shard")
    if args.engine not in ("", "ray") or (args.address and not args.engine):
        raise InputError("--engine is ray, or left out for one process; --address is for ray alone")
    if args.shards:
        engine = ("ray", "pandas") if args.engine else ()
        require_installed("--shards", "scale", "pyarrow", *engine)


def detect_shards(detector: Detector, pattern: str, out: str, engine: str, address: str) -> int:
    """Write verdicts on all shards of `pattern` into the folder `out`; those there are kept.

    Returns how many could not be scored; each is named, with the reason.
    """
    shards, folder = find_shards(Path(absolute(pattern)), "--shards"), Path(absolute(out))
    targets = [folder / f"{shard.stem}.parquet" for shard in shards]
    if len(set(targets)) < len(targets):
        raise InputError(
            "--shards names shards that are called the same, and each one's file is called after "
            "it: give each of their folders an --out of its own"
        )
    with locked(folder):
        keep_detector(detector, folder)
        pairs = zip(shards, targets, strict=True)
        tasks = [{"shard": str(s), "target": str(t)} for s, t in pairs if not t.exists()]
        note(f"{len(shards) - len(tasks):,} of {len(shards):,} shards are finished")
        results: Iterable[dict[str, Any]] = map(ShardScorer(detector), tasks)
        if engine and tasks:
            results = score_on_ray(folder, detector.model.clip.name, tasks, address)
        failed = follow(results, tasks)
        remove_leftovers(folder)  # of workers that were killed
        summary = summarise([t for t in targets if t.exists()], detector.spec.score)
        write_json(summary, folder / SUMMARY)
    print(format_summary(summary))
    note(f"verdicts and {SUMMARY} are in {folder}")
    return failed


def keep_detector(detector: Detector, folder: Path) -> None:
    """Save the detector beside its verdicts: workers load it there, and so may you.

    Raises:
        InputError: another one, or files in the places of those to be written, are there.
    """
    if not (folder / FILE).exists():
        if taken := [*folder.glob("*.parquet"), *folder.glob(SUMMARY)]:
            raise InputError(
                f"{folder} holds {min(taken).name}, but no {FILE} that says of which detector: "
                "choose another --out"
            )
        detector.save(folder)
        return
    kept, own = read_spec(folder), detector.spec
    if fingerprint(kept) != fingerprint(own):
        then, now = (f"{spec.score}, threshold {spec.threshold()}" for spec in (kept, own))
        raise InputError(
            f"{folder} is another detector's ({then}; now {now}): choose another --out, or go on "
            f"with the one that is kept there, --model-dir {folder}"
        )


def follow(results: Iterable[dict[str, Any]], tasks: Sequence[Task]) -> int:
    """Say what is wrong with a shard, and how far all of it is; return how many failed."""
    sizes = {task["shard"]: os.path.getsize(task["shard"]) for task in tasks}
    start, said, read, images, failed = time.monotonic(), 0.0, 0, 0, 0
    for number, result in enumerate(results, start=1):
        read, images = read + sizes[result["shard"]], images + result["images"]
        if not result["images"]:
            failed += 1
            note(f"no verdicts: {result['error']}")
        elif result["unreadable"]:
            many = f"{result['unreadable']:,} of {result['images']:,} images"
            note(f"{result['shard']}: {many} cannot be read: {result['error']}")
        now = time.monotonic()
        if now - said >= LONG or number == len(tasks):
            said, seconds = now, now - start
            left = timedelta(seconds=round(seconds * (sum(sizes.values()) / read - 1)))
            note(
                f"{number:,} of {len(tasks):,} shards, {images:,} images, "
                f"{images / seconds:,.1f} images/s, ETA {left}"
            )
    return failed


def format_summary(summary: dict[str, Any]) -> str:
    """Return counts, verdicts and the histogram of a summary as lines of text."""
    lines = ["{shards:,} shards, {images:,} images, {unreadable:,} unreadable".format(**summary)]
    readable = summary["images"] - summary["unreadable"]
    for name, count in sorted(summary["verdicts"].items()):
        lines.append(f"{name}: {count:,} ({count / readable:.2%})")
    most = max(summary["histogram"])
    for low, count in zip(summary["edges"], summary["histogram"] * (most > 0), strict=False):
        bar = "#" * (40 * count // most)  # of edges there is one more
        lines.append(f"{summary['score']} from {low:<12.6g}{count:>14,}  {bar}".rstrip())
    return "\n".join(lines)


def note(text: str) -> None:
    """Print to stderr: stdout holds the verdicts alone."""
    print(text, file=sys.stderr)
