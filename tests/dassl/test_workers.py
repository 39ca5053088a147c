"""Workers of a process that is killed end too, whichever way they were started."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

import tests.dassl.upstream_style_trainer  # noqa: F401  (registers the trainer)
from dassl.data.workers import end_with_parent, worker_settings
from dassl.engine import build_trainer
from dassl.utils.errors import KilledWorkerError, explain_killed_worker

pytestmark = pytest.mark.slow  # processes that are killed

PATIENCE = 30  # seconds


def read_until_killed(method: str, ids) -> None:
    loader = DataLoader(
        range(4),
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=method,
        worker_init_fn=end_with_parent,
    )
    batches = iter(loader)
    next(batches)
    ids.send([worker.pid for worker in batches._workers])
    time.sleep(10 * PATIENCE)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_with_a_killed_process(method):
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=read_until_killed, args=(method, sender))
    process.start()
    assert receiver.poll(4 * PATIENCE)
    workers = receiver.recv()
    process.kill()
    end = time.monotonic() + PATIENCE
    while any(map(lives, workers)):
        assert time.monotonic() < end, workers
        time.sleep(0.05)


def test_more_workers_than_cores_are_no_warning(make_cfg, recwarn):
    cfg = make_cfg("DATALOADER.NUM_WORKERS", 2 + 2 * os.cpu_count())
    loader = DataLoader(range(4), **worker_settings(cfg))
    assert loader.num_workers == cfg.DATALOADER.NUM_WORKERS and not recwarn.list


PROBE = """
import sys
class Probe(list):
    had_dassl = "dassl.data" in sys.modules
    def __getitem__(self, i):
        return self.had_dassl
"""


def test_the_fork_server_imports_dassl_for_all_workers(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    program = """
from torch.utils.data import DataLoader
from probe import Probe
from dassl.config import get_cfg_default
from dassl.data.workers import worker_settings
cfg = get_cfg_default()
cfg.DATALOADER.NUM_WORKERS = 1
print(*DataLoader(Probe([0]), multiprocessing_context="forkserver", **worker_settings(cfg)))
"""
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "tensor([True])\n", done.stderr


def lives(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # a zombie has none
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_is_a_sentence(number):
    loader = DataLoader(range(9), num_workers=2, worker_init_fn=end_with_parent)
    sentence = r"^DataLoader worker .* was killed.*Lower DATALOADER"
    batches = iter(loader)
    with pytest.raises(KilledWorkerError, match=sentence), explain_killed_worker():
        next(batches)
        os.kill(batches._workers[0].pid, number)
        while lives(batches._workers[0].pid):
            time.sleep(0.05)
        time.sleep(2)  # interrupted by the signal of its death, if it is a child of this process
        list(batches)
    batches._shutdown_workers()


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError()])
def test_a_worker_that_does_not_answer_was_killed(error):
    sentence = r"worker gone \(.+\): a process"
    with pytest.raises(KilledWorkerError, match=sentence), explain_killed_worker():
        raise error


@pytest.mark.parametrize("error", [BrokenPipeError(), EOFError("No data left"), RuntimeError("a")])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as raised, explain_killed_worker():
        raise error
    assert raised.value is error


@pytest.mark.parametrize("stops", [False, True])
def test_workers_end_with_the_training(make_cfg, monkeypatch, stops):
    """Whether it ends well or not; then, not when the garbage is collected: that takes long."""
    trainer = build_trainer(make_cfg("DATALOADER.NUM_WORKERS", 2, "TEST.NO_TEST", True))
    alive = []

    def after_epoch():
        alive.extend(multiprocessing.active_children())
        if stops:
            raise StopIteration

    monkeypatch.setattr(trainer, "after_epoch", after_epoch)
    with pytest.raises(StopIteration) if stops else nullcontext():
        trainer.train()
    assert len(alive) >= 2 and not any(worker.is_alive() for worker in alive)
