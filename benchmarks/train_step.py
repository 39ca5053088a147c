"""Time and memory of one training step: plain against fast, LoCoOp against CoOp.

ViT-B/16 with random weights (nothing is downloaded), ImageNet's class names, 16 context
tokens, float32. Every measurement runs in a process of its own; what is compared takes turns
within that process, and ratios are medians over the turns.

    python benchmarks/train_step.py                # all rows: small, large, huge
    python benchmarks/train_step.py --rows small   # 100 classes, batch 4

On a machine with other work to do, `--threads 1` and the ratio of CPU times say more than
the clock on the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import open_clip
import torch
import torch.nn.functional as F

from benchmarks import plain
from clip import ClipModel
from clip.loading import OPENAI_TRANSFORM
from clip.prompted import PromptedCLIP, cosines
from datasets.classnames import imagenet_classnames
from trainers.locoop import ood_regularisation
from trainers.prompt_learner import PromptLearner
from trainers.prompt_trainer import LearnedPrompts

GIB = 2**30
LAMBDA = 0.25
# What a plain step keeps of one class, for deciding what fits: 77 tokens in 12 blocks.
PLAIN_BYTES_PER_CLASS, BASE_BYTES = 30e6, 1.5e9


def random_vit() -> open_clip.CLIP:
    """OpenAI's ViT-B/16, its weights drawn at random."""
    torch.manual_seed(0)
    return open_clip.CLIP(
        512,
        {"layers": 12, "width": 768, "patch_size": 16, "image_size": 224},
        {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
        quick_gelu=True,
    )


def build_clip() -> ClipModel:
    """The same as the trainers hold it."""
    return ClipModel(
        random_vit().eval(),
        name="ViT-B/16, random",
        activation="quick_gelu",
        weights_hash="",
        **OPENAI_TRANSFORM,
    )


class Bench:
    """Steps on one batch of noise; each returns the loss it started from."""

    def __init__(self, classes: int, batch: int):
        self.clip = build_clip()
        names = imagenet_classnames()
        # Spread over ImageNet's list; past its end the names come again.
        chosen = [
            names[i * 1000 // classes if classes < 1000 else i % 1000] for i in range(classes)
        ]
        self.learner = PromptLearner(chosen, self.clip)
        self.model = PromptedCLIP(self.clip, LearnedPrompts(self.clip, self.learner))
        self.images = torch.randn(batch, 3, 224, 224)
        self.labels = torch.randint(classes, (batch,))
        self.k = max(1, classes // 5)
        self.optimizer = torch.optim.SGD([self.learner.ctx], lr=0.002, momentum=0.9)

    def step(self, kind: str) -> float:
        loss = getattr(self, kind)()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def plain(self) -> torch.Tensor:
        return plain.locoop_loss(self.clip, self.learner, self.images, self.labels, self.k, LAMBDA)

    def fast(self) -> torch.Tensor:
        with torch.no_grad():
            features, regions = self.model.image_features(self.images, local=True)
        text, scale = self.model.text_features(), self.clip.scale
        loss_id = F.cross_entropy(scale * cosines(features, text), self.labels)
        return loss_id + LAMBDA * ood_regularisation(regions, text, self.labels, scale, self.k)

    def coop(self) -> torch.Tensor:
        with torch.no_grad():
            features, _ = self.model.image_features(self.images, local=False)
        return F.cross_entropy(
            self.clip.scale * cosines(features, self.model.text_features()), self.labels
        )


def measure(classes: int, batch: int, kinds: list[str], repeats: int) -> dict:
    """Seconds of every turn of every kind, wall clock and CPU, and the peak memory of it all."""
    bench = Bench(classes, batch)
    before = _peak_bytes()
    times = in_turns({kind: partial(bench.step, kind) for kind in kinds}, repeats)
    return {"classes": classes, "batch": batch, **times, "peak": _peak_bytes(), "before": before}


def in_turns(steps: Mapping[str, Callable], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every turn of every step, "wall" clock and "cpu"."""
    wall, cpu = ({kind: [] for kind in steps} for _ in range(2))
    for turn in range(repeats + (repeats > 1)):
        for kind, step in steps.items():
            start = time.perf_counter(), time.process_time()
            step()
            if turn or repeats == 1:  # the first turn warms up
                wall[kind].append(time.perf_counter() - start[0])
                cpu[kind].append(time.process_time() - start[1])
    return {"wall": wall, "cpu": cpu}


def _peak_bytes() -> int:
    """The most memory this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent process held before exec
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure_apart(
    args: argparse.Namespace, classes: int, batch: int, kinds: list[str], repeats: int
) -> dict:
    """`measure` in a fresh process."""
    command = [
        sys.executable,
        __file__,
        "--threads",
        str(args.threads),
        "--measure",
        json.dumps([classes, batch, kinds, repeats]),
    ]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
    )
    return json.loads(done.stdout.splitlines()[-1])


def ratio(result: dict, over: str, under: str, clock: str) -> float:
    """Median over the turns of one kind's time over the other's."""
    pairs = zip(result[clock][over], result[clock][under], strict=True)
    return statistics.median(a / b for a, b in pairs)


def seconds(result: dict, kind: str, clock: str = "wall") -> float:
    return statistics.median(result[clock][kind])


def available_bytes() -> float:
    line = next(
        x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable")
    )
    return int(line.split()[1]) * 1024


def plain_at(args: argparse.Namespace, classes: int, batch: int) -> tuple[dict, str]:
    """Plain time and memory at a size; extrapolated over classes where it does not fit."""
    fits = int((0.75 * available_bytes() - BASE_BYTES) / PLAIN_BYTES_PER_CLASS)
    if fits >= classes:
        found = measure_apart(args, classes, batch, ["plain"], 2)
        values = {key: seconds(found, "plain", key) for key in ("wall", "cpu")}
        return {**values, "peak": found["peak"]}, "measured"
    sizes = [fits // 100 * 50, fits // 100 * 100]
    low, high = (measure_apart(args, size, batch, ["plain"], 2) for size in sizes)
    far = (classes - sizes[0]) / (sizes[1] - sizes[0])

    def line(a: float, b: float) -> float:
        return a + (b - a) * far

    values = {
        key: line(seconds(low, "plain", key), seconds(high, "plain", key))
        for key in ("wall", "cpu")
    }
    note = f"does not fit; a line through {sizes[0]} and {sizes[1]} classes"
    return {**values, "peak": line(low["peak"], high["peak"])}, note


def small(args) -> tuple[list, dict]:
    found = measure_apart(args, 100, 4, ["plain", "fast", "coop"], args.repeats)
    where = "100 classes, batch 4"
    rows = [
        [
            "LoCoOp step, plain over fast",
            where,
            f"{seconds(found, 'plain'):.2f} s",
            f"{seconds(found, 'fast'):.2f} s",
            *ratios(found, "plain", "fast"),
            ">= 4.5",
        ],
        [
            "fast, LoCoOp over CoOp",
            where,
            f"{seconds(found, 'fast'):.2f} s",
            f"{seconds(found, 'coop'):.2f} s",
            *ratios(found, "fast", "coop"),
            "<= 1.15",
        ],
    ]
    return rows, found


def ratios(found: dict, over: str, under: str) -> list[str]:
    return [f"{ratio(found, over, under, clock):.2f}" for clock in ("wall", "cpu")]


def large(args) -> tuple[list, dict]:
    fast = measure_apart(args, 1000, 32, ["fast", "coop"], 2)
    slow, note = plain_at(args, 1000, 32)
    where = "1000 classes, batch 32"
    peak = fast["peak"]  # LoCoOp's: CoOp's step in the same process needs less
    rows = [
        [
            "LoCoOp step, plain over fast",
            f"{where} ({note})",
            f"{slow['wall']:.1f} s",
            f"{seconds(fast, 'fast'):.1f} s",
            f"{slow['wall'] / seconds(fast, 'fast'):.2f}",
            f"{slow['cpu'] / seconds(fast, 'fast', 'cpu'):.2f}",
            ">= 5.5",
        ],
        [
            "peak memory, plain over fast",
            f"{where} ({note})",
            f"{slow['peak'] / GIB:.1f} GiB",
            f"{peak / GIB:.2f} GiB",
            f"{slow['peak'] / peak:.1f}",
            "",
            ">= 5, fast < 6 GiB",
        ],
        [
            "fast, LoCoOp over CoOp",
            where,
            f"{seconds(fast, 'fast'):.1f} s",
            f"{seconds(fast, 'coop'):.1f} s",
            *ratios(fast, "fast", "coop"),
            "<= 1.15",
        ],
    ]
    return rows, {"fast": fast, "plain": slow, "note": note}


def huge(args) -> tuple[list, dict]:
    found = measure_apart(args, 21000, 4, ["fast"], 1)
    row = [
        "LoCoOp step, fast",
        "21000 classes, batch 4",
        "does not fit",
        f"{seconds(found, 'fast'):.0f} s, {found['peak'] / GIB:.1f} GiB",
        "",
        "",
        "fits 24 GiB",
    ]
    return [row], found


ROWS = {"small": small, "large": large, "huge": huge}


def machine() -> dict:
    """What the figures depend on beside the code."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    cpu = next(
        (x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.processor()
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
    }


def print_table(rows: list[list[str]]) -> None:
    head = ["measure", "at", "first", "second", "ratio", "ratio (CPU time)", "goal"]
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")


def save(name: str, about: dict, **content: object) -> None:
    """Write a benchmark's figures, with the machine, to results/NAME.json, and say so."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": about, **content}, indent=1))
    print(f"\n{json.dumps(about)}\nsaved to {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--repeats", type=int, default=5, help="turns at 100 classes (5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what the fresh process is told
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        print(json.dumps(measure(*json.loads(args.measure))))
        return
    about, table, raw = {**machine(), "threads": args.threads}, [], {}
    for name in args.rows:
        rows, raw[name] = ROWS[name](args)
        table += rows
    print_table(table)
    save("train_step", about, rows=table, raw=raw)


if __name__ == "__main__":
    main()
