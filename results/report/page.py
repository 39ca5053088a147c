"""Gather what the report shows from the runs, and make the page of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dassl.utils.errors import InputError
from dassl.utils.files import read_json
from dassl.utils.tools import flatten, read_image
from ood.metrics import CONVENTIONS, threshold_at_tpr
from ood.set_scores import SetScores
from results.plots import SET_COLOURS, histogram_svg, rates, roc_svg, shared_bins
from results.report.mistakes import Names, Thumbnails, accepted_ood, jpeg, rejected_id
from results.runs import Groups, Run
from results.summary import Summary
from results.tables import percent

MAPS, MAP_SIZE = 6, 900  # region maps a method, and their longer side in pixels
FEW_IMAGES = 500
UNITS = "percent on this page; fractions in [0, 1] in results.json, results.csv and scores/"
ELSEWHERE = ("classnames", "config", "skipped", "comparable", "asked")  # not rows of the settings
# What a method is trained with comes first in the settings, after the method's own numbers.
LEADING = ("training.shots", "seed", "training.optim.MAX_EPOCH", "training.optim.LR",
           "training.batch_size", "backbone", "precision")  # fmt: skip


def report_page(summary: Summary, root: Path | None = None) -> str:
    """Return the HTML page; `root`: folder of the datasets, if not where the evaluation had it."""
    thumbnails = Thumbnails()
    shown = {name: runs[0] for name, runs in summary.groups.items()}
    drawable = {name: run for name, run in shown.items() if _has_scores(run)}
    scores = list(dict.fromkeys(s for run in drawable.values() for s in run.figures))
    sections = [_score_section(score, drawable, root, thumbnails) for score in scores]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"printable": _printable}
    return environment.get_template("page.html.jinja").render(
        summary=summary,
        title=f"OOD detection: {', '.join(summary.groups)}",
        facts=_facts(summary.groups),
        one_of_several=[
            f"{name}, seed {runs[0].seed} of {len(runs)} runs"
            for name, runs in summary.groups.items()
            if len(runs) > 1
        ],
        undrawn=[name for name in shown if name not in drawable],
        sections=sections,
        colours=len(SET_COLOURS),
        thumbnails=thumbnails,
        maps={name: maps for name, runs in summary.groups.items() if (maps := _region_maps(runs))},
        agreements=[line for runs in summary.groups.values() for line in _agreements(runs)],
        settings=_settings(summary.groups),
        configs={name: run.provenance.get("config", "") for name, run in shown.items()},
        conventions={**CONVENTIONS, "units": UNITS},
    )


def _has_scores(run: Run) -> bool:
    """Return whether the scores of every image can be read."""
    try:
        return bool(run.images)
    except InputError:
        return False


def _facts(groups: Groups) -> dict[str, str]:
    """Return what the figures stand on: data, backbone, date, versions; all where they differ."""
    facts: dict[str, dict[str, None]] = {}
    for run in (run for runs in groups.values() for run in runs):
        for name, fact in _facts_of(run).items():
            if fact:
                facts.setdefault(name, {})[fact] = None
    dates = sorted(facts.pop("evaluated"))
    ends = dict.fromkeys((dates[0], dates[-1]))
    return {name: "; ".join(found) for name, found in facts.items()} | {
        "evaluated": " to ".join(ends)
    }


def _facts_of(run: Run) -> dict[str, str]:
    about, same, images = run.provenance, run.comparable, run.result["images"]
    folder, classes = same.get("folder"), same.get("num_classes")
    git = about.get("git") or {}
    date = datetime.fromtimestamp((run.folder / "results.json").stat().st_mtime)
    versions = {"code": git.get("commit", "")[:10] + (" (changed)" if git.get("dirty") else "")}
    versions |= about.get("versions") or {}
    return {
        "data set": f"{same.get('dataset', run.id_set)}"
        + (f", folder {folder}" if folder else "")
        + (f", {classes:,} classes" if classes else "")
        + f", {images[run.id_set]:,} ID images",
        "OOD sets": ", ".join(f"{name} ({images[name]:,})" for name in run.ood_sets),
        "backbone": about.get("backbone", ""),
        "evaluated": f"{date:%Y-%m-%d}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    }


def _printable(text: str) -> str:
    """Return text that UTF-8 can write: names of files may hold any bytes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _score_section(
    score: str, shown: Mapping[str, Run], root: Path | None, thumbnails: Thumbnails
) -> dict[str, Any]:
    """Return the curves and mistakes of one score, by method."""
    shown = {name: run for name, run in shown.items() if score in run.figures}
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
    """Return a panel for each OOD set with a curve a method; of one method all sets in one."""
    curves: dict[str, dict[str, tuple]] = {}
    for method, (inside, outside) in parts.items():
        for part in outside:
            panel, line = (method, part.name) if len(parts) == 1 else (part.name, method)
            scores = inside.scores[score], part.scores[score]
            curves.setdefault(panel, {})[f"{line}: {rates(*scores)}"] = scores
    return [
        {
            "title": panel,
            "svg": roc_svg(lines, f"ROC curves of {score}, {panel}"),
            "lines": list(lines),
        }
        for panel, lines in curves.items()
    ]


def _histograms(
    score: str, inside: SetScores, outside: Sequence[SetScores], method: str
) -> list[dict[str, Any]]:
    values = inside.scores[score]
    bins = shared_bins(values, {part.name: part.scores[score] for part in outside})
    if min(len(part.images) for part in outside) < FEW_IMAGES:
        bins = bins[::2]  # else most bars would stand for one image or none
    panels = []
    for part in outside:
        others = part.scores[score]
        threshold = threshold_at_tpr(values, others).threshold
        label = f"Histogram of {score} of {method}: ID and {part.name}"
        panels.append(
            {
                "title": part.name,
                "caption": f"{len(part.images):,} images; {rates(values, others)}",
                "svg": histogram_svg(bins, values, others, threshold, label),
            }
        )
    return panels


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
    """Return the folder in which the evaluation found its images, as its config says."""
    config = yaml.safe_load(run.provenance.get("config") or "{}") or {}
    root = (config.get("DATASET") or {}).get("ROOT")
    return Path(root).expanduser() if root else None


def _region_maps(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return (caption, data URL) of the maps beside the runs."""
    paths = [path for run in runs for path in sorted((run.folder / "visualization").glob("*.png"))]
    return [(path.stem, jpeg(read_image(path), MAP_SIZE, quality=80)) for path in paths[:MAPS]]


def _agreements(runs: Sequence[Run]) -> list[str]:
    """Return sentences on how well regions met the objects' masks, where that was measured."""
    lines = []
    for run in runs:
        for path in sorted((run.folder / "visualization").glob("regions_k*.json")):
            found = read_json(path)
            lines.append(
                f"{run.folder}: K = {found['k']}, {found['images']:,} images with masks: precision "
                f"{percent(found['precision'])} %, recall {percent(found['recall'])} % "
                f"({percent(found['background'])} % of all regions show no object)"
            )
    return lines


def _settings(groups: Groups) -> dict[str, dict[str, list[str]]]:
    """Return tables of settings, the methods' own first: title -> setting -> a value a method."""
    columns = [_flat_settings(runs) for runs in groups.values()]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = {key: [column.get(key, "") for column in columns] for key in keys}
    own = {
        key.removeprefix("settings."): rows.pop(key) for key in keys if key.startswith("settings.")
    }
    leading = {key.rpartition(".")[2]: rows.pop(key) for key in LEADING if key in rows}
    parts = {
        "Methods": own | leading,
        "Other settings that differ": {k: row for k, row in rows.items() if len(set(row)) > 1},
        "Other settings, the same for all": {k: r for k, r in rows.items() if len(set(r)) == 1},
    }
    return {title: part for title, part in parts.items() if part}


def _flat_settings(runs: Sequence[Run]) -> dict[str, str]:
    first = runs[0].provenance
    own = {key: value for key, value in first.items() if key not in ELSEWHERE}
    own["seed"] = ", ".join(str(run.provenance.get("seed")) for run in runs)
    own["folders"] = ", ".join(str(run.folder) for run in runs)
    own["images"] = runs[0].result["images"]
    skipped = {name: len(paths) for name, paths in first.get("skipped", {}).items() if paths}
    everything = {**runs[0].comparable, **own, "unreadable images": skipped or "none"}
    return {key: str(value) for key, value in flatten(everything).items()}
