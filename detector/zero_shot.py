"""CLIP, or a published CLIPN, with classes by name as a detector."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

import clip
from clip.prompted import PromptedCLIP, TwoBranchCLIP
from clip.templates import classifier, template_pairs
from dassl.data.transforms import Preprocess
from dassl.utils.provenance import versions
from detector.spec import DetectorSpec
from ood.regions import suggest_top_k
from ood.scoring import offered_scores, score_parameters


@torch.inference_mode()
def spec_of_classes(
    model: clip.ClipModel, preprocess: Preprocess, classnames: Sequence[str], template: str
) -> DetectorSpec:
    """Return what a detector of these classes needs, in float32, not calibrated yet."""
    device, pairs = next(model.parameters()).device, template_pairs(template)
    if model.has_negation:
        encoder = clip.build_no_encoder(model, "").to(device)
        described = TwoBranchCLIP(model, encoder, classnames, pairs)
    else:
        standard = [plain for plain, _ in pairs]
        described = PromptedCLIP(model, lambda: classifier(model, classnames, standard, device))
    features = described.class_features()
    # A softmax over one class is always 1.
    usual = "ATD" if "no" in features else "MCM" if len(classnames) > 1 else "MaxLogit"
    return DetectorSpec(
        classnames=list(classnames),
        features=features,
        scale=described.scale,
        clip=describe_clip(model),
        precision="fp32",
        preprocess=preprocess,
        parameters=score_parameters(offered_scores("all", described.provides)),
        score=usual,
        top_k=suggest_top_k(len(classnames)),
        origin={"trainer": "zero-shot", "template": template, "versions": versions()},
    )


def describe_clip(model: clip.ClipModel) -> dict[str, str]:
    """Return what must be the same for features to be; a file's path becomes absolute."""
    name = os.path.abspath(model.name) if os.path.exists(model.name) else model.name
    return {"name": name, "weights_hash": model.weights_hash, "activation": model.activation}
