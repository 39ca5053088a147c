"""The training engine: the part of Dassl's public API that most CLIP trainers use.

Names, signatures, config keys, output layout and checkpoint keys are those of Dassl.pytorch 0.6.3,
and so are the defaults, unless config/defaults.py says otherwise. Trainer files written for
upstream (CoOp, CoCoOp, LoCoOp) run on it unmodified; docs/coming-from.md lists the projects that
were run, and what stops the others. It is written afresh for current PyTorch.

Left out: trainers, datasets and samplers for domain adaptation, domain generalisation and
semi-supervised learning; backbones, heads, `SimpleNet` and `dassl.modeling`; distance metrics,
results by class, TensorBoard and downloads. And, although some CLIP trainers use them: RandAugment
and other augmentations, several augmentations of an image (K_TRANSFORMS), the optimisers AMSGrad,
RMSprop and RAdam, and learning rates by layer.

Deliberate differences are documented where they occur, under `Differs from upstream:`.
"""

__version__ = "0.6.3"
