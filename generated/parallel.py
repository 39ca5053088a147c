"""Spread independent jobs over processes."""

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
    """`function` of every job, in order, a bar on a terminal; workers: None = one a core, 1 = here.

    The workers are forked from a fresh process that has imported the generator and nothing else:
    a plain fork would copy torch's threads, a spawn would import everything once a worker.
    """
    workers = min(workers or os.cpu_count() or 1, max(len(jobs), 1))
    progress = tqdm(total=len(jobs), desc=title, unit="chunk", leave=False, disable=None)
    with progress:
        if workers == 1:
            results = map(function, jobs)
            for result in results:
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
    """The first `count` samples of a captioned stream: (uint8 [count, S, S, 3], captions)."""
    jobs = [(stream, first, min(first + chunk, count), seed) for first in range(0, count, chunk)]
    images, captions = [], []
    for some, texts in in_processes(_captioned_chunk, jobs, workers, f"drawing {stream}"):
        images.append(some)
        captions += texts
    return np.concatenate(images), captions
