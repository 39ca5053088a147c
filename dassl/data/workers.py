"""Worker processes of a loader: their settings, and how they end."""

import multiprocessing
import os
import signal
import threading
import warnings
from typing import Any

import torch
from yacs.config import CfgNode

GRACE = 5  # seconds


def worker_settings(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of a DataLoader for its workers and for pinned memory.

    Each rank has DATALOADER.NUM_WORKERS workers, even on fewer cores: PyTorch's warning about that
    is silenced. The fork server (see `end_with_parent`) imports this package once for all workers:
    in a notebook and under `python -m`, each would import it itself, which takes seconds.
    """
    multiprocessing.set_forkserver_preload(["__main__", __name__])
    warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
    return {
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "worker_init_fn": end_with_parent,
        "pin_memory": torch.cuda.is_available() and cfg.USE_CUDA,
    }


def end_with_parent(worker: int) -> None:
    """End this worker when the process it reads for ends, however it ends: a `worker_init_fn`.

    PyTorch's own workers watch the id of their parent. Under the start method "forkserver",
    Linux's default from Python 3.14 on, that is the fork server, which in turn lives as long as
    they do: after a kill -9 they would stay for ever.

    A cluster sends SIGTERM to all processes of a job: the worker waits `GRACE` seconds, in which
    its parent ends it, so that what is reported is the signal and not the worker's death.
    """
    signal.signal(signal.SIGTERM, _end_later)
    parent = multiprocessing.parent_process()
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _end_later(*_: object) -> None:
    timer = threading.Timer(GRACE, os._exit, [1])
    timer.daemon = True
    timer.start()


def _exit_after(process) -> None:
    process.join()
    os._exit(1)
