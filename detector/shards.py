"""Verdicts on the images of webdataset shards: a tar in, a Parquet file out, here or on Ray.

A row an image, in the tar's order: `key` (webdataset's), `prediction`, `probability`, a column for
each score, `verdict`, of CLIPN `ctw` and `atd`, and `error`, why it could not be read. A file gets
its name when it is whole, so a shard may be scored again by whoever starts it: nothing is lost or
doubled.
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
from datasets.caption_shards import images_in
from detector.detector import Detector
from ood.scoring import get_scores, required_inputs

ROWS = 2**13  # of a row group, and held of a shard
NAMED = 5  # unreadable images of a shard, in the log
BINS = 20  # of the summary's histogram
PATIENCE = 10  # seconds until a cluster must answer
STORE = 2**28  # bytes of the object store of a Ray of this machine: it holds names


class ShardScorer:
    """Scores shards with a detector, the one saved in a folder: what every engine runs."""

    def __init__(self, detector: Detector | str, backbone: str = ""):
        import pyarrow as pa

        if isinstance(detector, str):
            detector = Detector.load(detector, backbone=backbone)
        self.detector, spec, model = detector, detector.spec, detector.model
        needs = {name: required_inputs(get_scores(name)) for name in spec.parameters}
        local = {name: model.reads_regions(inputs) for name, inputs in needs.items()}
        # All that cost no more than the one in use: another may be chosen without a second pass.
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
            "shard", "images", "unreadable", and "error": of the first unreadable images or, where
            "images" is 0, of the shard, of which then nothing is written.

        Raises:
            WriteError: the disk takes no more.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows, count, errors = self._rows(Path(task["shard"])), 0, []
        try:
            with (
                atomic_write(task["target"], "wb") as file,
                pq.ParquetWriter(file, self.schema, compression="zstd") as writer,
            ):
                while part := list(itertools.islice(rows, ROWS)):
                    writer.write_table(pa.Table.from_pylist(part, self.schema))
                    count += len(part)
                    errors += [row["error"] for row in part if row["error"]]
        except WriteError:
            raise
        except InputError as error:
            return {"shard": task["shard"], "images": 0, "unreadable": 0, "error": str(error)}
        named = "; ".join(errors[:NAMED])
        return {"shard": task["shard"], "images": count, "unreadable": len(errors), "error": named}

    def _rows(self, shard: Path) -> Iterator[dict[str, Any]]:
        from webdataset.tariterators import base_plus_ext

        for batch in self.detector.score_images(images_in(shard), self.scores):
            found = batch[2]
            columns = [found.scores[name].tolist() for name in self.scores] if found else []
            values = zip(*columns, strict=True)
            for verdict in self.detector.judge(*batch):
                scores = () if verdict.error else zip(self.scores, next(values), strict=True)
                own = {name: None if x == "" else x for name, x in vars(verdict).items()}
                key = base_plus_ext(verdict.image)[0]
                yield {**own, "key": key, "prediction": own["classname"], **dict(scores)}


def score_on_ray(
    folder: Path, backbone: str, tasks: Sequence[dict[str, str]], address: str
) -> Iterator[dict[str, Any]]:
    """Yield what `ShardScorer` returns of each task, as they end, from a pool of Ray's actors.

    A row of the dataset is a task. Ray starts the actors, each with a GPU, or a core where there
    are none, and when one or its machine dies starts another and repeats its task.

    Args:
        folder: of the detector; it, the shards and the outputs lie where all machines see them.
        backbone: name or file of CLIP. address: of a running cluster, "" for this machine alone.

    Raises:
        InputError: no cluster at `address`, or Ray gave up.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read by the import
    if address:  # 20 times 41 s, where something else than Ray listens
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    import ray
    import ray.data

    _join(ray, address)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    found = ray.cluster_resources()
    kind = "GPU" if found.get("GPU") else "CPU"
    actors = max(1, min(len(tasks), int(found.get(kind, 1))))
    try:
        yield from (
            ray.data.from_items(list(tasks), override_num_blocks=len(tasks))  # one each
            .map(
                ShardScorer,
                fn_constructor_args=(str(folder), backbone),
                compute=ray.data.ActorPoolStrategy(size=actors),
                **{f"num_{kind.lower()}s": 1},
            )
            .iter_rows()
        )
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"Ray gave up: {reason} Finished shards are kept") from error
    finally:
        ray.shutdown()


def _join(ray: Any, address: str) -> None:
    own = {} if address else {"include_dashboard": False, "object_store_memory": STORE}
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host:  # Ray would knock for minutes where nobody answers
            socket.create_connection((host, int(port)), PATIENCE).close()
        ray.init(address or "local", logging_level="WARNING", **own)
    except Exception as error:  # of any class, plain ones too
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--address {address}: no Ray cluster can be reached there ({reason}). Start one (ray "
            "start --head), or leave --address out to use this machine alone"
            if address
            else f"Ray did not start on this machine ({reason}). Try again, or without --engine"
        ) from error


def summarise(files: Sequence[Path], score: str) -> dict[str, Any]:
    """Return counts, verdicts, classes and the histogram of `score`; a row group is held at a time.

    The histogram's range comes from the files' own statistics, so that rows are read once.
    """
    import pyarrow.parquet as pq

    images, low, high = 0, np.inf, -np.inf
    for path in files:
        meta = pq.read_metadata(path)
        images, column = images + meta.num_rows, meta.schema.names.index(score)
        for group in range(meta.num_row_groups):
            found = meta.row_group(group).column(column).statistics
            if found.has_min_max:
                low, high = min(low, found.min), max(high, found.max)
    limits = (low, high) if low <= high else (0, 0)
    histogram, counts = np.zeros(BINS, np.int64), {"verdict": Counter(), "prediction": Counter()}
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(columns=[score, *counts]):
            histogram += np.histogram(batch[score].drop_null(), BINS, limits)[0]
            for name, of in counts.items():
                for entry in batch[name].drop_null().value_counts().to_pylist():
                    of[entry["values"]] += entry["counts"]
    return {
        "shards": len(files),
        "images": images,
        "unreadable": images - counts["prediction"].total(),
        "verdicts": dict(counts["verdict"]),
        "classes": dict(counts["prediction"].most_common()),
        "score": score,
        "edges": np.histogram_bin_edges([], BINS, limits).tolist(),
        "histogram": histogram.tolist(),
    }
