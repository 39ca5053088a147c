"""NPROC=2 bash scripts/eval.sh: two processes share the images, and write what one writes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_nproc import rank1_below
from tests.worlds import ROOT, flags

pytestmark = pytest.mark.slow  # two processes

LOG = "eval_log.txt"  # has dates


@pytest.fixture(scope="module")
def root(world, tmp_path_factory):
    """The data, with a batch of which nothing can be read, and one of which half can."""
    root = tmp_path_factory.mktemp("ranks") / "data"
    shutil.copytree(world / "data", root)
    for name in ("Dots/0.jpg", "Dots/1.jpg", "Scenes/3.jpg"):
        (root / name).write_bytes(b"no image")
    return root


def arguments(world: Path, root: Path, *extra: str) -> list[str]:
    size = ["DATALOADER.TEST.BATCH_SIZE", "2", "DATALOADER.BAD_IMAGES", "skip"]
    where = ["--root", str(root), "--features", "features", "--output-dir", "run"]
    return [*flags(world, "CoOp"), *where, *extra, *size]


def contents(folder: Path) -> dict[str, bytes]:
    """All files of the evaluation and of its kept features."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOG)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def evaluate(forked):
    """What rank 0 of so many prints of an evaluation: `evaluate(folder, 2, "--scores", "MCM")`."""

    def run(folder: Path, processes: int, *words: str) -> list[str]:
        folder.mkdir(exist_ok=True)
        return forked.ranks(processes, "eval_ood", *words, folder=folder).splitlines()

    return run


def test_two_ranks_evaluate_as_one_by_a_score_that_keeps_no_features(
    world, root, tmp_path, evaluate
):
    one, two = tmp_path / "one", tmp_path / "two"
    words = arguments(world, root, "--scores", "MCM,ODIN")
    said = evaluate(one, 1, *words)
    assert said == evaluate(two, 2, *words)
    assert any("2 of 5 images could not be read" in line for line in said)
    assert "run/results.json" in contents(one) and contents(one) == contents(two)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds a rank in /proc")
def test_two_ranks_evaluate_as_one_though_one_is_killed(world, root, tmp_path, evaluate):
    one, two = tmp_path / "one", tmp_path / "two"
    words = arguments(world, root, "--scores", "MCM,GL-MCM", "--features-local")
    said = evaluate(one, 1, *words)
    two.mkdir()
    killed = subprocess.Popen(
        ["bash", str(ROOT / "scripts/eval.sh"), *words],
        cwd=two,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "NPROC": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not (two / "run" / LOG).exists():
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.02)
    os.kill(rank1_below(killed.pid), signal.SIGKILL)
    output = killed.communicate(timeout=300)[0]
    assert killed.returncode != 0 and "Traceback" not in output
    assert "stopped: rank 1 was the first to end, with SIGKILL" in output
    assert not (two / "run/results.json").exists()
    assert evaluate(two, 2, *words) == said
    assert any("global.f32" in name for name in contents(one)) and contents(one) == contents(two)
    # And from the features that are kept now.
    assert evaluate(one, 1, *words) == evaluate(two, 2, *words)
    assert contents(one) == contents(two)
