"""Runs `train.py` in a child process that tests kill: imported there once, forked for each run."""

from __future__ import annotations

import sys


def train_until_killed(arguments: list[str], told: str) -> None:
    """`python train.py ARGUMENTS` on one thread; what it says on stderr goes to the file `told`."""
    import torch

    import cli
    import train

    torch.set_num_threads(1)
    sys.argv = ["train.py", *arguments]
    sys.stdout, sys.stderr = open("/dev/null", "w"), open(told, "w", buffering=1)
    cli.run(train.main)
