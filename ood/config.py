"""The config keys of an evaluation, added to Dassl's."""

from __future__ import annotations

from yacs.config import CfgNode

EVAL = {
    # all: those that the model can give and that are usual; or names, separated by commas
    "SCORES": "all",
    # Of MCM and GL-MCM, on cosine similarities
    "TEMPERATURE": 1.0,
    # Weight of the regions in GL-MCM
    "LOCAL_WEIGHT": 1.0,
    # Share of ID images that the saved detector keeps
    "TPR": 0.95,
    # Folder of image features that later evaluations read; none or empty: none are kept
    "FEATURES": "output/features",
    # GiB that this folder may come to hold
    "FEATURES_LIMIT": 20.0,
    # True: also the features of the regions, for GL-MCM, rounded to float16 (ImageNet and its
    # OOD sets: 16 GiB)
    "FEATURES_LOCAL": False,
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
