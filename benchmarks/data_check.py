"""Time the data check on as many files as the ImageNet benchmark has: 85,640.

python benchmarks/data_check.py --root DIR     makes the files there once (1000 classes of 50, four
OOD sets; small PNG files of different sizes), then times the folders alone (what train.py and
eval_ood.py do first) and the command, imports included.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from dassl.utils import progress_bar
from datasets.check.layout import require_data
from datasets.classnames import imagenet_wnids
from datasets.needs import EVALUATION
from run.config import build_cfg
from run.flags import make_parser

OOD = {"iNaturalist": 10_000, "SUN": 10_000, "Places": 10_000, "Texture/images": 5_640}


def make(root: Path, share: float) -> None:
    """Write the benchmark's files, or a share of each folder's."""
    folders = {f"imagenet/images/val/{wnid}": 50 for wnid in imagenet_wnids()} | OOD
    rng = np.random.default_rng(0)
    for folder, count in progress_bar(folders.items(), "making files", "folder"):
        (root / folder).mkdir(parents=True)
        for index in range(max(1, int(share * count))):
            (root / folder / f"image_{index}.png").write_bytes(_png(rng))


def _png(rng) -> bytes:
    buffer = io.BytesIO()
    pixels = rng.integers(0, 255, (int(rng.integers(8, 24)), 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def timed(name: str, run) -> None:
    started = time.perf_counter()
    run()
    print(f"{name}: {time.perf_counter() - started:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="of the files, to try it out (default: %(default)s)",
    )
    parser.add_argument("--full", action="store_true", help="time --full as well")
    args = parser.parse_args()
    if not (args.root / "imagenet").exists():
        make(args.root, args.share)
    flags = ["--root", str(args.root.absolute()), "--dataset", "imagenet"]
    cfg = build_cfg(make_parser("").parse_args([*flags, "--trainer", "ZeroshotCLIP"]))
    timed("folders, before a run", lambda: require_data(cfg, EVALUATION))
    command = [sys.executable, "-m", "run.check", *flags]
    here = Path(__file__).parents[1]
    for extra in ([], ["--full"]) if args.full else ([],):
        run = [*command, *extra]
        timed(
            " ".join(["the check", *extra]),
            lambda run=run: subprocess.run(run, cwd=here, check=True, stdout=subprocess.DEVNULL),
        )


if __name__ == "__main__":
    main()
