"""CLIPN's "no" text encoder: a second text tower that learns to say what an image does not show.

Wang et al., CLIPN for Zero-Shot OOD Detection: Teaching CLIP to Say No, ICCV 2023. Two variants:

- *learnable*: one of 16 tensors `[context, W]`, which start at zero, or their mean is added to
  the embeddings of a text. Both branches read the same text.
- *handcrafted*: nothing is added; the branches read two wordings of the text (`clip.templates`).
"""

import copy
import logging
import math

import torch
from torch import Tensor, nn

from clip.model import ClipModel, TextTower
from clip.weights import ClipWeights, read_weights
from dassl.utils import InputError, check_availability

logger = logging.getLogger(__name__)

VARIANTS = ("learnable", "handcrafted")
NUM_PROMPTS = 16
CHOICES = NUM_PROMPTS + 1  # for a training text: one of the prompts, or their mean (last)
MAX_LOGIT_SCALE = math.log(100)


class NoTextEncoder(TextTower):
    """The "no" branch of CLIPN beside `model`: a copy of its text tower, in float32.

    State dict: the weights of the text tower under their usual names, `prompt_no`
    `[16, context, W]` (learnable variant), and `logit_scale`, which training clamps.
    """

    def __init__(self, model: ClipModel, variant: str = "learnable"):
        check_availability(variant, VARIANTS, what="CLIPN variant")
        super().__init__(copy.deepcopy(model.text).float())
        self.requires_grad_(True)
        self.variant = variant
        self.prompt_no = None
        if variant == "learnable":
            zeros = torch.zeros(NUM_PROMPTS, *self.positional_embedding.shape)
            self.prompt_no = nn.Parameter(zeros.to(self.positional_embedding.device))
        self.register_buffer("logit_scale", model.logit_scale.detach().clone())

    def forward(self, tokens: Tensor, choices: Tensor | None = None) -> Tensor:
        """Return unnormalised "no" features `[T, D]` of token ids `[T, L]`.

        Args:
            choices: `[T]`, the prompt to add to each text, 16 for the mean; None (inference):
                the mean for all. The handcrafted variant adds none.
        """
        embeddings = self.token_embedding(tokens)  # [T, L, W]
        if self.prompt_no is not None:
            prompts = self.prompt_no[:, : tokens.shape[1]]  # [16, L, W]
            mean = prompts.mean(dim=0)
            added = mean if choices is None else torch.cat([prompts, mean[None]])[choices]
            embeddings = embeddings + added
        # [EOT] has the highest id of the vocabulary.
        return super().forward(embeddings, tokens.argmax(dim=-1))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return the features for inference, like `ClipModel.encode_text`."""
        return self(tokens)

    def load_published(self, weights: ClipWeights, path: str, model: ClipModel) -> None:
        """Load the "no" branch of a file in the format of CLIPN's authors (`epoch_N.pt`), whose
        `weights` have been read from `path`.

        Raises:
            InputError: the file has no "no" branch, one of the other variant or of another
                size, or one trained beside another CLIP than `model`.
        """
        if not weights.negation:
            raise InputError(
                f'{path} holds no "no" text encoder (prompt_no, transformer_no, ...): it is a '
                "plain CLIP. Give it as --backbone to start a training from it"
            )
        variant = variant_of(weights)
        if variant != self.variant:
            raise InputError(
                f"{path} holds CLIPN's {variant} variant, but the config asks for the "
                f"{self.variant} one: set TRAINER.CLIPN.VARIANT {variant}"
            )
        theirs, ours = weights.state["text_projection"], model.text.text_projection
        if theirs.shape == ours.shape and not theirs.to(ours.dtype).equal(ours.detach().cpu()):
            raise InputError(
                f"{path} was trained beside another CLIP than {model.name} (activation "
                f"{model.activation}): their text projections differ. Use the CLIP it was trained "
                "on (for published files ViT-B-16/laion2b_s34b_b88k), or the file as --backbone"
            )
        try:
            self.load_state_dict({**weights.negation, "logit_scale": weights.state["logit_scale"]})
        except RuntimeError as error:
            raise InputError(
                f'{path}: its "no" text encoder does not fit {model.name}. Set --backbone to the '
                f"CLIP it was trained on ({' '.join(str(error).split())[:500]})"
            ) from error


def build_no_encoder(model: ClipModel, variant: str, weights: str = "") -> NoTextEncoder:
    """Build the "no" branch for `model`.

    Its weights come from the file `weights`, else from the model's own file if that is CLIPN's,
    else (a plain CLIP) from the text tower. `variant` "" means the file's.

    Differs from upstream: for a plain CLIP, CLIPN's code leaves the "no" branch random, silently.
    """
    source = weights or (model.name if model.has_negation else "")
    published = read_weights(source) if source else None
    variant = variant or (variant_of(published) if published else VARIANTS[0])
    encoder = NoTextEncoder(model, variant)
    if published:
        encoder.load_published(published, source, model)
    origin = f"from {source}" if source else "starts as a copy of the text tower"
    logger.info('"No" text encoder: %s, %s', variant, origin)
    return encoder


def variant_of(weights: ClipWeights) -> str:
    """Return the variant of a CLIPN file's weights."""
    return VARIANTS["prompt_no" not in weights.negation]


def draw(count: int, choices: int, seed: int, step: int) -> Tensor:
    """Draw `[count]` random integers below `choices`, as a function of seed and step alone.

    A resumed run thus draws the same as an uninterrupted one, and N processes, each of which
    takes its share of the whole batch's draw, the same as one process.

    Differs from upstream: CLIPN's code draws from numpy's global generator, one per process.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    return torch.randint(choices, (count,), generator=generator)
