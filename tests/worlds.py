"""Small data roots and configs for tests of the commands, and ways to run these."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from clip.tokenizer import encode
from run.config import TRAINER_REGISTRY
from trainers.base import ClipTrainer

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


def tiny_world(folder: Path, clip_file) -> Path:
    """Write an ID set of three classes of 64 x 64 pixels, and a config for each trainer; also an
    OOD set, words that are no classes, and outlier names."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for colour, name in enumerate(("ant", "bee", "cat")):
            (folder / "data/tiny" / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 120, (64, 64, 3), dtype=np.uint8)
                pixels[..., colour] += 120
                Image.fromarray(pixels).save(folder / "data/tiny" / split / name / f"{i}.png")
    images(folder / "data/Dots", 4, rng)
    (folder / "words").mkdir()
    (folder / "words/noun.a.txt").write_text("oak\nelm\nfog\nice\n", encoding="utf-8")
    (folder / "outliers.txt").write_text("storm\npine\n", encoding="utf-8")
    write(folder / "tiny.yaml", {"DATASET": {"NAME": "ImageFolder", "FOLDER": "tiny"}})
    for name in TRAINER_REGISTRY.registered_names():
        kind = TRAINER_REGISTRY.get(name)
        if not issubclass(kind, ClipTrainer):
            continue
        settings = {
            "_BASE_": str(first_config(name)),
            "INPUT": {"SIZE": [64, 64], "TRANSFORMS": ["normalize"]},
            "DATALOADER": {"NUM_WORKERS": 0, "TRAIN_X": {"BATCH_SIZE": 6}},
            "OPTIM": {"MAX_EPOCH": 2},
            "TRAIN": {"PRINT_FREQ": 1},
            "MODEL": {"BACKBONE": {"NAME": clip_file("tiny-vit")}},
            "TRAINER": {kind.CONFIG_KEY: {"PREC": "fp32"}},
        }
        if name == "ZOC":
            settings["DATASET"] = {"PAIRS": {"SOURCE": "classnames"}}
            settings["EVAL"] = {"FEATURES": str(folder / "features")}
        if isinstance(kind.CONFIG.get("TOPK"), int):
            settings["TRAINER"][kind.CONFIG_KEY]["TOPK"] = 2
        write(folder / f"{name}.yaml", settings)
    return folder


def first_config(name: str) -> Path:
    """Return a trainer's YAML for small data, or the one that holds all its settings."""
    paths = sorted(ROOT.glob(f"configs/trainers/{name}/*.yaml"))
    small = [path for path in paths if path.name == "tiny.yaml"]
    whole = [path for path in paths if "_BASE_" not in path.read_text(encoding="utf-8")]
    return [*small, *whole, *paths][0]


def clip_of_few_words(weights: str, texts: Iterable[str], path: Path) -> None:
    """Write CLIP's `weights` as if it had seen only the words of `texts`, so that ZOC is fast."""
    state = load_file(weights)
    known = sorted({49406, 49407, *(i for text in texts for i in encode(text))})
    few = torch.zeros_like(state["token_embedding.weight"])
    few[known] = state["token_embedding.weight"][known]
    state["token_embedding.weight"] = few
    save_file(state, path, {"activation": "quick_gelu"})


def tiny_flags(world: Path, name: str, output: Path, *more: object) -> list[str]:
    """Return the flags that train the trainer `name` in a `tiny_world`."""
    words = ["--root", world / "data", "--trainer", name, "--seed", 1, "--output-dir", output]
    words += ["--shots", 4] if TRAINER_REGISTRY.get(name).LEARNS else []
    words += ["--dataset-config-file", world / "tiny.yaml", "--config-file", world / f"{name}.yaml"]
    return list(map(str, [*words, *more]))


def tiny_scoring(world: Path, scores: Iterable[str]) -> list[str]:
    """Return the flags that evaluate `scores` on the sets of a `tiny_world`, with its words."""
    words = ["--negatives", world / "words", "--negatives-share", 0.5]
    words += ["--outliers", world / "outliers.txt", "--features", "none"]
    sets = ["--ood-data", f"Dots={world}/data/Dots", "--scores", ",".join(scores)]
    return list(map(str, [*sets, *words]))


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
