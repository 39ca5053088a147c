"""Optimisers by name."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from yacs.config import CfgNode

from dassl.utils import check_availability

OPTIMIZERS: dict[str, Callable] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def build_optimizer(
    model: nn.Module | Iterable, optim_cfg: CfgNode, param_groups: Iterable[dict] | None = None
) -> torch.optim.Optimizer:
    """Build the optimiser OPTIM.NAME over `param_groups` if given, else over `model`.

    `model` is an iterable of parameters, or a module. All of a module's parameters are taken, so
    that a checkpoint numbers them as upstream's; frozen ones get no gradient and do not change.
    """
    check_availability(optim_cfg.NAME, OPTIMIZERS, what="OPTIM.NAME")
    params = model.parameters() if isinstance(model, nn.Module) else model
    if optim_cfg.NAME == "sgd":
        options = {
            "momentum": optim_cfg.MOMENTUM,
            "dampening": optim_cfg.SGD_DAMPNING,
            "nesterov": optim_cfg.SGD_NESTEROV,
        }
    else:
        options = {"betas": (optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2)}
    return OPTIMIZERS[optim_cfg.NAME](
        params if param_groups is None else param_groups,
        lr=optim_cfg.LR,
        weight_decay=optim_cfg.WEIGHT_DECAY,
        **options,
    )
