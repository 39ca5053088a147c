"""Entry points in child processes, forked from one process that has imported them.

`python train.py` takes seconds to import what it needs; here this happens only once.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import socket
import sys
from collections.abc import Mapping
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path


class Starter:
    """A starter of processes whose output goes to files in a folder that `folders` makes."""

    def __init__(self, folders) -> None:
        self.folders = folders

    def __call__(
        self,
        entry: str,
        *arguments: object,
        folder: Path | str = ".",
        environment: Mapping[str, str] | None = None,
        largest: int | None = None,
    ) -> BaseProcess:
        """Start `python ENTRY.py ARGUMENTS` in `folder`, on one thread.

        environment: variables to add to those of this process; largest: limit on the size of a file
        in bytes. The process has methods printed() and told(), which return its stdout and stderr.
        """
        files = self.folders.mktemp("output")
        words = list(map(str, arguments))
        process = _context().Process(
            target=_run, args=(files, entry, words, str(folder), dict(environment or {}), largest)
        )
        process.start()
        process.printed = lambda: (files / "stdout").read_text(encoding="utf-8")
        process.told = lambda: (files / "stderr").read_text(encoding="utf-8")
        return process

    def run(self, entry: str, *arguments: object, folder: Path | str) -> str:
        """Run one process to its end; return its stdout."""
        return self.ranks(1, entry, *arguments, folder=folder)

    def ranks(self, count: int, entry: str, *arguments: object, folder: Path | str) -> str:
        """Run `count` ranks as torchrun does; return the stdout of rank 0 once all have ended."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {
            "TORCHELASTIC_RUN_ID": "test",
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        processes = [
            self(
                entry,
                *arguments,
                folder=folder,
                environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                if count > 1
                else None,
            )
            for rank in range(count)
        ]
        for process in processes:
            process.join()
        for process in processes:
            assert process.exitcode == 0, process.told()
        return processes[0].printed()


@cache
def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.forked", "train", "eval_ood"])
    first = context.Process(target=int)  # waits for the imports, so that no run is timed with them
    first.start()
    first.join()
    return context


def _run(files, entry, arguments, folder, environment, largest) -> None:
    import torch

    from dassl import command

    main = importlib.import_module(entry).main
    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(1)
    # A loader's workers start as in `python train.py`, not as this process did.
    multiprocessing.set_start_method(None, force=True)
    sys.argv = [f"{entry}.py", *arguments]
    sys.stdout, sys.stderr = (open(files / name, "w", buffering=1) for name in ("stdout", "stderr"))
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    command.run(main)
