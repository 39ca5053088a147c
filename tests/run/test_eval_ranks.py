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
from tests.worlds import ROOT, flags, script

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


@pytest.mark.parametrize(
    "extra, turns",  # of two turns the second reads kept features
    [(("--scores", "MCM,GL-MCM", "--features-local"), 2), (("--scores", "MCM,ODIN"), 1)],
)
def test_two_ranks_evaluate_as_one(world, root, tmp_path, monkeypatch, extra, turns):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    for _ in range(turns):
        said = []
        for folder, processes in ((one, ""), (two, "2")):
            monkeypatch.setenv("NPROC", processes)
            lines = script(folder, "eval.sh", *arguments(world, root, *extra)).stdout.splitlines()
            said.append([line for line in lines if not line.startswith("[rank 1 of 2] ")])
        assert "run/results.json" in contents(one) and contents(one) == contents(two)
        assert any("2 of 5 images could not be read" in line for line in said[0])
        assert said[0] == said[1]
    assert any("global.f32" in name for name in contents(two)) == (turns == 2)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds a rank in /proc")
def test_a_killed_rank_loses_nothing(world, root, tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "NPROC": "2"}
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    script(one, "eval.sh", *arguments(world, root))

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(ROOT / "scripts/eval.sh"), *arguments(world, root)],
            cwd=two,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    killed = start()
    while not (two / "run" / LOG).exists():
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.02)
    os.kill(rank1_below(killed.pid), signal.SIGKILL)
    output = killed.communicate(timeout=300)[0]
    assert killed.returncode != 0 and "Traceback" not in output
    assert "stopped: rank 1 was the first to end, with SIGKILL" in output
    assert not (two / "run/results.json").exists()
    again = start()
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    assert contents(two) == contents(one)
