"""Time a sweep of 8 runs on the same images, against the 8 runs one after the other.

LoCoOp with 4 lambdas and 2 Ks, ViT-B/16 with random weights (nothing is downloaded), ImageNet's
class names, 16 context tokens, float32. Both sides take the step of this repository; both are
timed from the first batch to the last, in turns within this process, and must end with the same
contexts, bit by bit. Ratios are medians over the turns.

What is shared is the image side, nearly all of a step with few classes. With 1000 the text side,
of which every run has its own, is most of a sweep's time. Hence two sizes. Images are noise in
memory; reading and decoding them, which a sweep shares too, is not counted, nor is loading the
model or writing checkpoints.

    python benchmarks/sweep.py                   # 100 and 1000 classes, batch 32
    python benchmarks/sweep.py --classes 100
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.common import Rows, build_clip, class_names, compared, make_parser, run_rows
from clip import ClipModel, resolve_precision
from run.config import build_cfg
from run.flags import make_parser as make_run_parser
from trainers.locoop import LoCoOp
from trainers.side_by_side import SideBySide

LAMBDAS, K_SHARES = (0.1, 0.25, 0.5, 1.0), (0.1, 0.2)


class Sweep:
    """8 runs on `batches` batches of noise."""

    def __init__(self, clip: ClipModel, classes: int, batch: int, batches: int, folder: str):
        names = class_names(classes)
        self.data = SimpleNamespace(
            dataset=SimpleNamespace(classnames=names, train_x=[]),
            num_classes=classes,
            num_source_domains=0,
            lab2cname=dict(enumerate(names)),
            train_loader_x=Loader(
                {"img": torch.randn(batch, 3, 224, 224), "label": torch.randint(classes, (batch,))}
                for _ in range(batches)
            ),
        )
        self.clip, self.folder = clip, folder
        self.cfgs = [
            self._cfg(weight, max(1, round(share * classes)))
            for weight in LAMBDAS
            for share in K_SHARES
        ]

    def _cfg(self, weight: float, k: int):
        flags = f"""--trainer LoCoOp --dataset imagenet --lambda_value {weight} --topk {k}
            --output-dir {self.folder}/{weight}_{k} OPTIM.MAX_EPOCH 1 TEST.NO_TEST True
            USE_CUDA False VERBOSE False"""
        return build_cfg(make_run_parser("").parse_args(flags.split()))

    def one_by_one(self) -> tuple[dict[str, float], list[torch.Tensor]]:
        """Return the seconds of the 8 runs, by clock, and their contexts."""
        trainers = [Run(cfg, self) for cfg in self.cfgs]
        return timed(lambda: [trainer.train() for trainer in trainers]), contexts(trainers)

    def side_by_side(self) -> tuple[dict[str, float], list[torch.Tensor]]:
        group = SideBySide({})
        for cfg in self.cfgs:
            group.add(
                cfg.OUTPUT_DIR, cfg.OUTPUT_DIR, lambda beside, cfg=cfg: Run(cfg, self, beside)
            )
        spent = timed(group.train)
        if group.failed:
            raise RuntimeError(str(group.failed))
        return spent, contexts([member.trainer for member in group.members])


class Loader(list):
    """Batches in memory."""

    dataset = ()


class Run(LoCoOp):
    """A run of the sweep, on its data and its CLIP."""

    def __init__(self, cfg, sweep: Sweep, beside: LoCoOp | None = None):
        self.sweep = sweep
        super().__init__(cfg, beside)

    def build_data_manager(self):
        return self.sweep.data

    def load_clip(self) -> ClipModel:
        self.precision = resolve_precision("fp32", self.device)
        return self.sweep.clip

    def save_model(self, *args, **kwargs) -> None:
        """Save nothing: it takes little beside an epoch's steps, much beside these few."""


def timed(work: Callable[[], object]) -> dict[str, float]:
    start = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - start[0], "cpu": time.process_time() - start[1]}


def contexts(trainers: list[LoCoOp]) -> list[torch.Tensor]:
    return [trainer.learner.ctx.detach() for trainer in trainers]


def measure(sweep: Sweep, repeats: int) -> dict:
    """Return the seconds of every turn of both sides, wall clock and CPU."""
    Run(sweep.cfgs[0], sweep).train()  # warms up
    result: dict = {"wall": {}, "cpu": {}}
    for _ in range(repeats):
        ends = []
        for kind in ("one_by_one", "side_by_side"):
            spent, learned = getattr(sweep, kind)()
            ends.append(learned)
            for clock, value in spent.items():
                result[clock].setdefault(kind, []).append(value)
        if not all(map(torch.equal, *ends)):
            raise AssertionError("side by side, a run did not end as it does alone")
    return result


def sweep(args: argparse.Namespace) -> Rows:
    rows, raw = [], {}
    for classes in args.classes:
        with tempfile.TemporaryDirectory() as folder:
            runs = Sweep(build_clip(), classes, args.batch, args.batches, folder)
            raw[classes] = measure(runs, args.repeats)
        name = f"8 runs of {args.batches} steps, one by one over side by side"
        where, kinds = f"{classes} classes, batch {args.batch}", ("one_by_one", "side_by_side")
        rows.append(compared(name, where, raw[classes], *kinds, ">= 2"))
    return rows, raw


def main() -> None:
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--batch", type=int, default=32, help="images a step (%(default)s)")
    parser.add_argument("--batches", type=int, default=2, help="steps of a run (%(default)s)")
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000], help="(100 1000)")
    run_rows("sweep", parser, {"sweep": sweep})


if __name__ == "__main__":
    main()
