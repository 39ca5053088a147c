"""Progress lines and metrics.jsonl of a training run."""

import datetime
import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dassl.utils import AverageMeter, MetricMeter, atomic_write, explain_write_error, plain


def timed(batches: Iterable) -> Iterator[tuple[Any, float]]:
    """Yield each batch with the seconds that were spent waiting for it."""
    start = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - start
        start = time.perf_counter()


class EpochProgress:
    """Times and losses of one epoch."""

    def __init__(self, epoch: int, max_epoch: int, num_batches: int) -> None:
        self.epoch = epoch
        self.max_epoch = max_epoch
        self.num_batches = num_batches
        self.losses = MetricMeter()
        self.batch_time = AverageMeter()
        self.data_time = AverageMeter()
        self.bad_images = 0
        self.begin = self.end = time.perf_counter()

    def step_done(self, loss_summary: dict[str, float] | None) -> None:
        """Record a finished batch; `loss_summary` is None if it was skipped."""
        now = time.perf_counter()
        if loss_summary is not None:
            self.batch_time.update(now - self.end)
            self.losses.update(loss_summary)
        self.end = now

    def line(self, batch_idx: int, lr: float) -> str:
        """Return a progress line in upstream's form; `lr` is the rate that the step used."""
        return " ".join(
            [
                f"epoch [{self.epoch + 1}/{self.max_epoch}]",
                f"batch [{batch_idx + 1}/{self.num_batches}]",
                f"time {self.batch_time.val:.3f} ({self.batch_time.avg:.3f})",
                f"data {self.data_time.val:.3f} ({self.data_time.avg:.3f})",
                f"{self.losses}",
                f"lr {lr:.4e}",
                f"eta {datetime.timedelta(seconds=int(self._eta(batch_idx)))}",
            ]
        )

    def batch_record(self, batch_idx: int, lr: float) -> dict[str, Any]:
        """Return the values of a progress line for metrics.jsonl; times in seconds."""
        return {
            "epoch": self.epoch + 1,
            "batch": batch_idx + 1,
            **{name: meter.val for name, meter in self.losses.meters.items()},
            "lr": lr,
            "time": self.batch_time.val,
            "data": self.data_time.val,
            "eta": self._eta(batch_idx),
        }

    def epoch_record(self) -> dict[str, Any]:
        """Return means over the epoch; `data_share` is the share of its time spent waiting."""
        seconds = time.perf_counter() - self.begin
        return {
            "epoch": self.epoch + 1,
            **{f"mean_{name}": meter.avg for name, meter in self.losses.meters.items()},
            "epoch_time": seconds,
            "data_share": self.data_time.sum / max(seconds, 1e-9),
            "bad_images": self.bad_images,
        }

    def _eta(self, batch_idx: int) -> float:
        batches = self.num_batches - batch_idx - 1
        batches += (self.max_epoch - self.epoch - 1) * self.num_batches
        return self.batch_time.avg * batches


class MetricsFile:
    """The file metrics.jsonl of a run, one JSON object a line.

    Opened at epoch `start_epoch` of a resumed run, it keeps the lines of the epochs before and
    drops those of an interrupted epoch, so that no epoch occurs twice.
    """

    def __init__(self, path: Path, start_epoch: int = 0) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _epoch_of(line) <= start_epoch]
        with atomic_write(self.path) as handle:
            handle.writelines(f"{line}\n" for line in kept)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; a number that is not finite becomes null."""
        line = json.dumps({name: _rounded(value) for name, value in plain(record).items()})
        with explain_write_error(self.path), open(self.path, "a", encoding="utf-8") as handle:
            handle.write(f"{line}\n")


def _epoch_of(line: str) -> float:
    try:
        return json.loads(line)["epoch"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf  # a line cut off by a crash belongs to no finished epoch


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
