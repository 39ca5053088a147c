"""Write and read the results of an evaluation: figures, per-image scores, provenance.

A results folder holds `results.json` (everything), `results.csv` (one row per score and set)
and `scores/<set>.csv` (one row per image). Every file is written atomically, and results.json
last: where it exists, the folder is complete.
"""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dassl.utils import InputError, atomic_write, plain, read_json, write_json
from dassl.utils.console import printable
from datasets.ood_sets import AVERAGE
from ood.metrics import CONVENTIONS, PRIMARY, ood_metrics
from ood.set_scores import SetScores

SCHEMA = 1
COUNTS = ("n_id", "n_ood")
REJECTED = "rejected by "  # prefix of a decision's column, which is 1 where the decision is OOD
CLASSES = ("label", "prediction")  # columns of class indices
# Parts of results.json, and how many dicts deep their numbers lie; 0: a dict of anything.
PARTS = {"figures": 3, "images": 1, "conventions": 0}
OPTIONAL_PARTS = {"accuracy": 1, "provenance": 0, "means": 0, "decisions": 0, "full_spectrum": 0}

Figures = dict[str, dict[str, dict[str, float]]]  # score -> set or mean -> metric -> value
Means = Mapping[str, Sequence[str]]  # name of a mean -> its OOD sets


def evaluate_sets(
    id_scores: Mapping[str, np.ndarray],
    ood_scores: Mapping[str, Mapping[str, np.ndarray]],
    means: Means | None = None,
) -> Figures:
    """Compute the metrics of every score on every OOD set, and their means over sets.

    Args:
        id_scores: score -> [n]. ood_scores: set -> score -> [m].
        means: those of `datasets.ood_sets.ood_means`. None: "average", over all sets.

    Returns:
        score -> set -> metrics as fractions. After the sets comes each mean: unweighted, with the
        total of its sets' OOD images as n_ood.

    Raises:
        InputError: there is no OOD set, or scores are empty.
    """
    if not ood_scores:
        raise InputError("there is no OOD set to evaluate on: name at least one")
    figures = {}
    for score, inside in id_scores.items():
        rows = {}
        for name, scores in ood_scores.items():
            try:
                rows[name] = ood_metrics(inside, scores[score])
            except InputError as error:
                raise InputError(f"{score} on OOD set {name}: {error}") from error
        groups = (means or {AVERAGE: list(rows)}).items()
        figures[score] = rows | {name: _average([rows[s] for s in sets]) for name, sets in groups}
    return figures


def full_spectrum(
    inside: Sequence[SetScores], outside: Mapping[str, Mapping[str, np.ndarray]], means: Means
) -> dict[str, Any]:
    """Return the figures in which shifted ID images count as ID (OpenOOD v1.5, Zhang et al., DMLR
    2024): {"sets": ID set and shifted ID sets, "accuracy" on all their images, "figures"}.

    All ID images are pooled, so that a large set weighs more; the OOD sets stay the same.

    Args:
        inside: the ID set, then the shifted ID sets.
    """
    scores = {name: np.concatenate([s.scores[name] for s in inside]) for name in inside[0].scores}
    right = np.concatenate([np.equal(s.labels, s.predictions) for s in inside])
    return {
        "sets": [s.name for s in inside],
        "accuracy": float(right.mean()),
        "figures": evaluate_sets(scores, outside, means),
    }


def _average(rows: list[dict[str, float]]) -> dict[str, float]:
    average = {m: float(np.mean([row[m] for row in rows])) for m in rows[0] if m not in COUNTS}
    return {**average, "n_id": rows[0]["n_id"], "n_ood": sum(row["n_ood"] for row in rows)}


def write_results(
    folder: str | os.PathLike,
    figures: Figures,
    sets: Sequence[SetScores],
    provenance: Mapping[str, Any],
    decisions: Mapping[str, Any] | None = None,
    means: Means | None = None,
    primary: str = PRIMARY,
    full_spectrum: Mapping[str, Any] | None = None,
) -> Path:
    """Write results.csv, scores/<set>.csv and, last, results.json; return the latter's path.

    Args:
        folder: its older result files are replaced. figures: those of `evaluate_sets`.
        sets: the scores of the ID images, of each OOD set, and of shifted ID sets.
        provenance: everything that could change the figures. Its entry "comparable", a dict, must
            be equal in runs that are averaged (class list, transform, score parameters, ...).
            Values that JSON lacks are written as text, NaN and infinity as null.
        decisions: rates of threshold-free decisions (`ood.decisions`), if there are any.
        means: the sets of each mean in `figures`. None: "average", over all.
        primary: the FPR95 that tables show first.
        full_spectrum: result of the function of this name, if there are shifted ID sets.
    """
    folder = Path(folder)
    path = folder / "results.json"
    # An interrupted write must not leave old results beside new scores.
    path.unlink(missing_ok=True)
    for s in sets:
        _write_set(folder / "scores" / f"{s.name}.csv", s)
    _write_figures(folder / "results.csv", figures)
    content = {
        "schema": SCHEMA,
        "primary": primary,
        "conventions": CONVENTIONS,
        "figures": figures,
        "means": means or {AVERAGE: [s.name for s in sets[1:]]},
        "accuracy": {s.name: s.accuracy for s in sets if s.accuracy is not None},
        "images": {s.name: len(s.images) for s in sets},
        **({"decisions": decisions} if decisions else {}),
        **({"full_spectrum": full_spectrum} if full_spectrum else {}),
        "provenance": provenance,
    }
    write_json(plain(content), path, indent=1)
    return path


def _write_figures(path: Path, figures: Figures) -> None:
    metrics = list(next(iter(next(iter(figures.values())).values())))
    rows = (
        [score, name, *(row[m] for m in metrics)]
        for score, sets in figures.items()
        for name, row in sets.items()
    )
    write_csv(path, ["score", "set", *metrics], rows)


def _write_set(path: Path, s: SetScores) -> None:
    # str() of a numpy float32 is the shortest text that reads back as the same float32.
    columns = {
        "image": map(printable, s.images),
        **{n: c for n, c in zip(CLASSES, (s.labels, s.predictions), strict=True) if c is not None},
        **{name: map(str, np.asarray(v, dtype=np.float32)) for name, v in s.scores.items()},
        **{f"{REJECTED}{name}": np.asarray(v, dtype=np.int64) for name, v in s.rejected.items()},
    }
    write_csv(path, columns, zip(*columns.values(), strict=True))


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file atomically."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """Return the content of results.json; `path` is the file or its folder.

    Raises:
        InputError: the file is missing, damaged, or has another schema.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    if not path.exists():
        raise InputError(f"{path} is missing: run the evaluation (again) to its end")
    content = read_json(path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{path} has results schema {schema}, this version reads {SCHEMA}: evaluate again"
        )
    parts = PARTS | {part: depth for part, depth in OPTIONAL_PARTS.items() if part in content}
    damaged = [part for part, depth in parts.items() if not _is_dict(content.get(part), depth)]
    if damaged:
        raise InputError(
            f"{path} is damaged: {', '.join(damaged)} missing, or not as evaluations write it. "
            "Evaluate again"
        )
    return content


def _is_dict(value: Any, depth: int) -> bool:
    """Return whether `value` is a dict that, with `depth`, holds numbers that many dicts deep."""
    if not isinstance(value, dict) or not depth:
        return isinstance(value, dict)
    if depth == 1:
        return all(isinstance(number, int | float) for number in value.values())
    return bool(value) and all(_is_dict(inner, depth - 1) for inner in value.values())


def read_scores(path: str | os.PathLike) -> SetScores:
    """Read a `scores/<set>.csv` file; raise InputError if it is not one."""
    path = Path(path)
    try:
        # utf-8-sig: Excel puts a byte order mark before the first column's name.
        with open(path, newline="", encoding="utf-8-sig") as file:
            header, *rows = csv.reader(file)
        values = zip(*rows, strict=True) if rows else [()] * len(header)
        columns = dict(zip(header, values, strict=True))
        classes = {n: np.array(columns.pop(n), np.int64) for n in CLASSES if n in columns}
        images, scores, rejected = list(columns.pop("image")), {}, {}
        for name, column in columns.items():
            if name.startswith(REJECTED):
                rejected[name.removeprefix(REJECTED)] = np.array(column, np.int64).astype(bool)
            else:
                scores[name] = np.array(column, dtype=np.float32)
        return SetScores(path.stem, images, scores, *map(classes.get, CLASSES), rejected)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"{path} is not a file of per-image scores ({error}): evaluate again"
        ) from error
