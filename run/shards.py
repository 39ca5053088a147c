"""Verdicts on the images of webdataset shards: a Parquet file for each tar, with progress."""

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
FLAGS = {  # of detect.py: flag and the placeholder of its value
    "shards TARS": "webdataset shards: a path with braces, as in {00000..09999}.tar, or a folder "
    "(default: none)",
    "out FOLDER": "folder for the Parquet files of --shards; finished ones are not repeated",
    "engine ray": "score --shards on all cores or GPUs of a Ray cluster (default: in one process)",
    "address HOST:PORT": "the cluster of --engine ray (default: this machine alone)",
}
Task = dict[str, str]  # "shard" and "target"


def check_shard_flags(args: argparse.Namespace) -> None:
    """Raise InputError for missing or impossible flags of --shards, and for unused flags."""
    unused = ("images", "csv", "regions") if args.shards else ("out", "engine", "address")
    if wrong := [flag for flag in unused if getattr(args, flag)]:
        name = "images" if wrong[0] == "images" else f"--{wrong[0]}"
        raise InputError(f"{name}: no effect with{'' if args.shards else 'out'} --shards")
    if args.shards and not args.out:
        raise InputError("--shards needs --out FOLDER, for a Parquet file of each shard")
    if args.engine not in ("", "ray") or (args.address and not args.engine):
        raise InputError("--engine is ray, or left out for one process; --address is for ray alone")
    if args.shards:
        engine = ("ray", "pandas") if args.engine else ()
        require_installed("--shards", "scale", "pyarrow", *engine)


def detect_shards(detector: Detector, pattern: str, out: str, engine: str, address: str) -> int:
    """Write verdicts on all shards of `pattern` into the folder `out`, but for finished ones.

    Each shard that cannot be scored is reported with the reason; their number is returned.
    """
    shards, folder = find_shards(Path(absolute(pattern)), "--shards"), Path(absolute(out))
    targets = [folder / f"{shard.stem}.parquet" for shard in shards]
    if len(set(targets)) < len(targets):
        raise InputError(
            "--shards has several shards of the same file name, and so their Parquet files would "
            "have one name too: score each folder with an --out of its own"
        )
    with locked(folder):
        keep_detector(detector, folder)
        pairs = zip(shards, targets, strict=True)
        tasks = [{"shard": str(s), "target": str(t)} for s, t in pairs if not t.exists()]
        note(f"{len(shards) - len(tasks):,} of {len(shards):,} shards are finished")
        results: Iterable[dict[str, Any]] = map(ShardScorer(detector), tasks)
        if engine and tasks:
            results = score_on_ray(folder, detector.model.clip.name, tasks, address)
        failed = report_progress(results, tasks)
        remove_leftovers(folder)  # of killed workers
        summary = summarise([t for t in targets if t.exists()], detector.spec.score)
        write_json(summary, folder / SUMMARY)
    print(format_summary(summary))
    note(f"verdicts and {SUMMARY} are in {folder}")
    return failed


def keep_detector(detector: Detector, folder: Path) -> None:
    """Save the detector beside its verdicts, for workers to load; raise InputError if `folder`
    holds another detector, or results without a detector."""
    if not (folder / FILE).exists():
        if taken := [*folder.glob("*.parquet"), *folder.glob(SUMMARY)]:
            raise InputError(
                f"{folder} holds {min(taken).name}, but no {FILE} that says of which detector: "
                "choose another --out"
            )
        detector.save(folder)
        return
    kept, current = read_spec(folder), detector.spec
    if fingerprint(kept) != fingerprint(current):
        then, now = (f"{spec.score}, threshold {spec.threshold()}" for spec in (kept, current))
        raise InputError(
            f"{folder} holds verdicts of another detector ({then}; now {now}): choose another "
            f"--out, or continue with that detector, --model-dir {folder}"
        )


def report_progress(results: Iterable[dict[str, Any]], tasks: Sequence[Task]) -> int:
    """Print problems and progress as results come in; return the number of failed shards."""
    sizes = {task["shard"]: os.path.getsize(task["shard"]) for task in tasks}
    start, printed, read, images, failed = time.monotonic(), 0.0, 0, 0, 0
    for number, result in enumerate(results, start=1):
        read, images = read + sizes[result["shard"]], images + result["images"]
        if not result["images"]:
            failed += 1
            note(f"no verdicts: {result['error']}")
        elif result["unreadable"]:
            many = f"{result['unreadable']:,} of {result['images']:,} images"
            note(f"{result['shard']}: {many} cannot be read: {result['error']}")
        now = time.monotonic()
        if now - printed >= LONG or number == len(tasks):
            printed, seconds = now, now - start
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
    tallest = max(summary["histogram"])
    bins = zip(summary["edges"][:-1], summary["histogram"], strict=True) if tallest else ()
    for low, count in bins:
        bar = "#" * (40 * count // tallest)
        lines.append(f"{summary['score']} from {low:<12.6g}{count:>14,}  {bar}".rstrip())
    return "\n".join(lines)


def note(text: str) -> None:
    """Print to stderr; stdout is for verdicts only."""
    print(text, file=sys.stderr)
