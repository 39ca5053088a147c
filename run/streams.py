"""Test-time methods in an evaluation: checks of their settings, and their runs over streams."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.data.datasets import Datum
from dassl.utils import InputError, check_availability
from dassl.utils.names import split_commas
from ood.evaluation import Evaluation, Sets
from ood.features import FeatureStore, feature_store, keeps_nothing
from ood.negatives import NEGLABEL
from ood.registry import Score
from ood.stream_methods import FROM_WORDS, INPUTS, STREAMS
from ood.streams import StreamImages, mixture, mixture_sizes, noise_images, run_stream
from ood.words import read_lists
from results.streams import FILES, Stream, format_streams, with_averages, write_streams
from run.negatives import lists_folder, text_model
from trainers.base import ClipTrainer

logger = logging.getLogger(__name__)


def base_score(cfg: CfgNode) -> str:
    """Return the single-image score that streams start from and are compared with."""
    return NEGLABEL.score if cfg.EVAL.NEGATIVES else "MCM"


def _methods(cfg: CfgNode) -> list[str]:
    names = split_commas(cfg.EVAL.STREAMS) if cfg.EVAL.STREAMS else []
    for name in names:
        check_availability(name, STREAMS, "test-time method")
        _check_needs(name, bool(cfg.EVAL.NEGATIVES))
    if len(set(names)) < len(names):
        raise InputError(f"--streams {cfg.EVAL.STREAMS}: name each method once")
    return names


def _check_needs(name: str, has_words: bool) -> None:
    """Raise InputError if a method needs what is no input, or words, which there are not."""
    needs = STREAMS[name].needs
    if unknown := [need for need in needs if need not in INPUTS]:
        raise InputError(
            f"--streams {name}: {name}.__init__ asks for {', '.join(unknown)} without a default, "
            f"but the inputs of a test-time method are {', '.join(INPUTS)}: name one of these, or "
            "give a setting its default"
        )
    if not has_words and (from_words := [need for need in needs if need in FROM_WORDS]):
        raise InputError(
            f"--streams {name} needs words that are not classes (for its {', '.join(from_words)}): "
            "add --negatives with a folder of word lists, or with wordnet"
        )


def _ratios(cfg: CfgNode) -> list[float | None]:
    if not cfg.EVAL.STREAM_RATIO:
        return [None]
    try:
        ratios = [float(text) for text in split_commas(cfg.EVAL.STREAM_RATIO)]
    except ValueError:
        ratios = [0.0]
    if not all(0 < ratio < 1 for ratio in ratios) or len(set(ratios)) < len(ratios):
        raise InputError(
            f"--stream-ratio {cfg.EVAL.STREAM_RATIO}: give shares of OOD images between 0 and 1, "
            "each once, as in 0.01,0.1,0.5"
        )
    return ratios


def check_streams(cfg: CfgNode) -> None:
    """Raise InputError for unknown methods, impossible values, and streams without features."""
    if not _methods(cfg):
        if cfg.EVAL.STREAM_RATIO:
            raise InputError("--stream-ratio has no effect without a method: add --streams")
        return
    _ratios(cfg)
    if cfg.EVAL.STREAM_BATCH < 0 or not 0 <= cfg.EVAL.STREAM_SEED < 2**32:
        raise InputError(
            f"--stream-batch {cfg.EVAL.STREAM_BATCH} --stream-seed {cfg.EVAL.STREAM_SEED}: a batch "
            "is a number of images, 0 for the method's own; a seed lies between 0 and 2^32 - 1"
        )
    if keeps_nothing(cfg):
        raise InputError(
            "--streams reads kept image features, but --features is none: name a folder"
        )


def check_stream_sets(trainer: ClipTrainer, sets: Sets, scores: list[Score]) -> None:
    """Raise InputError for a set (ID, then OOD) too small for a stream, or a score without kept
    features."""
    if not _methods(trainer.cfg):
        return
    inside, *outside = map(len, sets.values())
    for ratio in _ratios(trainer.cfg):
        for count in outside:
            mixture_sizes(inside, count, ratio)
    for score in scores:
        if trainer.model.FROM_IMAGES.intersection(score.needs):
            raise InputError(
                f"--streams reads kept image features, but {score.name} needs the images "
                "themselves and keeps no features: evaluate it without --streams"
            )


def evaluate_streams(
    trainer: ClipTrainer, sets: Sets, evaluation: Evaluation, provenance: Mapping[str, object]
) -> None:
    """Run the methods in EVAL.STREAMS over their streams; write and log the results.

    The results of the single-image scores are already written, which an InputError says.
    """
    cfg = trainer.cfg
    for name in FILES:  # of an earlier evaluation
        Path(cfg.OUTPUT_DIR, name).unlink(missing_ok=True)
    if not _methods(cfg):
        return
    base, store = base_score(cfg), feature_store(cfg, trainer.image_encoding())
    settings = {"base": base, "seed": cfg.EVAL.STREAM_SEED}
    settings["methods"] = {name: STREAMS[name].settings for name in _methods(cfg)}
    try:
        images = {
            name: StreamImages(_features(store, name, items), evaluation.sets[name].scores[base])
            for name, items in sets.items()
        }
        streams = with_averages(list(_streams(trainer, images, evaluation.classes)))
    except InputError as error:
        raise InputError(
            f"No streams: {error}. All else of this evaluation is in {cfg.OUTPUT_DIR}"
        ) from error
    write_streams(cfg.OUTPUT_DIR, streams, settings, provenance)
    table = format_streams(streams, settings)
    logger.info("%s\n\n%s are in %s", table, " and ".join(FILES), cfg.OUTPUT_DIR)


def _features(store: FeatureStore, name: str, items: Sequence[Datum]) -> np.ndarray:
    kept = store.read(name, items, False)
    if kept is None:
        raise InputError(
            f"the image features of {name} could not be kept in {store.folder}; the log above has "
            "the reason. Mend it, or name another folder with --features"
        )
    return kept.features


def _streams(
    trainer: ClipTrainer, images: Mapping[str, StreamImages], classes: Mapping[str, Tensor]
) -> Iterator[Stream]:
    cfg = trainer.cfg
    inside, *outside = images
    inputs = _inputs(trainer, classes)
    for ratio in _ratios(cfg):
        for name in _methods(cfg):
            method_class = STREAMS[name]
            batch = cfg.EVAL.STREAM_BATCH or method_class.batch
            for ood_set in outside:
                method = method_class(**{need: inputs[need]() for need in method_class.needs})
                pair = images[inside], images[ood_set]
                order = mixture(*(len(x.base) for x in pair), ratio, cfg.EVAL.STREAM_SEED)
                figures = run_stream(method, *pair, order, batch, trainer.device)
                yield Stream(name, ood_set, ratio, batch, *figures)


def _inputs(trainer: ClipTrainer, classes: Mapping[str, Tensor]) -> dict[str, Callable[[], Tensor]]:
    """Return functions for the tensors that methods may need; slow ones compute only once."""

    @functools.cache
    @torch.inference_mode()
    def words() -> Tensor:
        candidates = NEGLABEL.candidates(read_lists(lists_folder(trainer.cfg)))
        with text_model(trainer) as model:
            encoded = NEGLABEL.encoded(model, candidates)
            batches = [torch.from_numpy(np.array(features)) for _, features in encoded]
        return torch.cat(batches).to(trainer.device)  # [A, D]

    @functools.cache
    @torch.inference_mode()
    def noise() -> Tensor:
        images = noise_images(trainer.model.clip.image_size).to(trainer.device)
        with trainer.autocast():
            return trainer.model.image_features(images, local=False)[0]  # [15, D]

    return {
        "classes": lambda: classes[NEGLABEL.name],
        "negatives": lambda: classes[f"{NEGLABEL.name}_negatives"],
        "scale": lambda: trainer.model.scale.detach().float(),
        "words": words,
        "noise": noise,
    }
