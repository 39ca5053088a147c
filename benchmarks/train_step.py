"""Measure time and memory of a training step: plain against fast, LoCoOp against CoOp, and the
methods that came after these against them.

ViT-B/16 with random weights (nothing is downloaded), ImageNet's class names, 16 context tokens,
float32. Every size runs in a process of its own; what is compared takes turns within that process,
and ratios are medians over the turns. (The plain step of 1000 classes has its own, for its memory,
and is left out where it does not fit.)

    python benchmarks/train_step.py                # all rows: small, large, views, methods, gallop
    python benchmarks/train_step.py --rows small   # 100 classes, batch 4
    python benchmarks/train_step.py --rows methods --classes 100   # batch 32

On a machine with other work to do, `--threads 1` and the ratio of CPU times say more than the
clock on the wall.
"""

import argparse
import multiprocessing
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import common
from benchmarks.common import GIB, Bench, Rows

PLAIN_BYTES = 30e9  # of a plain step of 1000 classes, batch 32
# Methods, what each is measured against, and the ratio aimed at.
METHODS = {
    "SCT": ("LoCoOp", "<= 1.05"),
    "LoCoOpFoBoR": ("LoCoOp", "<= 1.15"),
    "SCTFoBoR": ("LoCoOp", "<= 1.15"),
    "FA": ("CoOp", "<= 1.00"),
}


def measure(classes: int, batch: int, kinds: list[str], repeats: int, threads: int) -> dict:
    """Return the seconds of every turn of every kind, and the peak memory of it all."""
    torch.set_num_threads(threads)
    bench = Bench(classes, batch)
    for kind in METHODS.keys() & kinds:
        bench.trainer(kind)  # not in the first turn: FA's encodes its frozen prompts
    times = common.in_turns({kind: partial(bench.step, kind) for kind in kinds}, repeats)
    return {**times, "peak": common.peak_bytes()}


def apart(
    args: argparse.Namespace, classes: int, batch: int, kinds: list[str], repeats: int
) -> dict:
    """Return what `measure` finds in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (classes, batch, kinds, repeats, args.threads))


def small(args: argparse.Namespace) -> Rows:
    where = "100 classes, batch 4"
    found = apart(args, 100, 4, ["plain", "LoCoOp", "CoOp"], args.repeats)
    return [
        common.compared("LoCoOp step, plain over fast", where, found, "plain", "LoCoOp", ">= 4.5"),
        common.compared("fast, LoCoOp over CoOp", where, found, "LoCoOp", "CoOp", "<= 1.15"),
    ], found


def large(args: argparse.Namespace) -> Rows:
    where, raw = "1000 classes, batch 32", {"fast": apart(args, 1000, 32, ["LoCoOp", "CoOp"], 2)}
    fast, time, peak = raw["fast"], "does not fit", "does not fit"
    meminfo = Path("/proc/meminfo")
    if meminfo.exists() and common.kib(meminfo, "MemAvailable") * 1024 > PLAIN_BYTES:
        raw["plain"] = apart(args, 1000, 32, ["plain"], 2)
        time = f"{common.seconds(raw['plain'], 'plain'):.1f} s"
        peak = f"{raw['plain']['peak'] / GIB:.1f} GiB"
    ours = [f"{common.seconds(fast, 'LoCoOp'):.1f} s", f"{fast['peak'] / GIB:.2f} GiB"]
    return [
        ["LoCoOp step, plain, fast", where, time, ours[0], "", "", ">= 5.5 times"],
        ["peak memory, plain, fast", where, peak, ours[1], "", "", "fast < 6 GiB"],
        common.compared("fast, LoCoOp over CoOp", where, fast, "LoCoOp", "CoOp", "<= 1.15"),
    ], raw


def views(args: argparse.Namespace) -> Rows:
    """Compare steps with those whose views are kept, which see no image."""
    rows, raw, names = [], {}, ("LoCoOp", "CoOp")
    for classes in (100, 1000):
        kinds = [*names, *(f"kept {name}" for name in names)]
        found = raw[classes] = apart(args, classes, 32, kinds, 2)
        for name in names:
            what, where = f"{name} step, over one on kept views", f"{classes} classes, batch 32"
            rows.append(common.compared(what, where, found, name, f"kept {name}", ""))
    return rows, raw


def gallop(args: argparse.Namespace) -> Rows:
    found, where = apart(args, 1000, 32, ["GalLoP"], 1), "1000 classes, batch 32"
    ours = f"{common.seconds(found, 'GalLoP'):.0f} s, {found['peak'] / GIB:.2f} GiB"
    return [["GalLoP step, peak memory", where, "", ours, "", "", "< 8 GiB"]], found


def methods(args: argparse.Namespace) -> Rows:
    rows, raw = [], {}
    for classes in args.classes:
        found = apart(args, classes, 32, [*METHODS, "LoCoOp", "CoOp"], args.repeats)
        where, raw[classes] = f"{classes} classes, batch 32", found
        rows += [
            common.compared(f"{name} over {base}", where, found, name, base, goal)
            for name, (base, goal) in METHODS.items()
        ]
    return rows, raw


ROWS = {"small": small, "large": large, "views": views, "methods": methods, "gallop": gallop}


def main() -> None:
    parser = common.make_parser(__doc__, repeats=5)
    parser.add_argument(
        "--classes", type=int, nargs="+", default=[100, 1000], help="of row methods (%(default)s)"
    )
    common.run_rows("train_step", parser, ROWS)


if __name__ == "__main__":
    main()
