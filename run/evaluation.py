"""The evaluation of a run: its scores, figures, plots and detector, in its folder."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from yacs.config import CfgNode

from dassl import distributed
from dassl.engine import build_trainer
from dassl.utils import InputError, explain_out_of_memory, flatten, set_random_seed
from dassl.utils.figures import save_figure
from dassl.utils.files import file_name, plain
from dassl.utils.names import split_commas
from dassl.utils.provenance import git_state, versions
from datasets.check.layout import require_data
from datasets.needs import EVALUATION, NOTHING, Needs
from datasets.ood_sets import load_ood_sets, load_shifted_sets, ood_means, warn_of_shared_images
from detector.calibration import check_tpr
from detector.of_trainer import spec_of
from detector.spec import FILE, TENSORS, write_spec
from ood.decisions import decision_rates, warn_if_few_classes
from ood.evaluation import Evaluation, score_sets
from ood.features import feature_store, images_hash, keeps_nothing
from ood.library import PREFIX, LibraryScore
from ood.registry import Score
from ood.scoring import get_scores, offered_scores, required_inputs, score_parameters
from ood.set_scores import SetScores
from results.files import evaluate_sets, full_spectrum, read_results, write_results
from results.plots import histograms, roc
from results.streams import FILES as STREAM_FILES
from results.tables import format_figures, format_full_spectrum, format_rates
from run.folder import CONFIG, held_out_record, read_config, training_ended
from run.negatives import add_words, record_negatives, same_words
from run.settings import default_cfg, merge, require_clip_trainer
from run.streams import base_score, check_stream_sets, check_streams, evaluate_streams
from trainers.base import ClipTrainer
from trainers.features import features_by_path, with_labels

logger = logging.getLogger(__name__)

ID = "ID"  # name of the in-distribution set in the results
LOG = "eval_log.txt"


def score_names(cfg: CfgNode) -> str | list[str]:
    """Return the names of the scores to compute, or "all". Streams add their base score; MCM is
    added if all others are of pytorch-ood, which the files of a detector cannot hold."""
    if cfg.EVAL.SCORES == "all":
        return "all"
    names = split_commas(cfg.EVAL.SCORES)
    more = [base_score(cfg)] if cfg.EVAL.STREAMS else []
    more += ["MCM"] if all(name.startswith(PREFIX) for name in [*names, *more]) else []
    return names + [name for name in more if name not in names]


def score_params(cfg: CfgNode) -> dict[str, float]:
    """Return the parameters of scores, by the argument names of the score functions."""
    return {"temperature": cfg.EVAL.TEMPERATURE, "local_weight": cfg.EVAL.LOCAL_WEIGHT}


def check_settings(cfg: CfgNode) -> None:
    """Raise InputError for unknown scores and impossible values under EVAL."""
    check_tpr(cfg.EVAL.TPR)
    score_parameters(get_scores(score_names(cfg)), score_params(cfg))
    if not 0 < (share := cfg.EVAL.NEGATIVES_SHARE) <= 1:
        raise InputError(f"--negatives-share {share}: a share of words lies in (0, 1], as 0.15")
    if cfg.EVAL.FEATURES_LOCAL and keeps_nothing(cfg):
        raise InputError("--features-local keeps features, --features none does not: drop one")
    check_streams(cfg)


def evaluate(cfg: CfgNode, model_dir: str = "", load_epoch: int | None = None) -> None:
    """Score the sets of `cfg` with the run in `model_dir` ("": an untrained method), and write the
    results to OUTPUT_DIR."""
    require_clip_trainer(cfg)
    require_data(cfg, EVALUATION | data_needs(get_scores(score_names(cfg))))
    sets = load_ood_sets(cfg)
    trainer = load_trainer(cfg, model_dir, load_epoch)
    shifted = load_shifted_sets(cfg, trainer.dm.dataset.classnames)
    words = add_words(trainer, score_names(cfg))
    scores = fit_scores(trainer, offered_scores(score_names(cfg), trainer.model.provides))
    parameters = score_parameters(scores, score_params(cfg))
    provenance = describe_model(trainer, model_dir, load_epoch)
    facts = {
        s.name: {**parameters[s.name], **s.facts, **words.facts.get(s.name, {})} for s in scores
    }
    provenance["comparable"] |= {"scores": facts, "load_epoch": load_epoch}
    if cfg.EVAL.FEATURES_LOCAL and "local_cosines" in required_inputs(scores):
        provenance["comparable"]["local_features"] = "float16"
    check_same_model(cfg.OUTPUT_DIR, provenance["comparable"])
    id_and_ood = {ID: trainer.dm.dataset.test, **sets}
    warn_of_shared_images({**id_and_ood, **shifted})
    check_stream_sets(trainer, id_and_ood, scores)
    evaluation = score(trainer, {**id_and_ood, **shifted}, scores)
    if not distributed.is_main():  # rank 0 writes
        return
    detector = record_detector(trainer, evaluation, parameters, model_dir)
    provenance |= {
        "config": recorded_config(cfg),
        "image_files": {s: images_hash(x) for s, x in {**id_and_ood, **shifted}.items()},
        "skipped": evaluation.skipped,
        "features_read": evaluation.read,
        "provides": sorted(trainer.model.provides),
        "classnames": list(trainer.dm.dataset.classnames),
        "versions": versions(),
        "git": git_state(),
    }
    table = report(cfg, evaluation.sets, provenance, list(shifted))
    overlaps = record_negatives(cfg.OUTPUT_DIR, words, sets)
    logger.info("%s", "\n\n".join(filter(None, [table, overlaps, detector])))
    evaluate_streams(trainer, id_and_ood, evaluation, provenance)


def describe_model(
    trainer: ClipTrainer, model_dir: str, load_epoch: int | None
) -> dict[str, object]:
    """Return the trainer's provenance with the epoch of the checkpoint. Settings of the training
    are those of the run in `model_dir`; weights without a run's config have no known seed."""
    provenance, epoch = trainer.provenance(), trainer.loaded_epoch
    run = read_config(model_dir)
    provenance |= {"epoch": epoch} | ({"seed": None} if model_dir and run is None else {})
    if run is None:
        return provenance
    trained = default_cfg()
    merge(trained, run, f"{model_dir}/{CONFIG}")
    provenance["comparable"]["training"] = trainer.training_facts(trained)
    last = trained.OPTIM.MAX_EPOCH
    # A finished run may have its best epoch evaluated (TEST.FINAL_MODEL best_val).
    if load_epoch is None and (epoch or last) < last and not training_ended(model_dir, last):
        provenance["unfinished"] = f"epoch {epoch} of {last}"
        logger.warning(
            f"{model_dir} is evaluated at epoch {epoch} of {last}, before its training ended: "
            "tables will set it apart. The command that trained it resumes it"
        )
    return provenance


def data_needs(scores: Sequence[Score]) -> Needs:
    """Return whether training images are needed: some scores of pytorch-ood are fitted to them."""
    fits = any(isinstance(s, LibraryScore) and s.detector_class.requires_fit for s in scores)
    return Needs.TRAIN if fits else NOTHING


def fit_scores(trainer: ClipTrainer, scores: Sequence[Score]) -> list[Score]:
    """Return `scores`, with those of pytorch-ood fitted to the run's training images: its shots,
    drawn with its seed (all images without shots), transformed as for a test."""
    library, train = [s for s in scores if isinstance(s, LibraryScore)], None
    if data_needs(library):
        items = trainer.dm.dataset.train_x
        features_and_labels = with_labels(features_by_path(trainer, {"train": items}), items)
        train = tuple(torch.from_numpy(x).to(trainer.device) for x in features_and_labels)
    facts = (trainer.text_features().clone(), trainer.model.scale.detach().float(), train)
    fitted = {s.name: s.fitted(*facts) for s in library}
    return [fitted.get(s.name, s) for s in scores]


def record_detector(
    trainer: ClipTrainer, evaluation: Evaluation, parameters: Mapping[str, dict], model_dir: str
) -> str:
    """Write the detector of an evaluation, calibrated on the ID test set, without the scores of
    pytorch-ood, which its files cannot hold; return what the log says about it."""
    cfg, inside = trainer.cfg, evaluation.sets[ID]
    if not trainer.model.is_describable:
        for name in (FILE, TENSORS):  # of an earlier evaluation
            Path(cfg.OUTPUT_DIR, name).unlink(missing_ok=True)
        return (
            f"No detector is written: {type(trainer).__name__} computes image features or inputs "
            "of scores in its own way"
        )
    source = f"ID test set of {cfg.DATASET.NAME} {cfg.DATASET.FOLDER}".rstrip()
    record = held_out_record(model_dir or cfg.OUTPUT_DIR, inside.images, cfg.DATASET.ROOT, source)
    ours = {name: values for name, values in parameters.items() if not name.startswith(PREFIX)}
    spec = spec_of(trainer, evaluation.classes, ours)
    spec = spec.calibrate(inside.scores, cfg.EVAL.TPR, record)
    # An interrupted write must not leave old results beside a new detector.
    Path(cfg.OUTPUT_DIR, "results.json").unlink(missing_ok=True)
    write_spec(cfg.OUTPUT_DIR, spec)
    return (
        f"Detector: ID at {spec.score} >= {spec.threshold()}.\n"
        f"Verdicts on any image: bash scripts/detect.sh --model-dir {cfg.OUTPUT_DIR} IMAGE"
    )


def load_trainer(cfg: CfgNode, model_dir: str, load_epoch: int | None) -> ClipTrainer:
    """Return the trainer of `cfg`, with the checkpoint of the run in `model_dir`, if any."""
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    trainer = build_trainer(cfg)
    if model_dir:
        trainer.load_model(model_dir, load_epoch)
    return trainer


def has_results(cfg: CfgNode) -> bool:
    """Return whether OUTPUT_DIR has the results of exactly this evaluation, without --load-epoch,
    with all that is now recorded: tables set results of earlier versions apart. Streams come last,
    and may have failed.
    """
    folder = Path(cfg.OUTPUT_DIR)
    files = ["results.json", *(STREAM_FILES if cfg.EVAL.STREAMS else [])]
    if not all(Path(folder, name).exists() for name in files):
        return False
    provenance = read_results(folder)["provenance"]
    if "image_files" not in provenance or "unfinished" in provenance:
        return False
    no_epoch = provenance["comparable"].get("load_epoch") is None
    same_config = provenance.get("config") == recorded_config(cfg)
    return no_epoch and same_config and has_scores(cfg, provenance) and same_words(cfg, provenance)


def has_scores(cfg: CfgNode, provenance: Mapping) -> bool:
    """Return whether a results file has every score that "all" now means for its model, which may
    be more than when it was written."""
    computed = provenance["comparable"].get("scores", {})
    # Earlier versions did not record what the model provides: at least what its scores needed.
    needed = required_inputs(s for s in get_scores("all") if s.name in computed)
    offered = offered_scores("all", provenance.get("provides", needed))
    return score_names(cfg) != "all" or all(s.name in computed for s in offered)


def recorded_config(cfg: CfgNode) -> str:
    """Return the config for the results file, without keys that change no figure: the folder of
    kept features and its limit."""
    kept = {k: v for k, v in cfg.EVAL.items() if k not in ("FEATURES", "FEATURES_LIMIT")}
    return CfgNode({**cfg, "EVAL": kept}).dump(sort_keys=False)


def score(trainer: ClipTrainer, sets: Mapping[str, list], scores: list[Score]) -> Evaluation:
    """Score all images of `sets` with the trainer's model."""
    cfg = trainer.cfg
    store = feature_store(cfg, trainer.image_encoding())
    size = {"DATALOADER.TEST.BATCH_SIZE": cfg.DATALOADER.TEST.BATCH_SIZE}
    model, transform, params = trainer.model, trainer.dm.tfm_test, score_params(cfg)
    with explain_out_of_memory(f"scoring on {trainer.device}", size):
        return score_sets(
            cfg, model, sets, transform, scores, params, trainer.device, trainer.autocast, store
        )


def check_same_model(folder: str, comparable: dict) -> None:
    """Raise InputError if `folder` has results of another model; the scores may be others, and
    facts that earlier versions did not record count as equal."""
    if not Path(folder, "results.json").exists():
        return
    provenance = read_results(folder)["provenance"]
    old, new = flatten(provenance["comparable"]), flatten(plain(comparable))  # as in results.json
    keys = old.keys() | new.keys() if "image_files" in provenance else old.keys() & new.keys()
    for key in sorted(keys):
        differs = old.get(key) != new.get(key)
        if differs and key.partition(".")[0] not in ("scores", "local_features"):
            raise InputError(
                f"{folder} holds results of another model: {key} was {old.get(key)}, is "
                f"{new.get(key)}. Choose another --output-dir, or remove its results.json"
            )


def report(
    cfg: CfgNode, sets: Mapping[str, SetScores], provenance: dict, shifted: Sequence[str] = ()
) -> str:
    """Write results and plots into OUTPUT_DIR, and return the tables and the places of the files.
    `shifted` names the shifted ID sets among `sets`."""
    folder, means, primary = cfg.OUTPUT_DIR, ood_means(cfg), cfg.OOD.FPR95
    inside, spectrum = sets[ID], [sets[name] for name in (ID, *shifted)]
    ood_sets = [ood_set for name, ood_set in sets.items() if name not in (ID, *shifted)]
    outside = {ood_set.name: ood_set.scores for ood_set in ood_sets}
    figures = evaluate_sets(inside.scores, outside, means)
    full = full_spectrum(spectrum, outside, means) if shifted else None
    rejected = {ood_set.name: ood_set.rejected for ood_set in ood_sets}
    decisions = decision_rates(inside.rejected, rejected, means)
    if decisions:
        warn_if_few_classes(provenance["comparable"]["num_classes"])
    plots = Path(folder, "plots")
    for old in (*plots.glob("*.png"), *Path(folder, "scores").glob("*.csv")):
        old.unlink()  # an earlier evaluation may have had other scores or sets
    for name, values in inside.scores.items():
        columns = {set_name: scores[name] for set_name, scores in outside.items()}
        save_figure(histograms(values, columns, name), plots / f"{file_name(name)}_histogram.png")
        curves = {set_name: (values, ood) for set_name, ood in columns.items()}
        save_figure(roc(curves, f"{name}: ROC"), plots / f"{file_name(name)}_roc.png")
    write_results(folder, figures, [*sets.values()], provenance, decisions, means, primary, full)
    sections = [
        format_figures(figures, primary),
        format_rates(decisions),
        format_full_spectrum(full, spectrum, primary) if full else "",
        f"ID accuracy: {100 * inside.accuracy:.2f} %\n"
        f"results.json, results.csv, scores/ and plots/ are in {folder}",
    ]
    return "\n\n".join(filter(None, sections))
