"""The training engine: the part of Dassl's public API that CLIP trainers use.

Names, signatures, config keys and defaults, output layout and checkpoint keys are those of
Dassl.pytorch 0.6.3, so that trainer files written for upstream (CoOp, CoCoOp, LoCoOp) run on it
unmodified. It is written afresh for current PyTorch.

Left out, because no CLIP trainer uses it: trainers, datasets, samplers and augmentations for domain
adaptation, domain generalisation and semi-supervised learning, backbones, heads, `SimpleNet` and
`dassl.modeling`, distance metrics, and downloads.

Deliberate differences are documented where they occur, under `Differs from upstream:`.
"""

__version__ = "0.6.3"
