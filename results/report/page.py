"""Gather what the report shows from the runs, and make the page of it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from dassl.utils import InputError, flatten, read_image, read_json
from dassl.utils.console import printable
from ood.metrics import CONVENTIONS, PRIMARY
from results.files import AVERAGE
from results.plots import as_svg, histograms, over_methods, roc, shots_plot
from results.report.mistakes import accepted_ood, class_names, jpeg, rejected_id, thumbnail
from results.runs import Groups, Run
from results.summary import Summary

MAPS, MAP_SIZE = 6, 1600  # region maps a method, and their longer side in pixels
CONTEXTS = 8  # learned contexts a method whose words are shown
UNITS = "percent on this page; fractions in [0, 1] in results.json, results.csv and scores/"
ELSEWHERE = ("classnames", "config", "skipped", "comparable", "asked")  # not rows of the settings
# What a method is trained with comes first in the settings, after the method's own numbers.
LEADING = ("training.shots", "seed", "training.optim.MAX_EPOCH", "training.optim.LR",
           "training.batch_size", "backbone", "precision")  # fmt: skip


Draw = Callable[[Figure, str], str]  # from a plot and its name to an address for the page


def report_page(
    summary: Summary, root: Path | None = None, draw: Draw = lambda figure, name: as_svg(figure)
) -> str:
    """Return the HTML page.

    Args:
        root: folder of the datasets, if not where the evaluation had it.
        draw: may keep the plots, besides.
    """
    shown = {name: runs[0] for name, runs in summary.groups.items()}
    drawable = {name: run for name, run in shown.items() if _has_scores(run)}
    scores = list(dict.fromkeys(s for run in drawable.values() for s in run.figures))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"printable": printable}
    return environment.get_template("page.html.jinja").render(
        summary=summary,
        title=f"OOD detection: {', '.join(summary.groups)}",
        facts=_facts(summary.groups),
        undrawn=[name for name in shown if name not in drawable],
        methods=_methods(summary.groups, draw),
        sections={score: _score_section(score, drawable, root, draw) for score in scores},
        shots=_shots_sections(summary.groups, draw),
        words={name: _context_words(run) for name, run in shown.items()},
        maps={name: _region_maps(runs) for name, runs in summary.groups.items()},
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


def _methods(groups: Groups, draw: Draw) -> dict[str, str]:
    """Return a plot over the methods for each score that several of them have."""
    charts = {}
    for score in dict.fromkeys(score for runs in groups.values() for score in runs[0].figures):
        figures = {
            name: [run.figures[score] for run in runs]
            for name, runs in groups.items()
            if score in runs[0].figures
        }
        if len(figures) > 1:
            sets = next(iter(groups.values()))[0].ood_sets
            charts[score] = draw(over_methods(figures, sets, score), f"{score}_methods")
    return charts


def _score_section(
    score: str, runs: Mapping[str, Run], root: Path | None, draw: Draw
) -> dict[str, Any]:
    """Return the curves of one score, and the histograms and mistakes of each method."""
    runs = {name: run for name, run in runs.items() if score in run.figures}
    curves: dict[str, dict[str, tuple]] = {}  # a panel for each OOD set; of one method for all
    for method, run in runs.items():
        inside, *outside = run.images.values()
        for part in outside:
            panel, line = (method, part.name) if len(runs) == 1 else (part.name, method)
            curves.setdefault(panel, {})[line] = inside.scores[score], part.scores[score]
    drawn = {panel: draw(roc(own, panel), f"{score}_roc_{panel}") for panel, own in curves.items()}
    bars = {method: _histograms(score, run, method, draw) for method, run in runs.items()}
    mistakes = {method: _mistakes(score, run, root) for method, run in runs.items()}
    return {"roc": drawn, "histograms": bars, "mistakes": mistakes}


def _histograms(score: str, run: Run, method: str, draw: Draw) -> dict[str, str]:
    inside, *outside = (part.scores[score] for part in run.images.values())
    charts = {}
    for name, values in zip(run.ood_sets, outside, strict=True):
        figure = histograms(inside, {name: values}, score, method)
        charts[name] = draw(figure, f"{score}_histogram_{method}_{name}")
    return charts


def _mistakes(score: str, run: Run, root: Path | None) -> dict[str, list[tuple]]:
    """Return (mistake, thumbnail) of the worst mistakes on each set, the ID set first."""
    inside, *outside = run.images.values()
    root, names = root or data_root(run), class_names(run, inside)
    lists = {inside.name: rejected_id(score, inside, outside, names)}
    lists |= {part.name: accepted_ood(score, inside, part, names) for part in outside}
    return {
        name: [(m, thumbnail(root / m.image) if root else "") for m in mistakes]
        for name, mistakes in lists.items()
    }


def data_root(run: Run) -> Path | None:
    """Return the folder in which the evaluation found its images, as its config says."""
    config = yaml.safe_load(run.provenance.get("config") or "{}") or {}
    root = (config.get("DATASET") or {}).get("ROOT")
    return Path(root).expanduser() if root else None


def _context_words(run: Run) -> dict[str, list]:
    """Return the words that a run's learned contexts are like: context -> rows of words."""
    path = run.folder / "context_words.json"
    found = read_json(path).get("contexts", {}) if path.is_file() else {}
    return dict(list(found.items())[:CONTEXTS])


def _shots_sections(groups: Groups, draw: Draw) -> dict[str, str]:
    """Return plots of figures over shots by title; none where all runs have as many."""
    charts = {}
    for title, lines in over_shots(groups).items():
        name = title.partition(" (")[0].replace(" ", "_").lower()
        charts[title] = draw(shots_plot(lines, title), f"{name}_over_shots")
    return charts


def shots_of(run: Run) -> int:
    """Return the training images a class of a run, 0 where nothing, or all, was trained on."""
    return max(0, (run.comparable.get("training") or {}).get("shots", 0))


def over_shots(groups: Groups) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Return ID accuracy, and FPR95 of each score on average over the OOD sets, over shots.

    A line is a method, or a method and a score. Empty where no method has several numbers.
    """
    accuracy, fpr95 = (defaultdict(lambda: defaultdict(list)) for _ in range(2))
    trained = [run for runs in groups.values() for run in runs if shots_of(run)]
    for run in trained:
        name, shots = method_of(run, trained), shots_of(run)
        found = run.result.get("accuracy", {}).get(run.id_set)
        if found is not None:
            accuracy[name][shots].append(found)
        for score, sets in run.figures.items():
            fpr95[f"{name} {score}"][shots].append(sets[AVERAGE][PRIMARY])
    kept = {
        title: {name: runs for name, runs in own.items() if len(runs) > 1}
        for title, own in (("ID accuracy (%)", accuracy), ("FPR95 (%), ID positive", fpr95))
    }
    return {title: own for title, own in kept.items() if own}


def method_of(run: Run, runs: Sequence[Run]) -> str:
    """Return the trainer's name, with what runs of this trainer differ in besides the shots."""
    alike = [_varied(other) for other in runs if other.trainer == run.trainer]
    own = _varied(run)
    differing = [key for key in own if any(other.get(key) != own[key] for other in alike)]
    return " ".join([run.trainer, *(f"{key} {own[key]}" for key in differing)])


def _varied(run: Run) -> dict:
    views = (run.comparable.get("training") or {}).get("views", 0)
    own = run.comparable.get("settings") or {}
    return {"backbone": run.provenance.get("backbone"), "views": views, **own}


def _region_maps(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return (caption, data URL) of the maps beside the runs."""
    paths = [path for run in runs for path in sorted((run.folder / "visualization").glob("*.png"))]
    return [(path.stem, jpeg(read_image(path), MAP_SIZE, quality=80)) for path in paths[:MAPS]]


def _settings(groups: Groups) -> dict[str, dict[str, list[str]]]:
    """Return tables of settings, the methods' own first: title -> setting -> a value a method."""
    columns = [_flat_settings(runs) for runs in groups.values()]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    own = [key for key in keys if key.startswith("settings.")]
    leading = [*own, *(key for key in LEADING if key in keys)]
    rows = {key: [column.get(key, "") for column in columns] for key in keys}
    return {
        "Methods": {key.rpartition(".")[2]: rows[key] for key in leading},
        "Other settings": {key: row for key, row in rows.items() if key not in leading},
    }


def _flat_settings(runs: Sequence[Run]) -> dict[str, str]:
    first = runs[0].provenance
    own = {key: value for key, value in first.items() if key not in ELSEWHERE}
    own["seed"] = ", ".join(str(run.provenance.get("seed")) for run in runs)
    own["folders"] = ", ".join(str(run.folder) for run in runs)
    own["images"] = runs[0].result["images"]
    skipped = {name: len(paths) for name, paths in first.get("skipped", {}).items() if paths}
    everything = {**runs[0].comparable, **own, "unreadable images": skipped or "none"}
    return {key: str(value) for key, value in flatten(everything).items()}
