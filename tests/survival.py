"""Runs `train.py` in a child process that tests kill: imported there once, forked for each run."""

from __future__ import annotations

import sys


def train_until_killed(arguments: list[str]) -> None:
    """`python train.py ARGUMENTS`, quiet, on one thread."""
    import torch

    import cli
    import train

    torch.set_num_threads(1)
    sys.argv = ["train.py", *arguments]
    sys.stdout = sys.stderr = open("/dev/null", "w")
    cli.run(train.main)
