"""The config keys of an evaluation, added to Dassl's; eval_ood.py has a flag for each."""

from __future__ import annotations

from yacs.config import CfgNode

from ood.scores import SCORES

EVAL = {
    "SCORES": "all",
    "TEMPERATURE": 1.0,
    "LOCAL_WEIGHT": 1.0,
    "TPR": 0.95,
    "FEATURES": "output/features",
    "FEATURES_LIMIT": 20.0,
    "FEATURES_LOCAL": False,
}
HELP = {
    "SCORES": "all that are usual and the model can give, or some, separated by commas: "
    f"{', '.join(SCORES)}",
    "TEMPERATURE": "of MCM and GL-MCM, on cosine similarities",
    "LOCAL_WEIGHT": "weight of the regions in GL-MCM",
    "TPR": "share of ID images that the saved detector keeps",
    "FEATURES": "folder of image features that later evaluations read; none to keep none",
    "FEATURES_LIMIT": "GiB that this folder may come to hold",
    "FEATURES_LOCAL": "keep also the features of the regions, for GL-MCM, rounded to float16 "
    "(ImageNet and its OOD sets: 16 GiB)",
}


def add_eval_cfg(cfg: CfgNode) -> None:
    """Add the node EVAL to a Dassl config, in place."""
    cfg.EVAL = CfgNode(EVAL)


def score_names(cfg: CfgNode) -> str | list[str]:
    """Return the names of the scores to compute, or "all"."""
    given = cfg.EVAL.SCORES
    return "all" if given == "all" else [name.strip() for name in given.split(",")]


def score_params(cfg: CfgNode) -> dict[str, float]:
    """Return the parameters of scores, by the names that the scores' functions have for them."""
    return {"temperature": cfg.EVAL.TEMPERATURE, "local_weight": cfg.EVAL.LOCAL_WEIGHT}
