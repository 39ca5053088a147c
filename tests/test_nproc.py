"""NPROC=2 bash scripts/train.sh: two processes train as one does, die with a word, and go on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import train
from dassl import command

pytestmark = pytest.mark.slow  # two processes

ROOT = Path(__file__).parents[1]
EPOCHS = 25
TEMPLATES = ["a photo of a {}.", "{}", "one {} on the grass, far away"]


@pytest.fixture(scope="module")
def world(tmp_path_factory, clip_file):
    """A small ID set of three classes, and a LoCoOp config without augmentation."""
    folder, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ant", "bee", "cat"):
            (folder / "data/tiny" / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "data/tiny" / split / name / f"{i}.png")
    (folder / "tiny.yaml").write_text(
        yaml.safe_dump({"DATASET": {"NAME": "ImageFolder", "FOLDER": "tiny"}})
    )
    (folder / "run.yaml").write_text(
        yaml.safe_dump(
            {
                "_BASE_": str(ROOT / "configs/trainers/LoCoOp/vit_b16_ep50.yaml"),
                "INPUT": {"SIZE": [64, 64], "TRANSFORMS": ["normalize"]},
                "DATALOADER": {"NUM_WORKERS": 0, "TRAIN_X": {"BATCH_SIZE": 8}},
                "OPTIM": {"MAX_EPOCH": EPOCHS},
                "TRAIN": {"CHECKPOINT_FREQ": 1},
                "MODEL": {"BACKBONE": {"NAME": clip_file("tiny-vit")}},
                "TRAINER": {"LOCOOP": {"TOPK": 2, "PREC": "fp32", "N_CTX": 4}},
            }
        )
    )
    return folder


def arguments(world: Path, output: str, *more: str) -> list[str]:
    return [
        "--root",
        f"{world}/data",
        "--trainer",
        "LoCoOp",
        "--shots",
        "4",
        "--seed",
        "1",
        "--dataset-config-file",
        f"{world}/tiny.yaml",
        "--config-file",
        f"{world}/run.yaml",
        "--output-dir",
        f"{world}/{output}",
        *more,
    ]


def start(world: Path, output: str, *more: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "NPROC": "2"}
    return subprocess.Popen(
        ["bash", str(ROOT / "scripts/train.sh"), *arguments(world, output, *more)],
        env=environment,
        cwd=world,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def state(world: Path, output: str) -> dict:
    folder = world / output / "prompt_learner"
    return torch.load(folder / f"model.pth.tar-{EPOCHS}", weights_only=True)["state_dict"]


def losses(world: Path, output: str) -> list[float]:
    lines = (world / output / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "batch" in record]


@pytest.fixture(scope="module")
def one(world):
    """The same training in this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *arguments(world, "one")])
        command.run(train.main)
    return world / "one"


def rank1_below(pid: int) -> int | None:
    """The process id of rank 1 below a torchrun of that id."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes().replace(b"LOCAL_RANK", b""):
            return int(child)
    return None


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds a rank in /proc")
def test_two_ranks_train_as_one_though_one_is_killed_on_the_way(world, one):
    killed = start(world, "two")
    note = world / "two/prompt_learner/checkpoint"
    while not note.exists():
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.02)
    os.kill(rank1_below(killed.pid), signal.SIGKILL)
    output = killed.communicate(timeout=60)[0]
    assert killed.returncode != 0 and "Traceback" not in output
    assert output.count("error (rank 0 of 2): Another process of the run has died") <= 1
    assert "stopped: rank 1 was the first to end, with SIGKILL" in output
    assert not (world / "two/finished.json").exists()

    again = start(world, "two")
    output = again.communicate(timeout=120)[0]
    assert again.returncode == 0, output
    assert "will resume training" in output and output.count("Finish training") == 1
    expected, found = state(world, "one"), state(world, "two")
    torch.testing.assert_close(found["ctx"], expected["ctx"], rtol=1e-5, atol=1e-6)
    assert len(losses(world, "one")) == EPOCHS
    assert losses(world, "two") == pytest.approx(losses(world, "one"), rel=1e-4)


def test_a_mistake_is_told_once(world):
    done = start(world, "refused", "DATALOADER.TRAIN_X.BATCH_SIZE", "7")
    output = done.communicate(timeout=120)[0]
    assert done.returncode != 0
    words = "BATCH_SIZE is 7, which 2 processes cannot share"
    told = [line for line in output.splitlines() if words in line]
    assert len(told) == 1 and told[0].startswith("error (rank ") and "of 2): " in told[0]
    assert "Traceback" not in output and "elastic" not in output
    assert re.fullmatch("stopped: rank . was the first .*", output.splitlines()[-1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both_processes_in_a_sentence(world, number):
    stopped = start(world, f"stopped{number}")
    while not (world / f"stopped{number}/prompt_learner/checkpoint").exists():
        assert stopped.poll() is None, stopped.stdout.read()
        time.sleep(0.02)
    stopped.send_signal(number)
    output = stopped.communicate(timeout=60)[0]
    assert stopped.returncode == 128 + number, output
    assert output.endswith(f"\nstopped by {number.name}\n") and "Traceback" not in output


CLIPN_LOSSES = ("loss", "bin_yes", "bin_no", "tso")


@pytest.mark.parametrize(
    "trainer, base, own, model, losses",
    [
        ("CLIPN", "tiny", {"VARIANT": "learnable"}, "no_encoder", CLIPN_LOSSES),
        ("CLIPN", "tiny", {"VARIANT": "handcrafted", "MICRO_BATCH": 3}, "no_encoder", CLIPN_LOSSES),
        ("ZOC", "vit_b32_coco", {"WARMUP_STEPS": 0}, "decoder", ("loss",)),
    ],
)
def test_two_processes_train_on_pairs_as_one(
    world, forked, clip_file, trainer, base, own, model, losses
):
    """CLIPN's draws and losses over all pairs, four a process, also in parts of three; ZOC's mean
    over the tokens of both processes, which are not as many.

    By SGD: the gradient of a key's bias is 0, and AdamW makes whole steps of its rounding.
    """
    (world / f"{trainer}.yaml").write_text(
        yaml.safe_dump(
            {
                "_BASE_": str(ROOT / f"configs/trainers/{trainer}/{base}.yaml"),
                "DATASET": {"PAIRS": {"SOURCE": "classnames", "TEMPLATES": TEMPLATES}},
                "INPUT": {"SIZE": [64, 64], "TRANSFORMS": ["normalize"]},
                "OPTIM": {"MAX_EPOCH": 2, "NAME": "sgd", "LR": 0.01},
                "DATALOADER": {"NUM_WORKERS": 0, "TRAIN_X": {"BATCH_SIZE": 8}},
                "TRAIN": {"PRINT_FREQ": 1},
                "TEST": {"NO_TEST": True},
                "MODEL": {"BACKBONE": {"NAME": clip_file("tiny-vit")}},
                "TRAINER": {trainer: own},
            }
        )
    )
    states, parts = [], []
    for processes in (1, 2):
        run = world / f"{trainer}-{len(own)}-{processes}"
        words = ["--root", world / "data", "--trainer", trainer, "--shots", 4, "--output-dir", run]
        words += ["--dataset-config-file", world / "tiny.yaml"]
        words += ["--config-file", world / f"{trainer}.yaml"]
        forked.ranks(processes, "train", *words, folder=world)
        states.append(torch.load(run / model / "model.pth.tar-2", weights_only=True)["state_dict"])
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        parts.append([[r[key] for key in losses] for r in records if "batch" in r])
    # A loss is of scale times cosines: 100 times the 6e-8 to which float32 rounds these.
    close = pytest.approx(np.array(parts[1]), rel=1e-5, abs=1e-5)
    assert np.array(parts[0]) == close and len(parts[0]) == 2
    for name, alone in states[0].items():
        torch.testing.assert_close(states[1][name], alone, rtol=1e-5, atol=1e-6, msg=name)
