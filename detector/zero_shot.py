"""Make a detector for class names from CLIP, or from a published CLIPN."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

import clip
from clip.prompted import PromptedCLIP, TwoBranchCLIP
from clip.templates import classifier, template_pairs
from dassl.data.transforms import Preprocess
from dassl.utils import InputError, versions
from datasets.classnames import shared_prompts
from detector.spec import DetectorSpec, refuse_fitted
from ood.negatives import find_words
from ood.regions import suggest_top_k
from ood.scoring import get_scores, offered_scores_and, required_inputs, score_parameters

logger = logging.getLogger(__name__)


@torch.inference_mode()
def spec_of_classes(
    model: clip.ClipModel,
    preprocess: Preprocess,
    classnames: Iterable[str],
    template: str,
    score: str = "",
    negatives: str = "",
    outliers: str = "",
) -> DetectorSpec:
    """Return the uncalibrated `DetectorSpec` of these classes, in float32.

    Args:
        score: the score that verdicts use; "" for NegLabel with `negatives`, EOE with `outliers`,
            else ATD for CLIPN and MCM for CLIP. negatives, outliers: as `ood.negatives.find_words`.

    Raises:
        InputError: no class names, or a blank one, or no list (or array, ...) of texts.
    """
    classnames = _listed(classnames)
    refuse_fitted(score)
    prompted = _prompted(model, classnames, template)
    needs = required_inputs([*get_scores("all"), *get_scores(score or "all")])
    words = find_words(model, classnames, needs, negatives, outliers)
    prompted.texts = words.texts
    features, offered = prompted.class_features(), offered_scores_and(score, prompted.provides)
    # MCM, a softmax, is always 1 for a single class.
    default = "ATD" if "no" in features else "MCM" if len(classnames) > 1 else "MaxLogit"
    score = score or score_for_words(negatives, outliers) or default
    facts = {"template": template, "words": words.facts, "versions": versions()}
    return DetectorSpec(
        classnames=classnames,
        features=features,
        scale=prompted.scale,
        clip=describe_clip(model),
        precision="fp32",
        preprocess=preprocess,
        parameters=score_parameters(offered),
        score=score,
        top_k=suggest_top_k(len(classnames)),
        origin={"trainer": "zero-shot", **facts},
    )


def _listed(names: Any) -> list[str]:
    """Return class names, of a list or anything else that has an order, as a list; warn of those
    that give equal prompts, such as `hot_dog` and `Hot dog`."""
    unordered = isinstance(names, str | bytes | set | frozenset | Mapping)
    listed = [] if unordered or not isinstance(names, Iterable) else list(names)
    if not listed or not all(isinstance(name, str) and name.strip() for name in listed):
        raise InputError(
            "class names are a list such as ['cat', 'dog'], of one text for each class in label "
            f"order, got {listed or names!r}"
        )
    if shared := shared_prompts(listed):
        logger.warning(shared)
    return list(map(str, listed))  # numpy's texts are of a class of their own


def texts(**settings: Any) -> list[str]:
    """Return the values of settings, texts or paths, as texts; None is ""."""
    for name, value in settings.items():
        if not isinstance(value, str | os.PathLike | None):
            raise InputError(
                f"{name} is one text or path, got {value!r}. Several templates are one text, with "
                "| between them; words and names of outliers are lines of files"
            )
    return [os.fspath(value or "") for value in settings.values()]


def score_for_words(negatives: str, outliers: str) -> str:
    """Return the score that uses the given words, or "" without words."""
    return "NegLabel" if negatives else "EOE" if outliers else ""


def _prompted(model: clip.ClipModel, classnames: Sequence[str], template: str) -> PromptedCLIP:
    """Return the model with prompts for the classes; for CLIPN also those of the "no" branch."""
    pairs = template_pairs(template)
    if model.has_negation:
        encoder = clip.build_no_encoder(model, "").to(model.logit_scale.device)
        return TwoBranchCLIP(model, encoder, classnames, pairs)
    standard = [plain for plain, _ in pairs]
    return PromptedCLIP(model, lambda: classifier(model, classnames, standard))


def describe_clip(model: clip.ClipModel) -> dict[str, str]:
    """Return the facts of a CLIP that decide its features; the path of a file becomes absolute."""
    name = os.path.abspath(model.name) if os.path.exists(model.name) else model.name
    return {"name": name, "weights_hash": model.weights_hash, "activation": model.activation}
