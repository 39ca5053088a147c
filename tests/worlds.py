"""Small data roots and configs for tests of the commands, and ways to run these."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
CLASSES = ("cat", "golden_retriever", "tea pot", "crane")
SEED1 = "run_2shots/nctx16_cscFalse_ctpend/seed1"


def images(folder: Path, count: int, rng, suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 72), Image.Resampling.BICUBIC).save(
            folder / f"{i}{suffix}"
        )


def pets_world(folder: Path, clip_file) -> Path:
    """Write a data root with an ID set and two OOD sets, and configs that fit a tiny CLIP."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        images(folder / "data/pets/train" / name, 4, rng)
        images(folder / "data/pets/val" / name, 3, rng)
    for name in ("Scenes", "Dots"):
        images(folder / "data" / name, 5, rng)
    sets = {name: {"FOLDERS": [name], "IMAGES": 5} for name in ("Scenes", "Dots")}
    write(
        folder / "pets.yaml",
        {"DATASET": {"NAME": "ImageFolder", "FOLDER": "pets"}, "OOD": {"SETS": sets}},
    )
    write(folder / "loop.yaml", {"_BASE_": "loop.yaml"})
    own = {
        "CoOp": {},
        "LoCoOp": {"LOCOOP": {"TOPK": 2}},
        "GalLoP": {"GALLOP": {"N_GLOBAL": 2, "N_LOCAL": 2, "TOPK": [1, 3]}},
    }
    for trainer, node in own.items():
        write(
            folder / trainer / "run.yaml",
            {
                "_BASE_": str(ROOT / f"configs/trainers/{trainer}/vit_b16_ep50.yaml"),
                "INPUT": {"SIZE": [64, 64]},
                "DATALOADER": {"NUM_WORKERS": 0},
                "OPTIM": {"MAX_EPOCH": 3},
                "MODEL": {"BACKBONE": {"NAME": clip_file("tiny-vit")}},
                "TRAINER": node,
            },
        )
    write(
        folder / "CLIPN" / "run.yaml",
        {
            "_BASE_": str(ROOT / "configs/trainers/CLIPN/tiny.yaml"),
            "DATALOADER": {"NUM_WORKERS": 0, "TRAIN_X": {"BATCH_SIZE": 4}},
            "OPTIM": {"MAX_EPOCH": 2},
            "MODEL": {"BACKBONE": {"NAME": clip_file("tiny-vit")}},
            "TRAINER": {"CLIPN": {"TEMPLATE": "a photo of a {}."}},
        },
    )
    return folder


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def flags(world: Path, trainer: str = "LoCoOp") -> list[str]:
    return [
        "--root",
        f"{world}/data",
        "--trainer",
        trainer,
        "--dataset-config-file",
        f"{world}/pets.yaml",
        "--config-file",
        f"{world}/{trainer}/run.yaml",
    ]


def script(folder, name, *arguments, check=True) -> subprocess.CompletedProcess:
    # The same number of threads, on which rounding depends: runs are compared exactly.
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": threads}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / name), *map(str, arguments)],
        cwd=folder,
        check=check,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def jpeg(rng: np.random.Generator, edge: int = 40) -> bytes:
    """Return the bytes of a JPEG file with a few random colours."""
    file = io.BytesIO()
    pixels = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((edge, edge)).save(file, "JPEG")
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """Write a webdataset shard of these files."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
