"""What the report shows, gathered from the runs, and the page made of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dassl.utils.tools import flatten, read_image
from ood.metrics import CONVENTIONS, auroc, fpr_at_tpr, threshold_at_tpr
from ood.set_scores import SetScores
from results.files import percent
from results.plots import shared_bins
from results.report import charts
from results.report.mistakes import Names, Thumbnails, accepted_ood, jpeg, rejected_id
from results.runs import Groups, Run
from results.summary import Summary

MAPS, MAP_SIZE = 6, 900  # region maps a method, and their longer side in pixels
FEW_IMAGES = 500
UNTOLD = ("classnames", "config", "skipped", "comparable")  # of the provenance: told elsewhere


def report_page(summary: Summary, root: Path | None = None) -> str:
    """The HTML page. `root`: folder of the datasets, if it is not where the evaluation had it."""
    thumbnails = Thumbnails()
    shown = {name: runs[0] for name, runs in summary.groups.items()}
    drawable = {name: run for name, run in shown.items() if run.has_images}
    scores = list(dict.fromkeys(s for run in drawable.values() for s in run.result["figures"]))
    sections = [_score_section(score, drawable, root, thumbnails) for score in scores]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "printable": _printable}
    return environment.get_template("page.html.jinja").render(
        summary=summary,
        title=f"OOD detection: {', '.join(summary.groups)}",
        one_of_several=[
            f"{name}, seed {runs[0].seed} of {len(runs)} runs"
            for name, runs in summary.groups.items()
            if len(runs) > 1
        ],
        undrawn=[name for name in shown if name not in drawable],
        sections=sections,
        thumbnails=thumbnails,
        maps={name: maps for name, runs in summary.groups.items() if (maps := _region_maps(runs))},
        agreements=[line for runs in summary.groups.values() for line in _agreements(runs)],
        settings=_settings(summary.groups),
        configs={name: run.provenance.get("config", "") for name, run in shown.items()},
        conventions=CONVENTIONS,
    )


def _printable(text: str) -> str:
    """Text that UTF-8 can write: names of files may hold any bytes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _score_section(
    score: str, shown: Mapping[str, Run], root: Path | None, thumbnails: Thumbnails
) -> dict[str, Any]:
    """Curves and mistakes of one score, by method."""
    shown = {name: run for name, run in shown.items() if score in run.result["figures"]}
    parts = {name: _inside_and_outside(run) for name, run in shown.items()}
    return {
        "score": score,
        "roc": _roc_panels(score, parts),
        "methods": [
            {
                "name": name,
                "histograms": _histograms(score, *parts[name], name),
                "lists": _mistake_lists(score, run, *parts[name], root, thumbnails),
            }
            for name, run in shown.items()
        ],
    }


def _inside_and_outside(run: Run) -> tuple[SetScores, list[SetScores]]:
    return run.images[run.id_set], [run.images[name] for name in run.ood_sets]


def _roc_panels(
    score: str, parts: Mapping[str, tuple[SetScores, list[SetScores]]]
) -> list[dict[str, Any]]:
    """A panel for each OOD set with a curve a method; of a single method all sets in one panel."""
    curves: dict[str, dict[str, tuple]] = {}
    for method, (inside, outside) in parts.items():
        for part in outside:
            panel, line = (method, part.name) if len(parts) == 1 else (part.name, method)
            curves.setdefault(panel, {})[line] = (inside.scores[score], part.scores[score])
    return [
        {
            "title": panel,
            "svg": charts.roc(lines, f"ROC curves of {score}, {panel}"),
            "lines": {name: _rates(*scores) for name, scores in lines.items()},
        }
        for panel, lines in curves.items()
    ]


def _rates(inside, outside) -> dict[str, float]:
    return {"auroc": auroc(inside, outside), "fpr": fpr_at_tpr(inside, outside)}


def _histograms(
    score: str, inside: SetScores, outside: Sequence[SetScores], method: str
) -> list[dict[str, Any]]:
    values = inside.scores[score]
    bins = shared_bins(values, {part.name: part.scores[score] for part in outside})
    if min(len(part.images) for part in outside) < FEW_IMAGES:
        bins = bins[::2]  # else most bars would stand for one image or none
    return [
        {
            "title": part.name,
            "images": len(part.images),
            **_rates(values, part.scores[score]),
            "svg": charts.histogram(
                bins,
                values,
                part.scores[score],
                threshold_at_tpr(values, part.scores[score]).threshold,
                f"Histogram of {score} of {method}: ID and {part.name}",
            ),
        }
        for part in outside
    ]


def _mistake_lists(
    score: str,
    run: Run,
    inside: SetScores,
    outside: Sequence[SetScores],
    root: Path | None,
    thumbnails: Thumbnails,
) -> list[dict[str, Any]]:
    root, names = root or data_root(run), Names(run, inside)
    lists = [(inside.name, rejected_id(score, inside, outside, names))]
    lists += [(part.name, accepted_ood(score, inside, part, names)) for part in outside]
    found = []
    for name, mistakes in lists:
        images = [(m, thumbnails.number(root, m.image)) for m in mistakes]
        found.append(
            {
                "set": name,
                "inside": name == inside.name,
                "images": images,
                "shown": any(number is not None for _, number in images),
            }
        )
    return found


def data_root(run: Run) -> Path | None:
    """Where the evaluation found its images, as its config says."""
    config = yaml.safe_load(run.provenance.get("config") or "{}") or {}
    root = (config.get("DATASET") or {}).get("ROOT")
    return Path(root).expanduser() if root else None


def _region_maps(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(caption, data URL) of the maps beside the runs."""
    paths = [path for run in runs for path in sorted((run.folder / "visualization").glob("*.png"))]
    return [(path.stem, jpeg(read_image(path), MAP_SIZE, quality=80)) for path in paths[:MAPS]]


def _agreements(runs: Sequence[Run]) -> list[str]:
    """Sentences on how well regions met the objects' masks, where that was measured."""
    lines = []
    for run in runs:
        for path in sorted((run.folder / "visualization").glob("regions_k*.json")):
            found = json.loads(path.read_text(encoding="utf-8"))
            lines.append(
                f"{run.folder}: K = {found['k']}, {found['images']:,} images with masks: precision "
                f"{percent(found['precision'])} %, recall {percent(found['recall'])} % "
                f"({percent(found['background'])} % of all regions show no object)"
            )
    return lines


def _settings(groups: Groups) -> dict[str, dict[str, list[str]]]:
    """Setting -> its values by method, apart those that all methods share."""
    columns = [_flat_settings(runs) for runs in groups.values()]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = {key: [column.get(key, "") for column in columns] for key in keys}
    return {
        "same": {key: row[:1] for key, row in rows.items() if len(set(row)) == 1},
        "different": {key: row for key, row in rows.items() if len(set(row)) > 1},
    }


def _flat_settings(runs: Sequence[Run]) -> dict[str, str]:
    first = runs[0].provenance
    own = {key: value for key, value in first.items() if key not in UNTOLD}
    own["seed"] = ", ".join(str(run.provenance.get("seed")) for run in runs)
    own["folders"] = ", ".join(str(run.folder) for run in runs)
    own["images"] = runs[0].result["images"]
    skipped = {name: len(paths) for name, paths in first.get("skipped", {}).items() if paths}
    return {
        key: str(value)
        for key, value in flatten(
            {**first.get("comparable", {}), **own, "unreadable images": skipped or "none"}
        ).items()
    }
