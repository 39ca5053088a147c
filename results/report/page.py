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
from dassl.utils.tools import flatten, read_image
from ood.metrics import CONVENTIONS
from ood.set_scores import SetScores
from results.plots import as_svg, histograms, roc
from results.report.mistakes import Thumbnails, accepted_ood, class_names, jpeg, rejected_id
from results.runs import Groups, Run
from results.summary import Summary

MAPS, MAP_SIZE = 6, 900  # region maps a method, and their longer side in pixels
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
        thumbnails=thumbnails,
        maps={name: maps for name, runs in summary.groups.items() if (maps := _region_maps(runs))},
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
    found = [_facts_of(run) for runs in groups.values() for run in runs]
    return {
        name: "; ".join(dict.fromkeys(facts[name] for facts in found if facts[name]))
        for name in found[0]
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
    return {
        "score": score,
        "roc": _roc_panels(score, shown),
        "methods": [
            {
                "name": name,
                "histograms": _histograms(score, run, name),
                "lists": _mistake_lists(score, run, root, thumbnails),
            }
            for name, run in shown.items()
        ],
    }


def _inside_and_outside(run: Run) -> tuple[SetScores, list[SetScores]]:
    inside, *outside = run.images.values()
    return inside, outside


def _roc_panels(score: str, shown: Mapping[str, Run]) -> dict[str, str]:
    """Draw a panel for each OOD set with a curve a method; of one method all sets in one."""
    curves: dict[str, dict[str, tuple]] = {}
    for method, run in shown.items():
        inside, outside = _inside_and_outside(run)
        for part in outside:
            panel, line = (method, part.name) if len(shown) == 1 else (part.name, method)
            curves.setdefault(panel, {})[line] = inside.scores[score], part.scores[score]
    return {
        f"ROC curves of {score}, {panel}": as_svg(roc(lines, panel))
        for panel, lines in curves.items()
    }


def _histograms(score: str, run: Run, method: str) -> dict[str, str]:
    """Draw a panel for each OOD set."""
    inside, outside = _inside_and_outside(run)
    return {
        f"Histogram of {score} of {method}: ID and {part.name}": as_svg(
            histograms(inside.scores[score], {part.name: part.scores[score]}, score, method)
        )
        for part in outside
    }


def _mistake_lists(
    score: str, run: Run, root: Path | None, thumbnails: Thumbnails
) -> list[dict[str, Any]]:
    """Return the worst mistakes on each set, the ID set first, with their thumbnails' numbers."""
    inside, outside = _inside_and_outside(run)
    root, names = root or data_root(run), class_names(run, inside)
    lists = {inside.name: rejected_id(score, inside, outside, names)}
    lists |= {part.name: accepted_ood(score, inside, part, names) for part in outside}
    return [
        {
            "set": name,
            "inside": name == inside.name,
            "images": [(m, thumbnails.number(root, m.image)) for m in mistakes],
        }
        for name, mistakes in lists.items()
    ]


def data_root(run: Run) -> Path | None:
    """Return the folder in which the evaluation found its images, as its config says."""
    config = yaml.safe_load(run.provenance.get("config") or "{}") or {}
    root = (config.get("DATASET") or {}).get("ROOT")
    return Path(root).expanduser() if root else None


def _region_maps(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return (caption, data URL) of the maps beside the runs."""
    paths = [path for run in runs for path in sorted((run.folder / "visualization").glob("*.png"))]
    return [(path.stem, jpeg(read_image(path), MAP_SIZE, quality=80)) for path in paths[:MAPS]]


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
