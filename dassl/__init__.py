"""The training engine: the part of Dassl's public API that CLIP trainers use.

Names, signatures, config keys and defaults, output layout and checkpoint keys are those of
Dassl.pytorch 0.6.3, so that trainer files written for upstream (CoOp, CoCoOp, LoCoOp) run on it
unmodified. It is written afresh for current PyTorch.

Left out, because no CLIP trainer uses it: trainers, datasets and samplers for domain adaptation,
domain generalisation and semi-supervised learning (`TrainerXU` among them), backbones, heads,
`SimpleNet` and `dassl.modeling`, distance metrics, downloads, and the augmentations made for
them (`random_translation`, `cutout`, `randaugment2`, ...).

What differs from upstream on purpose is said where it happens, under `Differs from upstream:`.
"""

__version__ = "0.6.3"
