"""Gather the contents of the report from the runs, and render the page."""

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
from results.summary import NOTE, Summary
from results.tables import Block

MAPS, MAP_SIZE = 6, 1600  # most region maps of a method, and their longer side in pixels
CONTEXTS = 8  # most learned contexts of a method with their words
UNITS = "percent on this page; results.json and results.csv hold fractions"
OMITTED = ("classnames", "config", "skipped", "comparable", "asked")  # not rows of the settings
# These settings come first in their table, after those of the method itself.
LEADING = ("training.shots", "seed", "training.optim.MAX_EPOCH", "training.optim.LR",
           "training.train_x.BATCH_SIZE", "backbone", "precision")  # fmt: skip


Draw = Callable[[Figure, str], str]  # from a plot and its name to the URL for the page


def report_page(
    summary: Summary, root: Path | None = None, draw: Draw = lambda figure, name: as_svg(figure)
) -> str:
    """Return the HTML page.

    Args:
        root: folder of the data sets; None for that of the evaluation.
        draw: returns the URL of a plot; it may write the plot to a file as well.
    """
    first_runs = {name: runs[0] for name, runs in summary.groups.items()}
    drawable = {name: run for name, run in first_runs.items() if _has_scores(run)}
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
        legend=NOTE.format(mark="in bold").replace("`", ""),
        blocks=[_averages_first(block) for block in summary.blocks],
        title=f"OOD detection: {', '.join(summary.groups)}",
        facts=_facts(summary.groups),
        undrawn=[name for name in first_runs if name not in drawable],
        methods=_methods(summary.groups, draw),
        sections={score: _score_section(score, drawable, root, draw) for score in scores},
        shots=_shots_sections(summary.groups, draw),
        words={name: _context_words(run) for name, run in first_runs.items()},
        maps={name: _region_maps(runs) for name, runs in summary.groups.items()},
        settings=_settings(summary.groups),
        configs={name: run.provenance.get("config", "") for name, run in first_runs.items()},
        conventions={**CONVENTIONS, "units": UNITS},
    )


def _has_scores(run: Run) -> bool:
    """Return whether the scores of every image can be read."""
    try:
        return bool(run.images)
    except InputError:
        return False


def _averages_first(block: Block) -> Block:
    """Return the block with its averages before its sets, which a page may cut off on the right."""
    names = block.columns
    order = sorted(range(len(names)), key=lambda i: not names[i].startswith(AVERAGE))
    rows = [row._replace(figures=[row.figures[i] for i in order]) for row in block.rows]
    return block._replace(columns=[names[i] for i in order], rows=rows)


def _facts(groups: Groups) -> dict[str, str]:
    """Return data, backbone, date and versions of the runs, with every value that occurs."""
    rows = [_facts_of(run) for runs in groups.values() for run in runs]
    return {
        name: "; ".join(dict.fromkeys(facts[name] for facts in rows if facts[name]))
        for name in rows[0]
    }


def _facts_of(run: Run) -> dict[str, str]:
    provenance, comparable, images = run.provenance, run.comparable, run.result["images"]
    folder, classes = comparable.get("folder"), comparable.get("num_classes")
    git = provenance.get("git") or {}
    date = datetime.fromtimestamp((run.folder / "results.json").stat().st_mtime)
    versions = {"code": git.get("commit", "")[:10] + (" (changed)" if git.get("dirty") else "")}
    versions |= provenance.get("versions") or {}
    return {
        "data set": f"{comparable.get('dataset', run.id_set)}"
        + (f", folder {folder}" if folder else "")
        + (f", {classes:,} classes" if classes else "")
        + f", {images[run.id_set]:,} ID images",
        "OOD sets": ", ".join(f"{name} ({images[name]:,})" for name in run.ood_sets),
        "backbone": provenance.get("backbone", ""),
        "evaluated": f"{date:%Y-%m-%d}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    }


def _methods(groups: Groups, draw: Draw) -> dict[str, str]:
    """Return a plot over methods for each score that several of them have."""
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
    panels: dict[str, dict[str, tuple]] = {}  # one for each OOD set, or one for a single method
    for method, run in runs.items():
        inside, *outside = run.images.values()
        for ood_set in outside:
            panel, line = (method, ood_set.name) if len(runs) == 1 else (ood_set.name, method)
            panels.setdefault(panel, {})[line] = inside.scores[score], ood_set.scores[score]
    rocs = {name: draw(roc(lines, name), f"{score}_roc_{name}") for name, lines in panels.items()}
    bars = {method: _histograms(score, run, method, draw) for method, run in runs.items()}
    mistakes = {method: _mistakes(score, run, root) for method, run in runs.items()}
    return {"roc": rocs, "histograms": bars, "mistakes": mistakes}


def _histograms(score: str, run: Run, method: str, draw: Draw) -> dict[str, str]:
    inside, *outside = (scored.scores[score] for scored in run.images.values())
    charts = {}
    for name, values in zip(run.ood_sets, outside, strict=True):
        figure = histograms(inside, {name: values}, score, method)
        charts[name] = draw(figure, f"{score}_histogram_{method}_{name}")
    return charts


def _mistakes(score: str, run: Run, root: Path | None) -> dict[str, list[tuple]]:
    """Return (mistake, thumbnail) for the worst mistakes on each set, the ID set first."""
    inside, *outside = run.images.values()
    root, names = root or data_root(run), class_names(run, inside)
    lists = {inside.name: rejected_id(score, inside, outside, names)}
    lists |= {ood_set.name: accepted_ood(score, inside, ood_set, names) for ood_set in outside}
    return {
        name: [(m, thumbnail(root / m.image) if root else "") for m in mistakes]
        for name, mistakes in lists.items()
    }


def data_root(run: Run) -> Path | None:
    """Return the folder of the evaluation's images, from its config."""
    config = yaml.safe_load(run.provenance.get("config") or "{}") or {}
    root = (config.get("DATASET") or {}).get("ROOT")
    return Path(root).expanduser() if root else None


def _context_words(run: Run) -> dict[str, list]:
    """Return the words nearest to a run's learned contexts: context -> rows of words."""
    path = run.folder / "context_words.json"
    contexts = read_json(path).get("contexts", {}) if path.is_file() else {}
    return dict(list(contexts.items())[:CONTEXTS])


def _shots_sections(groups: Groups, draw: Draw) -> dict[str, str]:
    """Return title -> plot of figures over shots, for methods with several numbers of shots."""
    charts = {}
    for title, lines in over_shots(groups).items():
        name = title.partition(" (")[0].replace(" ", "_").lower()
        charts[title] = draw(shots_plot(lines, title), f"{name}_over_shots")
    return charts


def shots_of(run: Run) -> int:
    """Return the training images per class of a run; 0 for no training, and for all images."""
    return max(0, (run.comparable.get("training") or {}).get("shots", 0))


def over_shots(groups: Groups) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Return ID accuracy, and each score's FPR95 averaged over OOD sets: title -> line -> shots.

    A line is a method, or a method and a score, with several numbers of shots.
    """
    accuracy, fpr95 = (defaultdict(lambda: defaultdict(list)) for _ in range(2))
    trained = [run for runs in groups.values() for run in runs if shots_of(run)]
    for run in trained:
        name, shots = method_of(run, trained), shots_of(run)
        id_accuracy = run.result.get("accuracy", {}).get(run.id_set)
        if id_accuracy is not None:
            accuracy[name][shots].append(id_accuracy)
        for score, sets in run.figures.items():
            fpr95[f"{name} {score}"][shots].append(sets[AVERAGE][PRIMARY])
    plots = {
        title: {name: points for name, points in lines.items() if len(points) > 1}
        for title, lines in (("ID accuracy (%)", accuracy), ("FPR95 (%), ID positive", fpr95))
    }
    return {title: lines for title, lines in plots.items() if lines}


def method_of(run: Run, runs: Sequence[Run]) -> str:
    """Return the trainer's name and the settings, except shots, that vary among its runs."""
    alike = [_method_settings(other) for other in runs if other.trainer == run.trainer]
    settings = _method_settings(run)
    differing = [key for key in settings if any(s.get(key) != settings[key] for s in alike)]
    return " ".join([run.trainer, *(f"{key} {settings[key]}" for key in differing)])


def _method_settings(run: Run) -> dict:
    views = (run.comparable.get("training") or {}).get("views", 0)
    settings = run.comparable.get("settings") or {}
    return {"backbone": run.provenance.get("backbone"), "views": views, **settings}


def _region_maps(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return (caption, data URL) for the region maps in the runs' folders."""
    paths = [path for run in runs for path in sorted((run.folder / "visualization").glob("*.png"))]
    return [(path.stem, jpeg(read_image(path), MAP_SIZE, quality=80)) for path in paths[:MAPS]]


def _settings(groups: Groups) -> dict[str, dict[str, list[str]]]:
    """Return the tables of settings: title -> setting -> its value for each method."""
    columns = [_flat_settings(runs) for runs in groups.values()]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    leading = [key for key in keys if key.startswith("settings.")]
    leading += [key for key in LEADING if key in keys]
    rows = {key: [column.get(key, "") for column in columns] for key in keys}
    return {
        "Methods": {key.rpartition(".")[2]: rows[key] for key in leading},
        "Other settings": {key: row for key, row in rows.items() if key not in leading},
    }


def _flat_settings(runs: Sequence[Run]) -> dict[str, str]:
    first = runs[0].provenance
    facts = {key: value for key, value in first.items() if key not in OMITTED}
    facts["seed"] = ", ".join(str(run.provenance.get("seed")) for run in runs)
    facts["folders"] = ", ".join(str(run.folder) for run in runs)
    facts["images"] = runs[0].result["images"]
    skipped = {name: len(paths) for name, paths in first.get("skipped", {}).items() if paths}
    settings = {**runs[0].comparable, **facts, "unreadable images": skipped or "none"}
    return {key: str(value) for key, value in flatten(settings).items()}
