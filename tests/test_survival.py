"""Runs that are killed, stopped, run out of space or into NaN: nothing is lost, nothing is half."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from dassl.utils.errors import InputError, NonFiniteLossError
from run.folder import LOCK, describe_checkpoints, locked

pytestmark = pytest.mark.slow  # processes that are killed

ROOT = Path(__file__).parents[1]
EPOCHS = 8


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, clip_file):
    """Flags of a LoCoOp run of seconds, checkpoints at every epoch, without its output folder."""
    from generated.build import Counts, build

    folder = tmp_path_factory.mktemp("data")
    build(folder, Counts(train=2, val=1, ood=1, pairs=0), workers=1)
    (folder / "run.yaml").write_text(
        yaml.safe_dump(
            {
                "_BASE_": str(ROOT / "configs/trainers/LoCoOp/generated.yaml"),
                "MODEL": {"BACKBONE": {"NAME": clip_file("tiny-vit")}},
                "OPTIM": {"MAX_EPOCH": EPOCHS},
                "INPUT": {"SIZE": [64, 64]},
                "DATALOADER": {"VIEWS": 0, "TRAIN_X": {"BATCH_SIZE": 8}},
            }
        ),
        encoding="utf-8",
    )
    return [
        "--root",
        str(folder),
        "--trainer",
        "LoCoOp",
        "--dataset",
        "generated",
        "--shots",
        "2",
        "--config-file",
        str(folder / "run.yaml"),
        "--seed",
        "3",
    ]


def spent(process) -> float:
    """Seconds that a process has computed: unlike time, the same on a machine that has more to do.

    0 once it has ended.
    """
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def run_until(process, seconds: float, workers: int = 0) -> float:
    """Wait until a process has computed so long and its workers are alive, or until it ends.

    How long it has computed by then.
    """
    computed = 0.0
    while process.is_alive() and (computed < seconds or descendants(process.pid) < workers):
        computed = max(computed, spent(process))
        time.sleep(0.005)
    return computed


def descendants(pid: int) -> int:
    """Count the living processes that a process, or one of these, started: workers of loaders, and
    from Python 3.14 on the server that forks them."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(1 + descendants(int(child)) for child in children)


def checkpoint(folder):
    return torch.load(folder / f"prompt_learner/model.pth.tar-{EPOCHS}", weights_only=True)


def same(one, two) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


@pytest.mark.parametrize("workers, kills", [(0, 10), (2, 5)])
def test_killed_at_random_moments_it_ends_as_if_undisturbed(
    arguments, forked, tmp_path, workers, kills
):
    """kill -9; context, optimiser, schedule and random state, bit by bit.

    With workers it is killed while they are alive. They outlive the run by seconds, and must not
    hold its folder: it is started again at once.
    """
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    flags = [*arguments, "DATALOADER.NUM_WORKERS", workers]  # KEY VALUE pairs come last
    undisturbed = forked("train", "--output-dir", whole, *flags)
    seconds = run_until(undisturbed, float("inf"))
    assert undisturbed.exitcode == 0, undisturbed.told()
    rng, killed = random.Random(5), 0
    while not (folder / "finished.json").exists():
        process = forked("train", "--output-dir", folder, *flags)
        # At times early, at times after an epoch or two, so that there is progress too.
        moment = rng.uniform(0, seconds / 2) if killed < kills else float("inf")
        run_until(process, moment, workers)
        if process.is_alive():
            killed += 1
            process.kill()
            process.join()
        else:
            assert process.exitcode == 0, process.told()
        if killed < kills and (folder / "finished.json").exists():
            shutil.rmtree(folder)  # done too soon: again from the start, to be killed some more
    assert same(checkpoint(folder), checkpoint(whole))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in lines if "mean_loss" in row] == list(range(1, EPOCHS + 1))
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_a_sentence(arguments, number, tmp_path):
    command = [
        sys.executable,
        "train.py",
        *arguments,
        "--output-dir",
        str(tmp_path),
        "OPTIM.MAX_EPOCH",
        "1000",
    ]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        note = tmp_path / "prompt_learner/checkpoint"
        while not note.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number, told
    assert "Traceback" not in told
    last = told.splitlines()[-1]
    assert last.startswith(f"stopped by {number.name}. Kept: {tmp_path}/prompt_learner/model.pth")
    assert "the same command resumes from there" in last
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    "largest, name", [(1_000, "config.yaml"), (10_000, "prompt_learner/model.pth.tar-1")]
)
def test_a_full_disk_is_a_sentence(arguments, forked, tmp_path, largest, name):
    """No file may grow beyond `largest` bytes: `name` is the first that has to."""
    process = forked("train", *arguments, "--output-dir", tmp_path, largest=largest)
    process.join()
    told = process.told().splitlines()[-1]
    assert process.exitcode == 1 and "Traceback" not in process.told()
    assert told.startswith(f"error: Cannot write {tmp_path}/{name}") and "File too large" in told
    if name != "config.yaml":
        assert told.endswith(f"{tmp_path} holds no checkpoint yet: the same command starts again.")
    assert not [path for path in tmp_path.glob("*/model*") if path.is_file()]
    assert "Logging error" not in process.told() and not list(tmp_path.rglob("*.tmp"))


def test_a_disk_that_is_full_later_on(arguments, forked, tmp_path):
    """What was saved before is named and stays: here the log of a second start does not fit."""
    flags = [*arguments, "--output-dir", tmp_path, "OPTIM.LR", "1e38"]
    forked("train", *flags).join()
    good = tmp_path / "prompt_learner/model.pth.tar-1"
    before = good.read_bytes()
    process = forked("train", *flags, largest=(tmp_path / "log.txt").stat().st_size + 100)
    process.join()
    told = process.told().splitlines()
    assert process.exitcode == 1 and len(told) == 1
    assert told[0].startswith(f"error: Cannot write {tmp_path}/log.txt: File too large.")
    assert told[0].endswith(f"Kept: {good}; the same command resumes from there.")
    assert good.read_bytes() == before


def test_one_process_a_folder(tmp_path, forked, arguments):
    with locked(tmp_path):
        process = forked("train", *arguments, "--output-dir", tmp_path)
        process.join()
        assert process.exitcode == 1
        assert "error: another process works in" in process.told()
        other = pytest.raises(InputError, match="another process works in")
        with other, locked(tmp_path):
            pass
    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    (tmp_path / "scores").mkdir()
    for name in (".results.json.0123abcd.tmp", "scores/.SUN.csv.0123abcd.tmp", "mine.tmp"):
        (tmp_path / name).write_text("half")
    with locked(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"mine.tmp", "scores", LOCK}


def test_a_folder_of_another_user_below_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    stat = os.stat

    def refused(path, *args, **kwargs):
        if "theirs/" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refused)
    with locked(tmp_path):
        pass


def test_what_another_run_below_is_writing_is_left(tmp_path):
    name = ".model.pth.tar-2.0123abcd.tmp"
    (tmp_path / "seed2/prompt_learner").mkdir(parents=True)
    (tmp_path / "features/model/.cat.0123abcd.tmp").mkdir(parents=True)
    for path in (tmp_path / "seed2", tmp_path / "seed2/prompt_learner"):
        (path / name).write_text("half")
    with locked(tmp_path / "seed2"):
        (tmp_path / "seed2" / name).write_text("half")
        with locked(tmp_path):
            left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tmp")}
    assert left == {f"seed2/{name}", "features/model/.cat.0123abcd.tmp"}


def test_a_context_that_is_not_finite_is_not_saved(tmp_path):
    from dassl.engine import TrainerBase

    trainer, model = TrainerBase(), torch.nn.Linear(2, 2)
    trainer.register_model("prompt_learner", model)
    trainer.save_model(0, tmp_path)
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"weight of prompt_learner .* after epoch 2"):
        trainer.save_model(1, tmp_path)
    assert describe_checkpoints(tmp_path).startswith(
        f"Kept: {tmp_path}/prompt_learner/model.pth.tar-1;"
    )


@pytest.mark.parametrize("asked, used", [("amp", "fp32"), ("amp_bf16", "amp_bf16")])
def test_a_loss_of_nan_names_the_checkpoint_that_is_kept(arguments, forked, tmp_path, asked, used):
    """Where it came up, in what the CPU really computed, and what is left of the time before."""
    process = forked(
        "train",
        *arguments,
        "--output-dir",
        tmp_path,
        "OPTIM.LR",
        "1e38",
        "TRAINER.LOCOOP.PREC",
        asked,
        "TRAIN.PRINT_FREQ",
        "1",
    )
    process.join()
    assert process.exitcode == 1 and "Traceback" not in process.told()
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    error = process.told().splitlines()[-1]
    where = f"in epoch {last['epoch']}, batch {last['batch'] + 1} at precision {used}. Try "
    assert error.startswith("error: The loss is nan ") and where in error
    advice = error.partition(where)[2].partition("look for")[0]
    assert "OPTIM.LR" in advice and used not in advice.replace(",", "").split()
    assert ("precision" in advice) == (used != "fp32")

    # The first epoch's rate is the warm-up's: what it learned is good.
    good = tmp_path / f"prompt_learner/model.pth.tar-{last['epoch'] - 1}"
    assert last["epoch"] == 2 and f"Kept: {good};" in error
    assert torch.load(good, weights_only=True)["state_dict"]["ctx"].isfinite().all()
    process = forked("train", *arguments[:2], "--model-dir", tmp_path, "--eval-only")
    process.join()
    assert process.exitcode == 0, process.told()
