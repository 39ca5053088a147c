"""Workers of a process that is killed end too, whichever way they were started."""

import multiprocessing
import os
import signal
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


def lives(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # a zombie has none
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_is_a_sentence(number):
    loader = DataLoader(range(9), num_workers=2, worker_init_fn=end_with_parent)
    killed = pytest.raises(KilledWorkerError, match=r"^DataLoader worker \(pid.*Lower DATALOADER")
    batches = iter(loader)
    with killed, explain_killed_worker():
        next(batches)
        os.kill(batches._workers[0].pid, number)
        time.sleep(PATIENCE)
    batches._shutdown_workers()


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
