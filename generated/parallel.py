"""Independent jobs in several processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from tqdm import tqdm

from generated import streams


def in_processes(
    function: Callable, jobs: Sequence, workers: int | None = None, title: str = ""
) -> Iterator:
    """Yield `function(job)` for every job, in order, with a progress bar on a terminal.

    `workers`: None for one a core, 1 for this process. Workers are forked from a new process that
    has imported only the generator: a plain fork would copy torch's threads, and a spawned worker
    would import everything again.
    """
    workers = min(workers or os.cpu_count() or 1, max(len(jobs), 1))
    progress = tqdm(total=len(jobs), desc=title, unit="chunk", leave=False, disable=None)
    with progress:
        if workers == 1:
            for result in map(function, jobs):
                yield result
                progress.update()
            return
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["generated.jobs"])
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for result in pool.map(function, jobs):
                yield result
                progress.update()


def _captioned_chunk(job: tuple[str, int, int, int]) -> tuple[np.ndarray, list[str]]:
    stream, first, last, seed = job
    samples = [streams.captioned_sample(stream, index, seed) for index in range(first, last)]
    return np.stack([sample.image for sample in samples]), [s.caption for s in samples]


def captioned_images(
    stream: str, count: int, seed: int = streams.SEED, workers: int | None = None, chunk: int = 250
):
    """Return the first `count` images of a captioned stream, uint8 `[n, S, S, 3]`, and captions."""
    jobs = [(stream, first, min(first + chunk, count), seed) for first in range(0, count, chunk)]
    images, captions = [], []
    for chunk_images, texts in in_processes(_captioned_chunk, jobs, workers, f"drawing {stream}"):
        images.append(chunk_images)
        captions += texts
    return np.concatenate(images), captions
