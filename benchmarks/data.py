"""Images per second of a training loader: JPEGs decoded in every epoch, or decoded once.

JPEGs of ImageNet's usual size (500 x 375, about 110 kB) are made on the spot; the transforms are
those of CoOp and LoCoOp (random resized crop to 224, flip, normalise; batch 32). Epochs of both
loaders take turns, and ratios are medians over the turns; on a machine that others use as well the
CPU time of an image says more than the images per second. Both give the same batches, bit for bit,
which is checked first.

    python benchmarks/data.py                     # 8 workers, as configured, and 0 and 2
    python benchmarks/data.py --images 480 --repeats 3 --workers 8
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import PIL
import torch
from PIL import Image, ImageFilter

from benchmarks.common import machine, print_table, save
from dassl.config import get_cfg_default
from dassl.data import build_data_loader
from dassl.data.datasets import Datum
from dassl.data.transforms import build_transform
from dassl.utils import set_random_seed

SIZE = (500, 375)


def make_images(folder: Path, count: int) -> list[Datum]:
    """Make JPEGs that compress like photographs: smooth shapes under fine grain."""
    rng, items = np.random.default_rng(0), []
    for number in range(count):
        rough = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(rough.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
        grain = Image.fromarray(rng.integers(0, 256, smooth.shape, dtype=np.uint8))
        grain = np.asarray(grain.filter(ImageFilter.BoxBlur(1)), dtype=np.float32) - 128
        path = folder / f"{number}.jpg"
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        items.append(Datum(str(path)))
    return items


def make_class_folders(root: Path, classes: int) -> None:
    """Write two images a class to train on and one to test on; some are links to one another."""
    (root / "made").mkdir(parents=True)
    made = make_images(root / "made", min(64, 3 * classes))
    for number in range(3 * classes):
        split = "train" if number < 2 * classes else "test"
        folder = root / split / f"class{number % classes:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(made[number % len(made)].impath, folder / f"{number}.jpg")
    shutil.rmtree(root / "made")


def config(root: Path, workers: int, gib: float):
    cfg = get_cfg_default()
    cfg.DATASET.ROOT, cfg.DATALOADER.NUM_WORKERS = str(root), workers
    cfg.DATALOADER.DECODED.GIB, cfg.DATALOADER.DECODED.FOLDER = gib, str(root / "decoded")
    cfg.INPUT.INTERPOLATION = "bicubic"
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    return cfg


def build(root: Path, items: list[Datum], workers: int, gib: float):
    cfg = config(root, workers, gib)
    return build_data_loader(
        cfg, "RandomSampler", items, batch_size=32, tfm=build_transform(cfg, is_train=True)
    )


def check_same(loaders: dict) -> None:
    """Compare one epoch of each, which also starts the workers and brings the files into memory."""
    epochs = []
    for loader in loaders.values():
        set_random_seed(0)
        epochs.append([batch["img"] for batch in loader])
    for plain, kept in zip(*epochs, strict=True):
        if not torch.equal(plain, kept):
            raise SystemExit("the loaders' batches differ: nothing was measured")


def measure(loader) -> tuple[float, float]:
    """Return images per second of an epoch, and milliseconds of CPU an image took."""
    workers = getattr(loader._iterator, "_workers", [])
    processes = [os.getpid(), *(worker.pid for worker in workers)]
    start, cpu, count = time.perf_counter(), cpu_seconds(processes), 0
    for batch in loader:
        count += len(batch["img"])
    seconds, cpu = time.perf_counter() - start, cpu_seconds(processes) - cpu
    return count / seconds, 1000 * cpu / count


def cpu_seconds(processes: list[int]) -> float:
    """Return the time that all threads of `processes` were running on a core (Linux)."""
    files = [file for pid in processes for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def compare(root: Path, items: list[Datum], workers: int, repeats: int) -> dict[str, list]:
    """Return images per second and CPU milliseconds an image of each turn of both loaders."""
    loaders = {
        "plain": build(root, items, workers, 0.0),
        "decoded": build(root, items, workers, 32.0),
    }
    check_same(loaders)
    turns: dict[str, list] = {name: [] for name in loaders}
    for _ in range(repeats):
        for name, loader in loaders.items():
            turns[name].append(measure(loader))
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=640, help="(%(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="epochs of each loader (%(default)s)"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 0, 2], help="(8 0 2)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # workers have one thread each; without workers one core works
    about = {**machine(), "pillow": PIL.__version__, "images": args.images, "size": SIZE}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        items = make_images(root, args.images)
        about["kB"] = round(statistics.mean(os.path.getsize(i.impath) for i in items) / 1000)
        raw = {workers: compare(root, items, workers, args.repeats) for workers in args.workers}
    rows = []
    for workers, turns in raw.items():
        for column, unit in enumerate(("images/s", "ms of CPU an image")):
            pairs = [
                (plain[column], kept[column])
                for plain, kept in zip(turns["plain"], turns["decoded"], strict=True)
            ]
            plain, kept = map(statistics.median, zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            rows.append([f"{workers}", unit, f"{plain:.3g}", f"{kept:.3g}", f"{ratio:.2f}"])
    print_table(rows, ["workers", "", "plain", "decoded once", "ratio"])
    save("data", about, turns=raw)


if __name__ == "__main__":
    main()
