"""Measure time and memory of training steps: plain, fast, and those of later methods.

ViT-B/16 with random weights (nothing is downloaded), ImageNet's class names, 16 context tokens,
float32. Every size runs in its own process; the steps that are compared take turns within it, and
ratios are medians over the turns. (The plain step of 1000 classes runs in another process, because
of its memory, and is left out if it does not fit.)

    python benchmarks/train_step.py                # all rows: small, large, views, methods, gallop
    python benchmarks/train_step.py --rows small   # 100 classes, batch 4
    python benchmarks/train_step.py --rows methods --classes 100   # batch 32

On a machine that is busy with other work, `--threads 1` and the ratio of CPU times are more
reliable than wall-clock time.
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

PLAIN_BYTES = 30e9  # memory of a plain step of 1000 classes, batch 32
# Each method, its baseline, and the goal for the ratio.
METHODS = {
    "SCT": ("LoCoOp", "<= 1.05"),
    "LoCoOpFoBoR": ("LoCoOp", "<= 1.15"),
    "SCTFoBoR": ("LoCoOp", "<= 1.15"),
    "FA": ("CoOp", "<= 1.00"),
}


def measure(classes: int, batch: int, steps: list[str], repeats: int, threads: int) -> dict:
    """Return the seconds of every turn of every step, and the peak memory of the process."""
    torch.set_num_threads(threads)
    bench = Bench(classes, batch)
    for name in METHODS.keys() & steps:
        bench.trainer(name)  # before the first turn: FA's trainer encodes its frozen prompts
    times = common.in_turns({name: partial(bench.step, name) for name in steps}, repeats)
    return {**times, "peak": common.peak_bytes()}


def measure_alone(
    args: argparse.Namespace, classes: int, batch: int, steps: list[str], repeats: int
) -> dict:
    """Return the result of `measure` in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (classes, batch, steps, repeats, args.threads))


def small(args: argparse.Namespace) -> Rows:
    where = "100 classes, batch 4"
    times = measure_alone(args, 100, 4, ["plain", "LoCoOp", "CoOp"], args.repeats)
    return [
        common.ratio_row("LoCoOp step, plain over fast", where, times, "plain", "LoCoOp", ">= 4.5"),
        common.ratio_row("fast, LoCoOp over CoOp", where, times, "LoCoOp", "CoOp", "<= 1.15"),
    ], times


def large(args: argparse.Namespace) -> Rows:
    where, fast = "1000 classes, batch 32", measure_alone(args, 1000, 32, ["LoCoOp", "CoOp"], 2)
    raw, time, peak = {"fast": fast}, "does not fit", "does not fit"
    meminfo = Path("/proc/meminfo")
    if meminfo.exists() and common.read_kib(meminfo, "MemAvailable") * 1024 > PLAIN_BYTES:
        raw["plain"] = measure_alone(args, 1000, 32, ["plain"], 2)
        time = f"{common.seconds(raw['plain'], 'plain'):.1f} s"
        peak = f"{raw['plain']['peak'] / GIB:.1f} GiB"
    ours = [f"{common.seconds(fast, 'LoCoOp'):.1f} s", f"{fast['peak'] / GIB:.2f} GiB"]
    return [
        ["LoCoOp step, plain, fast", where, time, ours[0], "", "", ">= 5.5 times"],
        ["peak memory, plain, fast", where, peak, ours[1], "", "", "fast < 6 GiB"],
        common.ratio_row("fast, LoCoOp over CoOp", where, fast, "LoCoOp", "CoOp", "<= 1.15"),
    ], raw


def views(args: argparse.Namespace) -> Rows:
    """Compare steps with steps on kept views, which encode no image."""
    rows, raw, names = [], {}, ("LoCoOp", "CoOp")
    for classes in (100, 1000):
        steps = [*names, *(f"kept {name}" for name in names)]
        times = raw[classes] = measure_alone(args, classes, 32, steps, 2)
        for name in names:
            measure, where = f"{name} step, over one on kept views", f"{classes} classes, batch 32"
            rows.append(common.ratio_row(measure, where, times, name, f"kept {name}", ""))
    return rows, raw


def gallop(args: argparse.Namespace) -> Rows:
    times, where = measure_alone(args, 1000, 32, ["GalLoP"], 1), "1000 classes, batch 32"
    ours = f"{common.seconds(times, 'GalLoP'):.0f} s, {times['peak'] / GIB:.2f} GiB"
    return [["GalLoP step, peak memory", where, "", ours, "", "", "< 8 GiB"]], times


def methods(args: argparse.Namespace) -> Rows:
    rows, raw = [], {}
    for classes in args.classes:
        times = measure_alone(args, classes, 32, [*METHODS, "LoCoOp", "CoOp"], args.repeats)
        where, raw[classes] = f"{classes} classes, batch 32", times
        rows += [
            common.ratio_row(f"{name} over {base}", where, times, name, base, goal)
            for name, (base, goal) in METHODS.items()
        ]
    return rows, raw


ROWS = {"small": small, "large": large, "views": views, "methods": methods, "gallop": gallop}


def main() -> None:
    parser = common.make_parser(__doc__, repeats=5)
    numbers = "numbers of classes for the rows `methods`"
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000], help=numbers)
    common.run_rows("train_step", parser, ROWS)


if __name__ == "__main__":
    main()
