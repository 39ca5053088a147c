"""Evaluate OOD detection: python eval_ood.py --model-dir DIR; without it, zero-shot CLIP."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

from dassl.data import build_data_loader
from dassl.data.data_manager import skips_bad_images
from dassl.engine import build_trainer
from dassl.utils import explain_out_of_memory, set_random_seed, setup_logger
from dassl.utils.errors import InputError
from dassl.utils.provenance import git_state, versions
from datasets.check.layout import require_data
from datasets.needs import EVALUATION
from datasets.ood_sets import load_ood_sets
from detector.calibration import TPR, calibrate, check_tpr
from detector.detector_file import Recipe, write_recipe
from detector.of_trainer import recipe_of
from ood.decisions import decision_rates, format_rates, warn_if_few_classes
from ood.evaluation import score_sets
from ood.features import FeatureStore
from ood.scores import SCORES
from ood.scoring import get_scores, offered_scores, required_inputs, score_parameters
from results.files import evaluate_sets, format_table, read_results, write_results
from results.plots import plot_histograms, plot_roc
from run.command import run
from run.config import build_cfg
from run.flags import make_parser
from run.folder import held_out_record, locked

ID = "ID"  # name of the in-distribution set in the results
LOG, FEATURES = "eval_log.txt", "output/features"

logger = logging.getLogger(__name__)


def main() -> None:
    args = parse_args()
    cfg = build_cfg(args)
    with locked(cfg.OUTPUT_DIR):
        setup_logger(Path(cfg.OUTPUT_DIR, LOG))
        evaluate(cfg, args)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of an evaluation, from `arguments` or the command line.

    Raises:
        InputError: unknown scores, impossible parameters.
    """
    parser = make_parser(__doc__)
    parser.set_defaults(trains=False)
    parser.add_argument(
        "--scores",
        default="all",
        help=f"all the model can give, or some, separated by commas: {', '.join(SCORES)}",
    )
    parser.add_argument(
        "--T",
        "--temperature",
        type=float,
        default=1.0,
        dest="temperature",
        help="of MCM and GL-MCM, on cosine similarities",
    )
    parser.add_argument(
        "--local-weight", type=float, default=1.0, help="weight of the regions in GL-MCM"
    )
    parser.add_argument(
        "--tpr",
        type=float,
        default=TPR,
        help="share of ID images that the saved detector keeps (%(default)s)",
    )
    kept = parser.add_argument_group("image features kept on disk, for later evaluations")
    add = kept.add_argument
    add(
        "--features",
        default=FEATURES,
        metavar="DIR",
        help="folder they are kept in; none to keep none (%(default)s)",
    )
    add(
        "--features-limit",
        type=float,
        default=20,
        metavar="GIB",
        help="size that folder may come to have (%(default)s)",
    )
    add(
        "--features-local",
        action="store_true",
        help="also those of the regions, for GL-MCM, rounded to float16 "
        "(ImageNet and its OOD sets: 16 GiB)",
    )
    args = parser.parse_args(arguments)
    check_tpr(args.tpr)
    if not (args.trainer or args.model_dir):
        args.trainer = "ZeroshotCLIP"
    score_parameters(get_scores(asked(args)["scores"]), asked(args)["parameters"])
    return args


def asked(args: argparse.Namespace) -> dict:
    """Return what `args` ask for beside the config: names of scores or "all", parameters, ..."""
    names = "all" if args.scores == "all" else [name.strip() for name in args.scores.split(",")]
    return {
        "scores": names,
        "features_local": args.features_local,
        "load_epoch": args.load_epoch,
        "parameters": {"temperature": args.temperature, "local_weight": args.local_weight},
    }


def evaluate(cfg, args: argparse.Namespace) -> None:
    """Score what `args`, of which `cfg` was built, name; the results go to the run's folder."""
    names, params = asked(args)["scores"], asked(args)["parameters"]
    require_data(cfg, EVALUATION)
    sets = load_ood_sets(cfg)
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    trainer = build_trainer(cfg)
    if args.model_dir:
        trainer.load_model(args.model_dir, args.load_epoch)
    scores = offered_scores(names, trainer.model.provides)
    store = feature_store(args, cfg, trainer)
    provenance = trainer.provenance()
    provenance["comparable"] |= {
        "scores": score_parameters(scores, params),
        "load_epoch": args.load_epoch,
    }
    if store is not None and store.local and "local_cosines" in required_inputs(scores):
        provenance["comparable"]["local_features"] = "float16"
    check_same_model(cfg.OUTPUT_DIR, provenance["comparable"])
    size = {"DATALOADER.TEST.BATCH_SIZE": cfg.DATALOADER.TEST.BATCH_SIZE}
    with explain_out_of_memory(f"scoring on {trainer.device}", size):
        evaluation = score_sets(
            trainer.model,
            {ID: trainer.dm.dataset.test, **sets},
            partial(test_loader, cfg, trainer.dm),
            scores,
            params,
            trainer.device,
            trainer.autocast,
            cfg.DATASET.ROOT,
            store,
        )
    inside = evaluation.sets[ID]
    of = held_out_record(
        args.model_dir or cfg.OUTPUT_DIR,
        inside.images,
        cfg.DATASET.ROOT,
        f"ID test set of {cfg.DATASET.NAME} {cfg.DATASET.FOLDER}".rstrip(),
    )
    recipe = recipe_of(trainer, evaluation.classes, provenance["comparable"]["scores"])
    recipe = recipe.calibrated(inside.scores, args.tpr, of)
    # From here on the old results are half replaced.
    Path(cfg.OUTPUT_DIR, "results.json").unlink(missing_ok=True)
    write_recipe(cfg.OUTPUT_DIR, recipe)
    provenance |= {
        "asked": asked(args),
        "config": cfg.dump(sort_keys=False),
        "skipped": evaluation.skipped,
        "features_read": evaluation.read,
        "classnames": list(trainer.dm.dataset.classnames),
        "versions": versions(),
        "git": git_state(),
    }
    logger.info(
        "%s\n\n%s",
        report(cfg.OUTPUT_DIR, evaluation.sets, provenance),
        detector_report(cfg.OUTPUT_DIR, recipe),
    )


def test_loader(cfg, manager, items):
    """An unshuffled loader of `items` with the test transform."""
    return build_data_loader(
        cfg,
        sampler_type="SequentialSampler",
        data_source=items,
        tfm=manager.tfm_test,
        batch_size=cfg.DATALOADER.TEST.BATCH_SIZE,
        is_train=False,
    )


def feature_store(args, cfg, trainer) -> FeatureStore | None:
    """Where `args` ask for image features to be kept; None for nowhere."""
    if args.features.lower() in ("", "none"):
        if args.features_local:
            raise InputError("--features-local keeps features, --features none keeps none: choose")
        return None
    return FeatureStore(
        args.features,
        trainer.image_encoding(),
        cfg.DATASET.ROOT,
        args.features_limit,
        args.features_local,
        skips_bad_images(cfg),
    )


def check_same_model(folder: str, comparable: dict) -> None:
    """Refuse to put another model's results over those in `folder`; other scores are welcome."""
    if not Path(folder, "results.json").exists():
        return
    before = read_results(folder)["provenance"]["comparable"]
    now = json.loads(json.dumps(comparable))  # tuples are lists in a file
    changed = [
        key
        for key in now
        if key not in ("scores", "local_features") and before.get(key) != now[key]
    ]
    if changed:
        raise InputError(
            f"{folder} holds results of another model: {changed[0]} was {before.get(changed[0])}, "
            f"is {now[changed[0]]}. Choose another --output-dir, or remove its results.json"
        )


def detector_report(folder: str, recipe: Recipe) -> str:
    """What the detector beside the results would do, and how to use it."""
    threshold = calibrate(recipe.id_scores[recipe.score], recipe.tpr)
    return (
        f"Detector: ID at {recipe.score} >= {threshold}.\n"
        f"Verdicts on any image: python detect.py --model-dir {folder} IMAGE_OR_FOLDER"
    )


def report(folder: str, sets: dict, provenance: dict) -> str:
    """Write results and plots into `folder`; the table, and where everything lies."""
    inside = sets[ID]
    outside = {name: part.scores for name, part in sets.items() if name != ID}
    figures = evaluate_sets(inside.scores, outside)
    decisions = decision_rates(
        inside.rejected, {name: part.rejected for name, part in sets.items() if name != ID}
    )
    if decisions:
        warn_if_few_classes(provenance["comparable"]["num_classes"])
    plots = Path(folder, "plots")
    for old in (*plots.glob("*.png"), *Path(folder, "scores").glob("*.csv")):
        old.unlink()  # of scores or sets that are not asked for this time
    for name, values in inside.scores.items():
        others = {set_name: columns[name] for set_name, columns in outside.items()}
        plot_histograms(plots / f"{name}_histogram.png", values, others, name)
        plot_roc(plots / f"{name}_roc.png", values, others, name)
    write_results(folder, figures, list(sets.values()), provenance, decisions)
    parts = [
        format_table(figures),
        format_rates(decisions),
        f"ID accuracy: {100 * inside.accuracy:.2f} %\n"
        f"results.json, results.csv, scores/ and plots/ are in {folder}",
    ]
    return "\n\n".join(part for part in parts if part)


if __name__ == "__main__":
    run(main)
