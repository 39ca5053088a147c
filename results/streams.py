"""Results of test-time methods, in files and a table apart: they depend on the image mixture."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from dassl.utils.files import plain, write_json
from dassl.utils.tables import RULE, text_table
from ood.metrics import CONVENTIONS, PRIMARY
from results.files import AVERAGE, COUNTS, SCHEMA, write_csv
from results.tables import percent

FILES = ("streams.json", "streams.csv")
KIND = "test-time: has seen the mixture"
COLUMNS = {"FPR95": PRIMARY, "AUROC": "auroc", "FPR95 (OOD pos.)": "fpr95_ood_first"}
NOTE = """\
Streams, {kind}. ID and one OOD set come in batches, mixed in the
order of seed {seed}; a method starts afresh for each set. Its figures depend on mixture, batch and
order, and do not compare with those of scores that see one image at a time. In percent.
FPR95: ID positive, nearest to 95 %. FPR95 (OOD pos.): first threshold that catches 95 %.
{base} FPR95, AUROC: that score, one image at a time, on the same images.
Average: {average}."""
AVERAGE_NOTE = "unweighted mean over all OOD sets, those with a GROUP too"


@dataclass(frozen=True)
class Stream:
    """The result of a method on one stream.

    Attributes:
        ratio: requested share of OOD images; None for all images of both sets.
        figures: those of `ood.metrics.ood_metrics`. base: those of the base score on these images.
    """

    method: str
    set_name: str
    ratio: float | None
    batch: int
    figures: Mapping[str, float]
    base: Mapping[str, float]


def with_averages(streams: Sequence[Stream]) -> list[Stream]:
    """Return the streams, with the mean over the sets after those of each ratio and method."""
    rows = []
    for (ratio, method), group in groupby(streams, lambda s: (s.ratio, s.method)):
        sets = list(group)
        means = (_mean([s.figures for s in sets]), _mean([s.base for s in sets]))
        rows += [*sets, Stream(method, AVERAGE, ratio, sets[0].batch, *means)]
    return rows


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(row[name] for row in figures) for name in figures[0] if name not in COUNTS}


def write_streams(
    folder: str | os.PathLike,
    streams: Sequence[Stream],
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write streams.csv and streams.json.

    Args:
        settings: those of all streams: "base", the base score, "seed", that of the order, and
            "methods", the settings of each method.
    """
    rows = [{"kind": KIND, **_row(stream), "order_seed": settings["seed"]} for stream in streams]
    write_csv(Path(folder, "streams.csv"), rows[0], (row.values() for row in rows))
    content = {"schema": SCHEMA, "kind": KIND, **settings}
    content["conventions"] = {**CONVENTIONS, "average": AVERAGE_NOTE}
    content |= {"streams": rows, "provenance": provenance}
    write_json(plain(content), Path(folder, "streams.json"), indent=1)


def _row(stream: Stream) -> dict[str, Any]:
    return {
        "method": stream.method,
        "set": stream.set_name,
        "ratio": stream.ratio,
        "batch": stream.batch,
        **dict.fromkeys(COUNTS),  # an average has none
        **stream.figures,
        **{f"base_{name}": x for name, x in stream.base.items() if name not in COUNTS},
    }


def format_streams(streams: Sequence[Stream], settings: Mapping[str, Any]) -> str:
    """Return the table of `with_averages`, below a note that explains streams."""
    rows: list[Sequence[str]] = []
    for stream in streams:
        rows.append(_cells(stream))
        rows += [RULE] if stream.set_name == AVERAGE and stream is not streams[-1] else []
    header = ["OOD share", "method", "OOD set", "ID : OOD", "batch", *COLUMNS]
    header += [f"{settings['base']} {name}" for name in ("FPR95", "AUROC")]
    note = NOTE.format(kind=KIND, average=AVERAGE_NOTE, **settings)
    return f"{note}\n\n{text_table(rows, header, '<<<>')}"


def _cells(stream: Stream) -> list[str]:
    online, base = stream.figures, stream.base
    share = "all images" if stream.ratio is None else f"{100 * stream.ratio:g} %"
    images = f"{online['n_id']:,} : {online['n_ood']:,}" if "n_id" in online else ""
    figures = [*(online[m] for m in COLUMNS.values()), base[PRIMARY], base["auroc"]]
    names = [share, stream.method, stream.set_name, images, str(stream.batch)]
    return [*names, *map(percent, figures)]
