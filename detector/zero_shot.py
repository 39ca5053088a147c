"""CLIP, or a published CLIPN, with classes by name as a detector."""

import os
from collections.abc import Sequence

import torch

import clip
from clip.prompted import PromptedCLIP, TwoBranchCLIP
from clip.templates import classifier, template_pairs
from dassl.data.transforms import Preprocess
from dassl.utils.provenance import versions
from detector.spec import DetectorSpec, refuse_fitted
from ood.negatives import find_words
from ood.regions import suggest_top_k
from ood.scoring import get_scores, offered_scores_and, required_inputs, score_parameters


@torch.inference_mode()
def spec_of_classes(
    model: clip.ClipModel,
    preprocess: Preprocess,
    classnames: Sequence[str],
    template: str,
    score: str = "",
    negatives: str = "",
    outliers: str = "",
) -> DetectorSpec:
    """Return what a detector of these classes needs, in float32, not calibrated yet.

    Args:
        score: the one in use; "": that of what is given, NegLabel for `negatives`, EOE for
            `outliers`, else CLIPN's or MCM. negatives, outliers: as `ood.negatives.find_words`.
    """
    refuse_fitted(score)
    described = _prompted(model, classnames, template)
    needs = required_inputs([*get_scores("all"), *get_scores(score or "all")])
    words = find_words(model, classnames, needs, negatives, outliers)
    described.texts = words.texts
    features, offered = described.class_features(), offered_scores_and(score, described.provides)
    # A softmax over one class is always 1.
    usual = "ATD" if "no" in features else "MCM" if len(classnames) > 1 else "MaxLogit"
    score = score or usual_score(negatives, outliers) or usual
    about = {"template": template, "words": words.facts, "versions": versions()}
    return DetectorSpec(
        classnames=list(classnames),
        features=features,
        scale=described.scale,
        clip=describe_clip(model),
        precision="fp32",
        preprocess=preprocess,
        parameters=score_parameters(offered),
        score=score,
        top_k=suggest_top_k(len(classnames)),
        origin={"trainer": "zero-shot", **about},
    )


def usual_score(negatives: str, outliers: str) -> str:
    """Return the score that words are given for; "" where none are."""
    return "NegLabel" if negatives else "EOE" if outliers else ""


def _prompted(model: clip.ClipModel, classnames: Sequence[str], template: str) -> PromptedCLIP:
    """Return the model with prompts of the classes, and of a CLIPN with the "no" branch's."""
    pairs = template_pairs(template)
    if model.has_negation:
        encoder = clip.build_no_encoder(model, "").to(model.logit_scale.device)
        return TwoBranchCLIP(model, encoder, classnames, pairs)
    standard = [plain for plain, _ in pairs]
    return PromptedCLIP(model, lambda: classifier(model, classnames, standard))


def describe_clip(model: clip.ClipModel) -> dict[str, str]:
    """Return what must be the same for features to be; a file's path becomes absolute."""
    name = os.path.abspath(model.name) if os.path.exists(model.name) else model.name
    return {"name": name, "weights_hash": model.weights_hash, "activation": model.activation}
