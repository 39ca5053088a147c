"""A training step on an accelerator, and 16-shot training on ImageNet projected from it.

Two parts, at 1000 classes, batch 32, in mixed precision, ViT-B/16 with random weights:

- step: plain against fast (see `train_step.py`), taking turns; images are on the device already.
- training: `train.py` itself, on JPEGs of ImageNet's usual size that are made on the spot. Time a
  step and the share of it spent waiting for data are those of the last epoch, from the run's
  metrics.jsonl; minutes are that time, times the steps of 50 epochs on 16 images a class.

    python benchmarks/gpu_step.py
    python benchmarks/gpu_step.py --device cpu --classes 5 --batch 4 --turns 1    # that it runs
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

import torch
from safetensors.torch import save_file

from benchmarks.data import make_images
from benchmarks.train_step import GIB, Bench, machine, random_vit, save
from clip import resolve_precision

SHOTS, EPOCHS = 16, 50  # of the published configuration


class GpuBench(Bench):
    """`Bench` on a device, in mixed precision, with the loss scaling of training."""

    def __init__(self, classes: int, batch: int, device: torch.device):
        super().__init__(classes, batch)
        self.device, self.precision = device, resolve_precision("amp", device)
        self.clip.to(device)
        self.model.to(device)
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        self.optimizer = torch.optim.SGD([self.learner.ctx], lr=0.002, momentum=0.9)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.needs_scaler)

    def step(self, kind: str) -> float:
        with self.precision.context(self.device):
            loss = getattr(self, kind)()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()  # waits for the device


def time_steps(bench: GpuBench, turns: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of every turn, and the peak device memory, of "plain", "fast" and "coop"."""
    kinds = ("plain", "fast", "coop")
    peaks = {kind: _peak_of(bench, kind) for kind in kinds}  # also the warm-up
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(turns):
        for kind in kinds:
            times[kind].append(_seconds(lambda kind=kind: bench.step(kind)))
    return times, peaks


def _peak_of(bench: GpuBench, kind: str) -> int:
    """Bytes of device memory that two steps need at most; 0 where there is no such memory."""
    if bench.device.type != "cuda":
        return bench.step(kind) and 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(bench.device)
    for _ in range(2):
        bench.step(kind)
    return torch.cuda.max_memory_allocated(bench.device)


def _seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def train(folder: Path, classes: int, batch: int, device: str, workers: int) -> dict[str, float]:
    """Seconds a step and the share of waiting for data, in the third epoch of a real run."""
    make_class_folders(folder / "jpegs", classes)
    weights = {key: value.contiguous() for key, value in random_vit().state_dict().items()}
    save_file(weights, folder / "vit_b16.safetensors")
    subprocess.run(
        [
            sys.executable,
            "train.py",
            "--trainer",
            "LoCoOp",
            "--id-data",
            str(folder / "jpegs"),
            "--backbone",
            str(folder / "vit_b16.safetensors"),
            "--shots",
            "2",
            "--seed",
            "1",
            "--output-dir",
            str(folder / "run"),
            "MODEL.BACKBONE.ACTIVATION",
            "quick_gelu",
            "OPTIM.MAX_EPOCH",
            "3",
            "TEST.NO_TEST",
            "True",
            "DATALOADER.NUM_WORKERS",
            str(workers),
            "DATALOADER.TRAIN_X.BATCH_SIZE",
            str(batch),
            "USE_CUDA",
            str(device == "cuda"),
        ],
        cwd=REPO,
        check=True,
    )
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    steps = 2 * classes // batch
    return {"seconds": last["epoch_time"] / steps, "waiting": last["data_share"], "steps": steps}


def make_class_folders(root: Path, classes: int) -> None:
    """Two images a class to train on, one to test on."""
    images = [item.impath for item in make_images(_made(root / "all"), 3 * classes)]
    for number, path in enumerate(images):
        split = "train" if number < 2 * classes else "test"
        folder = _made(root / split / f"class{number % classes:04d}")
        os.replace(path, folder / f"{number}.jpg")
    (root / "all").rmdir()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device was found; --device cpu only shows that this runs")
    about = {
        **machine(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
    }
    bench = GpuBench(args.classes, args.batch, torch.device(args.device))
    times, peaks = time_steps(bench, args.turns)
    del bench
    with tempfile.TemporaryDirectory() as folder:
        run = train(Path(folder), args.classes, args.batch, args.device, args.workers)
    median = {kind: statistics.median(values) for kind, values in times.items()}
    print("| step | ms | images/s | peak memory |\n| --- | --- | --- | --- |")
    for kind, value in median.items():
        print(
            f"| {kind} | {1000 * value:.1f} | {args.batch / value:.0f} "
            f"| {peaks[kind] / GIB:.2f} GiB |"
        )
    print(
        f"\nplain over fast: {_ratio(times, 'plain', 'fast'):.2f}; "
        f"LoCoOp over CoOp: {_ratio(times, 'fast', 'coop'):.2f}"
    )
    minutes = run["seconds"] * (args.classes * SHOTS // args.batch) * EPOCHS / 60
    print(
        f"train.py: {1000 * run['seconds']:.1f} ms a step, {run['waiting']:.1%} of it waiting for "
        f"data; {SHOTS} shots, {EPOCHS} epochs: {minutes:.1f} minutes (projected)"
    )
    save("gpu_step", about, times=times, peaks=peaks, train=run)


def _ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


if __name__ == "__main__":
    main()
