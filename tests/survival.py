"""Runs `train.py` in a child process that tests kill: imported there once, forked for each run."""

from __future__ import annotations

import multiprocessing
import resource
import sys


def train_until_killed(arguments: list[str], told: str, largest: int | None = None) -> None:
    """`python train.py ARGUMENTS` on one thread; what it says on stderr goes to the file `told`.

    largest: bytes that no file of its may exceed.
    """
    import torch

    import train
    from run import command

    torch.set_num_threads(1)
    # A loader's workers start as they do in `python train.py`, not as this process did.
    multiprocessing.set_start_method(None, force=True)
    sys.argv = ["train.py", *arguments]
    sys.stdout, sys.stderr = open("/dev/null", "w"), open(told, "w", buffering=1)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    command.run(train.main)
