"""The published positional scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from run.flags import make_parser
from tests.worlds import ROOT, script

pytestmark = pytest.mark.slow  # processes


def test_published_positional_arguments(world, tmp_path):
    """LoCoOp's own command lines, with one seed and a small config in the repository's place."""
    copy = tmp_path / "repository"
    beside = {".git", ".venv", "data", "output"}
    shutil.copytree(ROOT, copy, ignore=lambda folder, _: beside if folder == str(ROOT) else set())
    shutil.copy(world / "pets.yaml", copy / "configs/datasets")
    shutil.copy(world / "LoCoOp/run.yaml", copy / "configs/trainers/LoCoOp")
    environment = {**os.environ, "PYTHON": sys.executable, "SEEDS": "2", "OMP_NUM_THREADS": "1"}

    def bash(name, *arguments):
        return subprocess.run(
            ["bash", f"scripts/locoop/{name}", *map(str, arguments)],
            cwd=copy,
            check=True,
            env=environment,
            capture_output=True,
            text=True,
        )

    data, run = f"{world}/data", "output/pets/LoCoOp/run_1shots/nctx4_cscFalse_ctpmiddle/seed2"
    bash("train.sh", data, "pets", "run", "middle", 4, 1, "False", 0.25, 2)
    assert (copy / run / "prompt_learner/model.pth.tar-3").exists()
    assert "GL-MCM" in bash("eval.sh", data, "pets", "run", 1, run).stdout
    bash("demo_visualization.sh", data, "pets", "run", run, f"{data}/pets/val/crane/1.jpg", 3)
    assert list((copy / run / "visualization").glob("*.png"))


@pytest.mark.parametrize("name, count", [("train", 9), ("eval", 5), ("demo_visualization", 6)])
def test_positional_scripts_name_their_arguments(world, name, count):
    done = script(world, f"locoop/{name}.sh", "data", check=False)
    assert done.returncode == 2 and "usage:" in done.stderr and "DATA DATASET CONFIG" in done.stderr


def test_clipns_positional_scripts(world, echo, forked, tmp_path):
    """What they hand on to Python trains and evaluates."""

    def run(name, entry, *arguments):
        first = [f"{world}/data", "imagefolder", "tiny"]
        words = script(world, f"clipn/{name}.sh", *first, *arguments).stdout.splitlines()
        forked.run(entry, *words[2:], folder=world)  # behind -P and the file

    for name in ("train", "eval"):
        done = script(world, f"clipn/{name}.sh", "data", check=False)
        assert done.returncode == 2 and "DATA DATASET CONFIG" in done.stderr
    output = tmp_path / "run"
    pets = [
        "--dataset-config-file",
        f"{world}/pets.yaml",
        "--config-file",
        f"{world}/CLIPN/run.yaml",
        "--output-dir",
        output,
        "TRAINER.CLIPN.MICRO_BATCH",
        "3",
    ]
    run("train", "train", "handcrafted", 1, *pets)
    run("eval", "eval_ood", "published", output, *pets[:2])
    assert "ATD" in json.loads((output / "results.json").read_text(encoding="utf-8"))["figures"]


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """Puts a Python in place that prints its arguments."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("SEEDS", "7")


@pytest.mark.parametrize(
    "name, positional",
    [
        ("locoop/train", ["end", 16, 1, "False", 0.25, 200]),
        ("coop/train", ["end", 16, -1, "False"]),
        ("clipn/train", ["learnable", -1]),
        ("sct/train", ["end", 16, 1, "False", 0.25, 200]),
        ("locoop/eval", [1, "run"]),
        ("sct/eval", [1, "run"]),
        ("coop/eval", [1, "run"]),
        ("clipn/eval", ["imagenet80", "run"]),
        ("locoop/demo_visualization", ["run", "image.jpg", 3]),
        ("coop/demo_visualization", ["run", "image.jpg", 3]),
        ("sct/demo_visualization", ["run", "image.jpg", 3]),
    ],
)
def test_flags_and_pairs_may_follow_the_positional_arguments(world, echo, name, positional):
    """What the scripts hand on, to a Python that prints its arguments."""
    more = ["DATASET.CLASSES", "present", "--backbone", "RN50", "OPTIM.LR", "0.1"]
    done = script(world, f"{name}.sh", "data", "imagenet", "vit_b16_ep50", *positional, *more)
    words = done.stdout.split("\n")
    args = make_parser("").parse_known_args(words[1:])[0]
    assert (args.root, args.dataset, args.backbone) == ("data", "imagenet", "RN50")
    assert args.seed == 7 or "train" not in name
    assert "OPTIM.LR\n0.1" in done.stdout and "DATASET.CLASSES\npresent" in done.stdout
    for value in positional:
        assert str(value) in words
    done = script(world, f"{name}.sh", "data", "imagenet", "--backbone", "RN50", check=False)
    assert done.returncode == 2 and "usage:" in done.stderr


FOBOR = ["imagenet", "vit_b16_ep30", "end", 16, 16, "False", 0.2, 3.0, 5.0, 1, 1, 0.17, 200]


def test_fobors_positional_arguments(world, echo):
    """Trainers first, as many as one likes; one confusable class and one patch of it."""
    trainers, more = ["LoCoOpFoBoR", "SCTFoBoR"], ["--root", "data", "OPTIM.LR", "0.1"]
    done = script(world, "fobor/train.sh", *trainers, *FOBOR, *more)
    words = done.stdout.split("\n")
    assert [words[i + 1] for i, word in enumerate(words) if word == "--trainer"] == trainers
    for pair in ("SCTFOBOR.ALPHA\n0.2", "SCTFOBOR.FUSE\n0.17", "--topk\n200", "OPTIM.LR\n0.1"):
        assert pair in done.stdout
    done = script(world, "fobor/eval.sh", *trainers, *FOBOR, *more)
    run = "output/imagenet/SCTFoBoR/vit_b16_ep30_16shots/nctx16_cscFalse_ctpend/seed7"
    assert run in done.stdout and "--root\ndata" in done.stdout
    done = script(world, "fobor/train.sh", "SCTFoBoR", *FOBOR, "VERBOSE", "False")
    assert "VERBOSE\nFalse" in done.stdout and "--topk\n200" in done.stdout
    for wrong in (FOBOR, ["SCTFoBoR", *FOBOR[:9], 3, *FOBOR[10:]]):
        done = script(world, "fobor/train.sh", *wrong, check=False)
        assert done.returncode == 2 and "usage:" in done.stderr and "one patch" in done.stderr
