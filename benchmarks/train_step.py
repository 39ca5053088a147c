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

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from yacs.config import CfgNode

import trainers  # noqa: F401  (registers the trainers)
from benchmarks.common import (
    GIB,
    Bench,
    Rows,
    class_names,
    compared,
    in_turns,
    make_parser,
    run_rows,
    seconds,
)
from dassl.engine import TRAINER_REGISTRY
from trainers.prompt_learner import PromptLearner
from trainers.prompt_trainer import LearnedPrompts, PromptTrainer

PLAIN_BYTES = 30e9  # of a plain step of 1000 classes, batch 32
# Methods, what each is measured against, and the ratio aimed at.
METHODS = {
    "SCT": ("LoCoOp", "<= 1.05"),
    "LoCoOpFoBoR": ("LoCoOp", "<= 1.15"),
    "SCTFoBoR": ("LoCoOp", "<= 1.15"),
    "FA": ("CoOp", "<= 1.00"),
}


class MethodBench(Bench):
    """Training steps of trainers by name, at their own settings, on the same batch of noise."""

    def __init__(self, classes: int, batch: int):
        super().__init__(classes, batch)
        for name in (*METHODS, "LoCoOp", "CoOp"):
            setattr(self, name, partial(self.loss_of, self.trainer(name)))

    def trainer(self, name: str) -> PromptTrainer:
        """Return a trainer without data, files and optimiser: what computes its loss."""
        kind = TRAINER_REGISTRY.get(name)
        trainer, own, classes = kind.__new__(kind), kind.CONFIG, self.learner.n_cls
        trainer.cfg = CfgNode({"TRAINER": {kind.CONFIG_KEY: own}})
        trainer.device, trainer.precision = self.device, self.precision
        trainer.num_classes = classes
        learner = PromptLearner(
            class_names(classes), self.clip, n_ctx=own.N_CTX, ctx_init=own.CTX_INIT
        )
        trainer.model = trainer.build_prompted(self.clip, LearnedPrompts(self.clip, learner))
        return trainer

    def loss_of(self, trainer: PromptTrainer) -> torch.Tensor:
        batch = {"img": self.images, "label": self.labels}
        return trainer.loss(*trainer.parse_batch_train(batch))[1]["loss"]


def measure(classes: int, batch: int, kinds: list[str], repeats: int, threads: int) -> dict:
    """Return the seconds of every turn of every kind, and the peak memory of it all."""
    torch.set_num_threads(threads)
    bench = (MethodBench if "SCT" in kinds else Bench)(classes, batch)
    times = in_turns({kind: partial(bench.step, kind) for kind in kinds}, repeats)
    return {**times, "peak": peak_bytes()}


def apart(
    args: argparse.Namespace, classes: int, batch: int, kinds: list[str], repeats: int
) -> dict:
    """Return what `measure` finds in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (classes, batch, kinds, repeats, args.threads))


def peak_bytes() -> int:
    """Return the most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent process held before exec
        return _kib(status, "VmHWM") * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _kib(path: Path, key: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def small(args: argparse.Namespace) -> Rows:
    found, where = apart(args, 100, 4, ["plain", "fast", "coop"], args.repeats), "100 classes"
    where += ", batch 4"
    return [
        compared("LoCoOp step, plain over fast", where, found, "plain", "fast", ">= 4.5"),
        compared("fast, LoCoOp over CoOp", where, found, "fast", "coop", "<= 1.15"),
    ], found


def large(args: argparse.Namespace) -> Rows:
    where, raw = "1000 classes, batch 32", {"fast": apart(args, 1000, 32, ["fast", "coop"], 2)}
    fast, time, peak = raw["fast"], "does not fit", "does not fit"
    meminfo = Path("/proc/meminfo")
    if meminfo.exists() and _kib(meminfo, "MemAvailable") * 1024 > PLAIN_BYTES:
        raw["plain"] = apart(args, 1000, 32, ["plain"], 2)
        time = f"{seconds(raw['plain'], 'plain'):.1f} s"
        peak = f"{raw['plain']['peak'] / GIB:.1f} GiB"
    ours = [f"{seconds(fast, 'fast'):.1f} s", f"{fast['peak'] / GIB:.2f} GiB"]
    return [
        ["LoCoOp step, plain, fast", where, time, ours[0], "", "", ">= 5.5 times"],
        ["peak memory, plain, fast", where, peak, ours[1], "", "", "fast < 6 GiB"],
        compared("fast, LoCoOp over CoOp", where, fast, "fast", "coop", "<= 1.15"),
    ], raw


def views(args: argparse.Namespace) -> Rows:
    """Compare steps with those whose views are kept, which see no image."""
    rows, raw = [], {}
    for classes in (100, 1000):
        found = raw[classes] = apart(args, classes, 32, ["fast", "kept", "coop", "kept_coop"], 2)
        for name, kinds in (("LoCoOp", ("fast", "kept")), ("CoOp", ("coop", "kept_coop"))):
            what, where = f"{name} step, over one on kept views", f"{classes} classes, batch 32"
            rows.append(compared(what, where, found, *kinds, ""))
    return rows, raw


def gallop(args: argparse.Namespace) -> Rows:
    found, where = apart(args, 1000, 32, ["gallop"], 1), "1000 classes, batch 32"
    ours = f"{seconds(found, 'gallop'):.0f} s, {found['peak'] / GIB:.2f} GiB"
    return [["GalLoP step, peak memory", where, "", ours, "", "", "< 8 GiB"]], found


def methods(args: argparse.Namespace) -> Rows:
    rows, raw = [], {}
    for classes in args.classes:
        found = apart(args, classes, 32, [*METHODS, "LoCoOp", "CoOp"], args.repeats)
        where, raw[classes] = f"{classes} classes, batch 32", found
        rows += [
            compared(f"{name} over {base}", where, found, name, base, goal)
            for name, (base, goal) in METHODS.items()
        ]
    return rows, raw


ROWS = {"small": small, "large": large, "views": views, "methods": methods, "gallop": gallop}


def main() -> None:
    parser = make_parser(__doc__, repeats=5)
    parser.add_argument(
        "--classes", type=int, nargs="+", default=[100, 1000], help="of row methods (%(default)s)"
    )
    run_rows("train_step", parser, ROWS)


if __name__ == "__main__":
    main()
