"""Time the commands that people wait for: detect.py on one image, the report of a benchmark.

    python benchmarks/tools.py

Both are timed as a user runs them, from the shell to the exit, imports included. detect.py: the
small CLIP that is committed here, class names, one image. Report: one run with two scores on
85,640 images, the four-set benchmark's number; scores are drawn at random and there are no images
to show.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

import numpy as np
from PIL import Image

from benchmarks.common import machine, print_table, save
from benchmarks.evaluate import PROTOCOL
from ood.set_scores import SetScores
from results.files import evaluate_sets, write_results


def detect(folder: Path) -> list[str]:
    """Write an image into `folder`; return the arguments of detect.py for it."""
    pixels = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    return [
        "detect.py",
        "--classes",
        "cat,dog,tractor",
        "--backbone",
        "generated/weights/generated_vit_s8.safetensors",
        str(folder / "photo.jpg"),
    ]


def report(folder: Path) -> list[str]:
    """Write results into `folder`; return the arguments of the report of them."""
    rng, sets = np.random.default_rng(0), []
    for name, count in PROTOCOL.items():
        scores = {
            score: rng.normal(name == "ID", 1, count).astype(np.float32)
            for score in ("MCM", "GL-MCM")
        }
        labels = rng.integers(0, 1000, count) if name == "ID" else None
        images = [f"{name}/{i % 1000:04d}/{i}.jpg" for i in range(count)]
        sets.append(SetScores(name, images, scores, labels, rng.integers(0, 1000, count)))
    figures = evaluate_sets(sets[0].scores, {s.name: s.scores for s in sets[1:]})
    write_results(folder / "run", figures, sets, {"comparable": {"trainer": "CoOp"}, "seed": 1})
    return ["-m", "results.report", str(folder / "run")]


# Command, its goal in seconds.
COMMANDS = {"detect.py, one image": (detect, 3), "report, 85,640 images, 2 scores": (report, 20)}


def seconds(command: list[str], repeats: int) -> list[float]:
    """Return the time of every run after the first, which brings the files into memory."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=REPO, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    raw, rows = {}, []
    for name, (prepare, goal) in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            raw[name] = seconds(prepare(Path(folder)), args.repeats)
        rows.append([name, "", f"{statistics.median(raw[name]):.1f} s", "", "", "", f"< {goal} s"])
    print_table(rows)
    save("tools", machine(), seconds=raw)


if __name__ == "__main__":
    main()
