"""Small helpers for models; upstream's module of this name holds checkpoints, too."""

from collections.abc import Callable
from functools import partial  # noqa: F401

import torch
from torch import nn

# Trainers written for upstream import these, and `partial`, from here.
from .checkpoint import (  # noqa: F401
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
)
from .names import check_availability


def count_num_param(model: nn.Module | None = None, params=None) -> int:
    """Count the elements of `params` (tensors, or groups with "params") or of `model`."""
    if params is None:
        if model is None:
            raise ValueError("count_num_param needs a model or params")
        params = model.parameters()
    tensors = (t for p in params for t in (p["params"] if isinstance(p, dict) else [p]))
    return sum(tensor.numel() for tensor in tensors)


def open_all_layers(model: nn.Module) -> None:
    """Set `model` to train mode, with a gradient for every parameter."""
    model.train()
    model.requires_grad_(True)


def open_specified_layers(model: nn.Module, open_layers: str | list[str]) -> None:
    """Train the named children only; all others go to eval mode without gradients."""
    model = model.module if isinstance(model, nn.DataParallel) else model
    children = dict(model.named_children())
    wanted = [open_layers] if isinstance(open_layers, str) else open_layers
    for name in wanted:
        check_availability(name, children, what="layer")
    for name, child in children.items():
        child.train(name in wanted)
        child.requires_grad_(name in wanted)


_INITIALISERS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "normal": lambda weight, gain: nn.init.normal_(weight, 0.0, gain),
    "xavier": nn.init.xavier_normal_,
    "kaiming": lambda weight, _: nn.init.kaiming_normal_(weight, mode="fan_in"),
    "orthogonal": nn.init.orthogonal_,
}


def init_network_weights(model: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Initialise convolutions and linear layers by `init_type`, norm layers to weight 1, bias 0."""
    check_availability(init_type, _INITIALISERS, what="init_type")
    for module in model.modules():
        class_name = type(module).__name__
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if "BatchNorm" in class_name or "InstanceNorm" in class_name:
            if weight is not None:
                nn.init.ones_(weight)
        elif ("Conv" in class_name or "Linear" in class_name) and isinstance(weight, torch.Tensor):
            _INITIALISERS[init_type](weight, gain)
        else:
            continue
        if bias is not None:
            nn.init.zeros_(bias)
