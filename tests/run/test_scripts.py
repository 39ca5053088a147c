"""The published positional scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

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


def test_clipns_positional_scripts(world, trained, tmp_path):
    for name in ("train", "eval"):
        done = script(world, f"clipn/{name}.sh", "data", check=False)
        assert done.returncode == 2 and "DATA DATASET CONFIG" in done.stderr
    run = tmp_path / "run"
    pets = [
        "--dataset-config-file",
        f"{world}/pets.yaml",
        "--config-file",
        f"{world}/CLIPN/run.yaml",
        "--output-dir",
        run,
        "TRAINER.CLIPN.MICRO_BATCH",
        "3",
    ]
    script(world, "clipn/train.sh", f"{world}/data", "imagefolder", "tiny", "handcrafted", 1, *pets)
    script(
        world, "clipn/eval.sh", f"{world}/data", "imagefolder", "tiny", "published", run, *pets[:2]
    )
    assert "ATD" in json.loads((run / "results.json").read_text(encoding="utf-8"))["figures"]
