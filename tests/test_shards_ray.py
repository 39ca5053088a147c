"""detect.py --shards --engine ray: killed, and started again, nothing is lost or doubled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector import Detector
from detector.shards import ShardScorer
from tests.worlds import ROOT, jpeg, write_tar

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray.data")
pytestmark = [
    pytest.mark.slow,  # starts Ray twice
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc"),
]

SHARDS, IMAGES = 6, 10


def rows(folder: Path) -> list[dict]:
    """All rows of all files, in their order."""
    files = sorted(folder.glob("*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def below(pid: int) -> list[int]:
    """The process ids below a process."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [one for child in map(int, children) for one in (child, *below(child))]


def actors(pid: int) -> list[int]:
    """The detectors below a driver."""
    titles = {one: Path(f"/proc/{one}/cmdline") for one in below(pid)}
    return [
        one for one, title in titles.items() if title.read_bytes().startswith(b"ray::MapWorker")
    ]


def on_ray(start, folder: Path, count: int) -> subprocess.Popen:
    """Start a job on Ray, and return it when so many files are there."""
    while True:
        job = start("out", "--engine", "ray")
        while job.poll() is None:
            if len(list(folder.glob("*.parquet"))) >= count:
                return job
            time.sleep(0.02)
        said = job.communicate()[0]
        # On a machine with much else to do: Ray's own limit is 30 s.
        assert "Ray did not start on this machine" in said, said


@pytest.fixture
def start(tmp_path, clip_file):
    """Starts detect.py on shards of large pictures, which take a while: `start("out")`."""
    rng = np.random.default_rng(0)
    for number in range(SHARDS):
        picture = jpeg(rng, 2500)
        write_tar(tmp_path / f"{number}.tar", {f"{number}{i}.jpg": picture for i in range(IMAGES)})
    held_out = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(20)]
    detector = Detector.zero_shot(["cat", "dog"], clip_file("tiny-vit")).calibrate(held_out)
    detector.save(tmp_path / "detector")
    # Not in tmp_path: the names of sockets must be short.
    folder = tempfile.mkdtemp(prefix="ray")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # sums round alike
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "disabled",  # it would leave a token in the home folder
    }

    def run(out: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "detect.py"), "--model-dir", "detector"]
        shards = ["--shards", f"{{0..{SHARDS - 1}}}.tar", "--out", out]
        return subprocess.Popen(
            [*command, *shards, *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    yield run
    shutil.rmtree(folder, ignore_errors=True)


def test_a_killed_driver_and_a_killed_worker_lose_nothing(start, tmp_path):
    scorer = ShardScorer(Detector.load(tmp_path / "detector"))
    for number in range(SHARDS):
        target = tmp_path / f"here/{number}.parquet"
        scorer({"shard": str(tmp_path / f"{number}.tar"), "target": str(target)})

    killed = on_ray(start, tmp_path / "out", 1)
    workers = actors(killed.pid)
    killed.kill()
    killed.communicate()
    assert workers
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.02)  # none outlives its driver
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert 0 < len(done) < SHARDS

    again = on_ray(start, tmp_path / "out", len(done) + 1)
    os.kill(actors(again.pid)[0], signal.SIGKILL)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    assert f"{len(done)} of {SHARDS} shards are finished" in said
    assert {path: path.stat().st_mtime_ns for path in done} == done
    found = rows(tmp_path / "out")
    assert len(found) == SHARDS * IMAGES and found == rows(tmp_path / "here")
    assert not list((tmp_path / "out").glob(".*.tmp"))
