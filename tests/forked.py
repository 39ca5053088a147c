"""Entry points in child processes: imported in one process, which is forked for each of them.

`python train.py` takes seconds to import what it needs; here that is done once.
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
    """Starts processes; what each prints and tells is kept in a folder that `folders` makes."""

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

        environment: beside that of this process; largest: bytes that no file of its may exceed.
        The process's printed() and told() are what it wrote to stdout and stderr.
        """
        said = self.folders.mktemp("said")
        words = list(map(str, arguments))
        process = _context().Process(
            target=_run, args=(said, entry, words, str(folder), dict(environment or {}), largest)
        )
        process.start()
        process.printed = lambda: (said / "stdout").read_text(encoding="utf-8")
        process.told = lambda: (said / "stderr").read_text(encoding="utf-8")
        return process

    def run(self, entry: str, *arguments: object, folder: Path | str) -> str:
        """Run one process to its end; return what it prints."""
        return self.ranks(1, entry, *arguments, folder=folder)

    def ranks(self, count: int, entry: str, *arguments: object, folder: Path | str) -> str:
        """Run so many processes as torchrun does; return what rank 0 prints once all have ended."""
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
    first = context.Process(target=int)  # waits for the imports, which no run is to be timed with
    first.start()
    first.join()
    return context


def _run(said, entry, arguments, folder, environment, largest) -> None:
    import torch

    from dassl import command

    main = importlib.import_module(entry).main
    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(1)
    # A loader's workers start as they do in `python train.py`, not as this process did.
    multiprocessing.set_start_method(None, force=True)
    sys.argv = [f"{entry}.py", *arguments]
    sys.stdout, sys.stderr = (open(said / name, "w", buffering=1) for name in ("stdout", "stderr"))
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    command.run(main)
