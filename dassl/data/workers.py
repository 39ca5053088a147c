"""What every loader's workers do before they read."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent(worker: int) -> None:
    """Let no worker outlive the process it reads for, whatever ends that: a `worker_init_fn`.

    PyTorch's own workers look at the id of their parent. Under the start method "forkserver",
    Linux's from Python 3.14 on, that is the fork server, which in turn lives as long as they do:
    after a kill -9 they would stay for ever.
    """
    parent = multiprocessing.parent_process()
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(process) -> None:
    process.join()
    os._exit(1)
