"""Verdicts on the images of webdataset shards: a Parquet file for each tar, here or on Ray.

A file has a row for each image, in the tar's order: `key` (webdataset's, with escapes for bytes
that are no UTF-8), `prediction`, `probability`, a column for each score, `verdict`, CLIPN's `ctw`
and `atd`, and `error`, the reason if the image could not be read. A file gets its name only when it
is complete, so that a shard can safely be scored again.
"""

import itertools
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dassl.utils import InputError, WriteError, atomic_write
from dassl.utils.console import printable
from datasets.caption_shards import images_in
from detector.detector import Detector
from ood.scoring import get_scores, required_inputs

ROWS = 2**13  # rows of a row group, and most rows held in memory
NAMED = 5  # unreadable images of a shard that the log names
BINS = 20  # bins of the summary's histogram
PATIENCE = 10  # seconds to wait for a cluster's answer
STORE = 2**28  # bytes of the object store of a local Ray; only paths and counts pass through it


class ShardScorer:
    """Scores shards with a detector, which may be given by its folder; all engines run this."""

    def __init__(self, detector: Detector | str, backbone: str = ""):
        import pyarrow as pa

        if isinstance(detector, str):
            detector = Detector.load(detector, backbone=backbone)
        self.detector, spec, model = detector, detector.spec, detector.model
        needs = {name: required_inputs(get_scores(name)) for name in spec.parameters}
        local = {name: model.reads_regions(inputs) for name, inputs in needs.items()}
        # Scores that cost no more than the current one are written too: they may be wanted later.
        self.scores = [name for name in local if local[name] <= local[spec.score]]
        numbers, limit = ["probability", *self.scores], detector.threshold
        columns = dict.fromkeys(("key", "prediction"), pa.string())
        columns |= dict.fromkeys(numbers, pa.float32())
        columns |= dict.fromkeys(("verdict", "ctw", "atd", "error"), pa.string())
        about = {"score": spec.score, "threshold": str(limit and limit.value)}
        self.schema = pa.schema(columns.items(), about)

    def __call__(self, task: dict[str, str]) -> dict[str, Any]:
        """Write the verdicts on the images of the tar task["shard"] to task["target"].

        Returns:
            "shard", "images", "unreadable", and "error": the errors of the first unreadable images.
            If "images" is 0, "error" is that of the shard, and nothing was written.

        Raises:
            WriteError: the disk is full or cannot be written to.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows, count, errors = self._rows(Path(task["shard"])), 0, []
        try:
            with (
                atomic_write(task["target"], "wb") as file,
                pq.ParquetWriter(file, self.schema, compression="zstd") as writer,
            ):
                while group := list(itertools.islice(rows, ROWS)):
                    writer.write_table(pa.Table.from_pylist(group, self.schema))
                    count += len(group)
                    errors += [row["error"] for row in group if row["error"]]
        except WriteError:
            raise
        except InputError as error:
            return {"shard": task["shard"], "images": 0, "unreadable": 0, "error": str(error)}
        named = "; ".join(errors[:NAMED])
        return {"shard": task["shard"], "images": count, "unreadable": len(errors), "error": named}

    def _rows(self, shard: Path) -> Iterator[dict[str, Any]]:
        from webdataset.tariterators import base_plus_ext

        for batch in self.detector.score_images(images_in(shard), self.scores):
            scored = batch[2]
            columns = [scored.scores[name].tolist() for name in self.scores] if scored else []
            values = zip(*columns, strict=True)
            for verdict in self.detector.judge(*batch):
                scores = () if verdict.error else zip(self.scores, next(values), strict=True)
                row = {name: None if x == "" else x for name, x in vars(verdict).items()}
                key = base_plus_ext(verdict.image)[0]
                texts = {"key": key and printable(key), "prediction": row["classname"]}
                texts["error"] = row["error"] and printable(row["error"])
                yield {**row, **texts, **dict(scores)}


def score_on_ray(
    folder: Path, backbone: str, tasks: Sequence[dict[str, str]], address: str
) -> Iterator[dict[str, Any]]:
    """Yield the `ShardScorer` result of each task as it ends, from a pool of Ray actors.

    Each actor has a GPU, or a core where there are no GPUs. If an actor or its machine dies, Ray
    starts another one, which repeats the task.

    Args:
        folder: the detector's; all machines must see it, the shards and the outputs.
        backbone: name or file of CLIP. address: of a running cluster, "" for this machine alone.

    Raises:
        InputError: there is no cluster at `address`, or Ray gave up.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray's import reads it
    if address:  # otherwise 20 retries of 41 s if something other than Ray listens there
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    import ray
    import ray.data

    _join(ray, address)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources = ray.cluster_resources()
    processor = "GPU" if resources.get("GPU") else "CPU"
    actors = max(1, min(len(tasks), int(resources.get(processor, 1))))
    try:
        yield from (
            ray.data.from_items(list(tasks), override_num_blocks=len(tasks))  # a block for each
            .map(
                ShardScorer,
                fn_constructor_args=(str(folder), backbone),
                compute=ray.data.ActorPoolStrategy(size=actors),
                **{f"num_{processor.lower()}s": 1},
            )
            .iter_rows()
        )
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"Ray gave up: {reason} Finished shards are kept") from error
    finally:
        ray.shutdown()


def _join(ray: Any, address: str) -> None:
    options = {} if address else {"include_dashboard": False, "object_store_memory": STORE}
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host:  # Ray itself would retry for minutes where nothing answers
            socket.create_connection((host, int(port)), PATIENCE).close()
        ray.init(address or "local", logging_level="WARNING", **options)
    except Exception as error:  # Ray raises errors of many classes
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--address {address}: no Ray cluster can be reached there ({reason}). Start one (ray "
            "start --head), or leave --address out to use this machine alone"
            if address
            else f"Ray did not start on this machine ({reason}). Try again, or without --engine"
        ) from error


def _edges(low: float, high: float) -> np.ndarray:
    """Return the edges of the bins from `low` to `high`, apart far enough for float32 numbers."""
    low, high = (low, high) if low <= high else (0.0, 0.0)  # there are no scores
    size = max(abs(low), abs(high)) or 1.0
    if high - low < 1e-5 * size:
        low, high = low - size / 2, high + size / 2
    return np.linspace(low, high, BINS + 1)


def summarise(files: Sequence[Path], score: str) -> dict[str, Any]:
    """Return counts, verdicts, classes and the histogram of `score`; a row group is held at a time.

    The histogram's range comes from statistics in the files, so that rows are read once.
    """
    import pyarrow.parquet as pq

    images, low, high = 0, np.inf, -np.inf
    for path in files:
        metadata = pq.read_metadata(path)
        images, column = images + metadata.num_rows, metadata.schema.names.index(score)
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(column).statistics
            if statistics.has_min_max:
                low, high = min(low, statistics.min), max(high, statistics.max)
    edges = _edges(low, high)
    histogram, counts = np.zeros(BINS, np.int64), {"verdict": Counter(), "prediction": Counter()}
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(columns=[score, *counts]):
            histogram += np.histogram(batch[score].drop_null(), edges)[0]
            for name, counter in counts.items():
                for entry in batch[name].drop_null().value_counts().to_pylist():
                    counter[entry["values"]] += entry["counts"]
    return {
        "shards": len(files),
        "images": images,
        "unreadable": images - counts["prediction"].total(),
        "verdicts": dict(counts["verdict"]),
        "classes": dict(counts["prediction"].most_common()),
        "score": score,
        "edges": edges.tolist(),
        "histogram": histogram.tolist(),
    }
