"""Results of an evaluation: figures, per-image scores, provenance; as files and as tables.

A results folder holds ``results.json`` (everything), ``results.csv`` (one row per score and set)
and ``scores/<set>.csv`` (one row per image). Every file is written atomically and results.json
last, so its presence says that the folder is complete.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dassl.utils.errors import InputError
from dassl.utils.files import atomic_write, plain
from ood.metrics import CONVENTIONS, PRIMARY, ood_metrics
from ood.set_scores import SetScores

__all__ = [
    "evaluate_sets",
    "format_table",
    "percent",
    "read_results",
    "read_scores",
    "write_results",
]

SCHEMA = 1
AVERAGE = "average"
COUNTS = ("n_id", "n_ood")
REJECTED = "rejected by "  # before a decision's name: a column that is 1 where it says OOD
FILE_COLUMNS = ("image", "label", "prediction")

Figures = dict[str, dict[str, dict[str, float]]]  # score -> set -> metric -> value

# Table columns: heading of two lines, metric.
TABLE_COLUMNS = (
    ("FPR95", "ID pos.", "fpr95_id_nearest"),
    ("FPR95", "OOD pos.", "fpr95_ood_nearest"),
    ("", "AUROC", "auroc"),
    ("AUPR-in", "ID pos.", "aupr_in"),
    ("AUPR-out", "OOD pos.", "aupr_out"),
)


def evaluate_sets(
    id_scores: Mapping[str, np.ndarray], ood_scores: Mapping[str, Mapping[str, np.ndarray]]
) -> Figures:
    """Metrics of every score on every OOD set, and their unweighted mean over the sets.

    ``id_scores``: score -> [n]; ``ood_scores``: set -> score -> [m]. Gives score -> set -> metrics,
    with the further set "average", whose n_ood is the number of OOD images of all sets.
    """
    if not ood_scores:
        raise InputError("there is no OOD set to evaluate on: name at least one")
    if AVERAGE in ood_scores:
        raise InputError(f'an OOD set may not be called "{AVERAGE}": the tables use that name')
    for name, scores in ood_scores.items():
        if set(scores) != set(id_scores):
            raise InputError(f"{name} has scores {sorted(scores)}, ID has {sorted(id_scores)}")
    figures = {}
    for score, inside in id_scores.items():
        rows = {}
        for name, scores in ood_scores.items():
            try:
                rows[name] = ood_metrics(inside, scores[score])
            except InputError as error:
                raise InputError(f"{score} on OOD set {name}: {error}") from error
        figures[score] = {**rows, AVERAGE: _average(list(rows.values()))}
    return figures


def _average(rows: list[dict[str, float]]) -> dict[str, float]:
    average = {m: float(np.mean([row[m] for row in rows])) for m in rows[0] if m not in COUNTS}
    return {**average, "n_id": rows[0]["n_id"], "n_ood": sum(row["n_ood"] for row in rows)}


# Tables


def percent(value: float | None) -> str:
    """A fraction as percent with two decimals; "-" for None."""
    return "-" if value is None else f"{100 * value:.2f}"


def format_table(figures: Figures) -> str:
    """The printed table: for each score a row per OOD set, then the average. 88 columns or less,
    unless a set's name is long."""
    some = next(iter(next(iter(figures.values())).values()))
    lines = [
        f"ID images: {some['n_id']:,}. All figures in percent. Higher score = in-distribution.",
        "FPR95, ID pos.:  OOD images kept when 95 % of ID images are kept (MCM, LoCoOp, CLIPN)",
        "FPR95, OOD pos.: ID images rejected when 95 % of OOD images are caught (OpenOOD)",
        "Threshold: rate nearest to 95 %. Average: unweighted mean over the OOD sets.",
    ]
    width = max(14, *(len(name) for name in [*figures, *next(iter(figures.values()))]))
    for score, sets in figures.items():
        lines += ["", *_score_block(score, sets, width)]
    return "\n".join(lines)


def _score_block(score: str, sets: Mapping[str, Mapping[str, float]], width: int) -> list[str]:
    def line(first: str, second: str, rest: Iterable[str]) -> str:
        return f"{first:<{width}}{second:>12}" + "".join(f"{cell:>11}" for cell in rest)

    lines = [
        line("", "OOD", (top for top, _, _ in TABLE_COLUMNS)),
        line(score, "images", (bottom for _, bottom, _ in TABLE_COLUMNS)),
    ]
    rule = "-" * len(lines[-1])
    lines.append(rule)
    for name, row in sets.items():
        if name == AVERAGE:
            lines.append(rule)
        cells = (percent(row[metric]) for _, _, metric in TABLE_COLUMNS)
        lines.append(line(name, f"{row['n_ood']:,}", cells))
    return lines


# Files


def write_results(
    folder: str | os.PathLike,
    figures: Figures,
    sets: Sequence[SetScores],
    provenance: Mapping[str, Any],
    decisions: Mapping[str, Any] | None = None,
) -> Path:
    """Write results.csv, scores/<set>.csv and, last, results.json; gives the latter's path.

    ``provenance`` holds all that could change the figures. Its entry "comparable", a dict, must be
    equal in runs that are averaged (class list, transform, score parameters, ...). Values that JSON
    does not know are written as text, NaN and infinity as null. ``decisions``: rates of
    threshold-free decisions (`ood.decisions`), if there are any.
    """
    folder = Path(folder)
    path = folder / "results.json"
    # The old results would otherwise stand beside new scores if this run dies on the way.
    path.unlink(missing_ok=True)
    for s in sets:
        _write_set(folder / "scores" / f"{s.name}.csv", s)
    _write_figures(folder / "results.csv", figures)
    content = {
        "schema": SCHEMA,
        "primary": PRIMARY,
        "conventions": CONVENTIONS,
        "figures": figures,
        "accuracy": {s.name: s.accuracy for s in sets if s.accuracy is not None},
        "images": {s.name: len(s.images) for s in sets},
        **({"decisions": decisions} if decisions else {}),
        "provenance": provenance,
    }
    with atomic_write(path) as file:
        json.dump(plain(content), file, indent=1, allow_nan=False)
        file.write("\n")
    return path


def _write_figures(path: Path, figures: Figures) -> None:
    metrics = list(next(iter(next(iter(figures.values())).values())))
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["score", "set", *metrics])
        for score, sets in figures.items():
            for name, row in sets.items():
                writer.writerow([score, name, *(row[m] for m in metrics)])


def _write_set(path: Path, s: SetScores) -> None:
    # str() of a numpy float32 is the shortest text that reads back as the same float32.
    columns = {
        "image": (os.fsencode(i).decode("utf-8", "backslashreplace") for i in s.images),
        **{n: c for n, c in (("label", s.labels), ("prediction", s.predictions)) if c is not None},
        **{name: map(str, np.asarray(v, dtype=np.float32)) for name, v in s.scores.items()},
        **{f"{REJECTED}{name}": np.asarray(v, dtype=np.int64) for name, v in s.rejected.items()},
    }
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """The content of results.json; ``path`` is that file or its folder."""
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: run the evaluation (again) to its end") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a results file: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise InputError(f"{path} has results schema {found}, this version reads {SCHEMA}")
    return content


def read_scores(path: str | os.PathLike) -> SetScores:
    """A ``scores/<set>.csv`` file."""
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        values = zip(*rows, strict=True) if rows else [()] * len(header)
        columns = dict(zip(header, values, strict=True))
        labels, predictions = (
            np.array(columns[name], dtype=np.int64) if name in columns else None
            for name in FILE_COLUMNS[1:]
        )
        scores = {
            name: np.array(column, dtype=np.float32)
            for name, column in columns.items()
            if name not in FILE_COLUMNS and not name.startswith(REJECTED)
        }
        rejected = {
            name.removeprefix(REJECTED): np.array(column, dtype=np.int64).astype(bool)
            for name, column in columns.items()
            if name.startswith(REJECTED)
        }
        return SetScores(path.stem, list(columns["image"]), scores, labels, predictions, rejected)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{path} is not a file of per-image scores: {error}") from error
