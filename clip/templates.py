"""Prompt templates by name, their negations, and the classifier averaged over templates."""

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor

from clip.model import ClipModel
from clip.negation import NoTextEncoder
from clip.tokenizer import cut_to_longest, tokenize_prompts
from dassl.utils import InputError, progress_bar

BATCH = 512
TEXTS = 1 << 17  # texts whose features are held at once: 256 MB for ViT-B
IMAGENET80 = tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
# CLIPN's file omits these of CLIP's 80 ...
_NOT_IN_CLIPN = re.compile(
    "hard to see|embroidered|plastic|origami|toy|cartoon|plushie|^art of the|^itap of my"
)
# ... and departs from its own rule of negation in these.
_CLIPN_NEGATIONS = {
    "a {} in a video game.": "no a {} in a video game.",
    "the {} in a video game.": "the {} not in a video game.",
}
_WITH_A_COMMA = ("a photo of a {}.", "a photo with a {}.")

Pair = tuple[str, str]


def template_pairs(setting: str) -> list[Pair]:
    """Return the (standard, "no") templates that a TEMPLATE setting means.

    "imagenet80": the 80 of CLIP's paper. "published": CLIPN's 128, with the quote characters
    that its code reads as part of each line. Otherwise one template, or several separated by "|".

    Raises:
        InputError: a template without a place for the class name.
    """
    if setting == "imagenet80":
        return [(template, negated(template)) for template in IMAGENET80]
    if setting == "published":
        return published_pairs()
    templates = [part.strip() for part in setting.split("|")]
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong:
        raise InputError(
            f"TEMPLATE {wrong[0]!r} must hold {{}} once, where the class name goes; "
            "allowed are imagenet80, published, one template, or several separated by |"
        )
    return [(template, negated(template)) for template in templates]


def negated(template: str) -> str:
    """Return `template` with its class negated, in CLIPN's wording.

    >>> negated("a photo of a {}."), negated("a photo with the nice {}.")
    ('a photo of no {}.', 'a photo without the nice {}.')
    """
    for pattern, negation in (
        (r" with ", " without "),
        (r" appearing ", " not appearing "),
        (r" of (?:a|the|my|one) ", " of no "),
        (r" of ", " of no "),
        (r"^(?:a|the) ", "no "),
    ):
        result, count = re.subn(pattern, negation, template, count=1)
        if count:
            return result
    return f"no {template}"


def published_pairs() -> list[Pair]:
    """Return CLIPN's 128 template pairs exactly as its code reads them from its file.

    They are 64 of CLIP's 80, then the same with "with" for "of". The file writes each as a Python
    string, two of them with a comma, and the code strips neither: quotes and commas are tokenised,
    in training (handcrafted) and in evaluation. Published checkpoints need this preset to give
    their published figures; elsewhere the quotes only blur the text.
    """
    templates = [template for template in IMAGENET80 if not _NOT_IN_CLIPN.search(template)]
    templates += [
        template.replace(" of ", " with ").replace(" in a video", " appearing in a video")
        for template in templates
    ]
    pairs = []
    for yes in templates:
        end = "'," if yes in _WITH_A_COMMA else "'"
        pairs.append((f"'{yes}{end}", f"'{_CLIPN_NEGATIONS.get(yes) or negated(yes)}{end}"))
    return pairs


def fill(template: str, text: str) -> str:
    """Put a class name or caption into a template; braces other than its {} stay."""
    return template.replace("{}", text)


def classifier(
    tower: ClipModel | NoTextEncoder,
    names: Sequence[str],
    templates: Sequence[str],
    title: str = "classes",
) -> Tensor:
    """Return the weights `[C, D]` of a zero-shot classifier, normalised, float32.

    They are the sum over templates of the normalised text features (Radford et al., 2021, Section
    3.1.4). Each distinct text is encoded once, in batches of similar length, which need little
    padding. At most `TEXTS` features (or one template's) are held at once.

    Args:
        names: C class names. templates: with {} for the name.

    Raises:
        InputError: a text is longer than the context length of the tower.
    """
    names = [name.replace("_", " ") for name in names]
    step, total = max(1, TEXTS // len(names)), 0
    for start in range(0, len(templates), step):
        group = templates[start : start + step]
        name_of = {fill(template, name): name for template in group for name in names}
        tokens = tokenize_prompts(list(name_of), list(name_of.values()), tower.context_length)
        features = _encode_all(tower, tokens, title)  # [distinct, D]
        row_of = {text: row for row, text in enumerate(name_of)}
        for template in group:
            total = total + features[[row_of[fill(template, name)] for name in names]]  # [C, D]
    return F.normalize(total, dim=-1)


@torch.no_grad()
def _encode_all(tower: ClipModel | NoTextEncoder, tokens: Tensor, title: str) -> Tensor:
    """Return normalised features `[T, D]` of `tokens`, encoded in the order of their length."""
    device = tower.logit_scale.device
    order = tokens.argmax(dim=-1).argsort(stable=True)  # by the position of [EOT]
    batches = progress_bar(order.split(BATCH), f"encoding {title}", "batch", delay=2, leave=False)
    features = [
        F.normalize(tower.encode_text(cut_to_longest(tokens[batch]).to(device)).float(), dim=-1)
        for batch in batches
    ]
    return torch.cat(features)[order.argsort().to(device)]
