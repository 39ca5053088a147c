"""Optimisers by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from torch import nn
from yacs.config import CfgNode

from dassl.utils import InputError, check_availability

logger = logging.getLogger(__name__)


def _adam(kind: type[torch.optim.Optimizer], **extra) -> Callable:
    def make(params, cfg: CfgNode) -> torch.optim.Optimizer:
        betas = (cfg.ADAM_BETA1, cfg.ADAM_BETA2)
        return kind(params, lr=cfg.LR, weight_decay=cfg.WEIGHT_DECAY, betas=betas, **extra)

    return make


def _sgd(params, cfg: CfgNode) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        params,
        lr=cfg.LR,
        momentum=cfg.MOMENTUM,
        weight_decay=cfg.WEIGHT_DECAY,
        dampening=cfg.SGD_DAMPNING,
        nesterov=cfg.SGD_NESTEROV,
    )


def _rmsprop(params, cfg: CfgNode) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(
        params,
        lr=cfg.LR,
        momentum=cfg.MOMENTUM,
        weight_decay=cfg.WEIGHT_DECAY,
        alpha=cfg.RMSPROP_ALPHA,
    )


OPTIMIZERS: dict[str, Callable] = {
    "adam": _adam(torch.optim.Adam),
    "amsgrad": _adam(torch.optim.Adam, amsgrad=True),
    "sgd": _sgd,
    "rmsprop": _rmsprop,
    "radam": _adam(torch.optim.RAdam),
    "adamw": _adam(torch.optim.AdamW),
}


def build_optimizer(
    model: nn.Module | Iterable, optim_cfg: CfgNode, param_groups: Iterable[dict] | None = None
) -> torch.optim.Optimizer:
    """Build the optimiser OPTIM.NAME over `param_groups` if given, else over `model`.

    `model` is a module (all of its parameters, frozen ones too, so that the numbering in a
    checkpoint is upstream's; without a gradient they are not changed) or an iterable of
    parameters. With STAGED_LR the children in NEW_LAYERS learn at LR, all else at
    LR * BASE_LR_MULT.

    Differs from upstream: "radam" is torch's; STAGED_LR keeps parameters that belong to no child.
    """
    check_availability(optim_cfg.NAME, OPTIMIZERS, what="OPTIM.NAME")
    if param_groups is not None:
        if optim_cfg.STAGED_LR:
            logger.warning("OPTIM.STAGED_LR is ignored, since param_groups were given.")
        params = param_groups
    elif optim_cfg.STAGED_LR:
        params = _staged(model, optim_cfg)
    else:
        params = model.parameters() if isinstance(model, nn.Module) else model
    return OPTIMIZERS[optim_cfg.NAME](params, optim_cfg)


def _staged(model: nn.Module, cfg: CfgNode) -> list[dict]:
    if not isinstance(model, nn.Module):
        raise InputError("OPTIM.STAGED_LR needs a module, not a list of parameters.")
    model = model.module if isinstance(model, nn.DataParallel) else model
    new_layers = [cfg.NEW_LAYERS] if isinstance(cfg.NEW_LAYERS, str) else list(cfg.NEW_LAYERS)
    children = [name for name, _ in model.named_children()]
    for name in new_layers:
        check_availability(name, children, what="layer in OPTIM.NEW_LAYERS")
    if not new_layers:
        logger.warning("OPTIM.NEW_LAYERS is empty: everything learns at LR * BASE_LR_MULT.")
    base, new = [], []
    for name, parameter in model.named_parameters():
        (new if name.split(".")[0] in new_layers else base).append(parameter)
    return [{"params": base, "lr": cfg.LR * cfg.BASE_LR_MULT}, {"params": new}]
