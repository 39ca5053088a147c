"""Scalars for TensorBoard."""

from __future__ import annotations

import io
import itertools
import math
import os
import socket
import time
from pathlib import Path
from typing import Any

from dassl.utils import explain_write_error

FLUSH_SECONDS = 10  # what a killed run may lose, and how far TensorBoard is behind

_number = itertools.count()  # of this process's files: several may begin within a second


class EventFile:
    """A file of scalars in the folder `log_dir`, as torch's SummaryWriter writes them.

    Not SummaryWriter itself, which writes in a thread: when a disk is full that thread ends in a
    traceback, and the loop in a bare OSError later on.
    """

    def __init__(self, log_dir: str | os.PathLike) -> None:
        name = f"{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{next(_number)}"
        self.path = Path(log_dir, f"events.out.tfevents.{name}")
        self._pending, self._due = io.BytesIO(), -math.inf
        self._add(file_version="brain.Event:2")

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        value = Summary.Value(tag=tag, simple_value=float(scalar_value))
        step = {} if global_step is None else {"step": int(global_step)}
        self._add(summary=Summary(value=[value]), **step)

    def flush(self) -> None:
        """Append what is pending. Of what cannot be written the first call tells; it is dropped.

        Raises:
            WriteError: a full disk or the like.
        """
        records, self._pending = self._pending.getvalue(), io.BytesIO()
        self._due = time.monotonic() + FLUSH_SECONDS
        if records:
            with explain_write_error(self.path), open(self.path, "ab") as file:
                file.write(records)

    close = flush  # the file is open only while it is written to

    def _add(self, **content: Any) -> None:
        # Here, for an evaluation needs none of it, and it takes time to import.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = Event(wall_time=time.time(), **content)
        RecordWriter(self._pending).write(event.SerializeToString())
        if time.monotonic() >= self._due:
            self.flush()
