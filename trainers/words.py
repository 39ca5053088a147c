"""What learned context vectors are like: the nearest words of CLIP's vocabulary.

CoOp (Zhou et al., IJCV 2022), Section 4.2. Few of them mean anything: the paper says so too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from clip import ClipModel
from clip.tokenizer import tokenizer
from dassl.distributed import is_main
from dassl.utils.files import write_json
from trainers.base import ClipTrainer

logger = logging.getLogger(__name__)

FILE = "context_words.json"
WORDS = 3  # of each vector


class ContextTrainer(ClipTrainer):
    """A trainer that learns contexts, and writes down which words they are like."""

    def contexts(self) -> dict[str, Tensor]:
        """Return the learned contexts `[M, W]` by name."""
        raise NotImplementedError

    def after_train(self) -> None:
        super().after_train()
        if is_main():
            write_words(self.contexts(), self.model.clip, self.output_dir)


def nearest_words(context: Tensor, embedding: Tensor) -> list[list[tuple[str, float]]]:
    """Return for each of the vectors `[M, W]` its nearest words, with their Euclidean distance.

    Args:
        embedding: of the whole vocabulary, `[V, W]`; 0 for words that the CLIP does not know.
    """
    vectors, known = context.detach().float(), embedding.detach().float()
    unknown = known.abs().amax(dim=-1) == 0  # [V]
    distances = torch.cdist(vectors, known).masked_fill(unknown, torch.inf)
    found = distances.topk(WORDS, dim=-1, largest=False).indices  # [M, 3]
    # Again: made by a matrix product, short distances lose their digits.
    distances = (vectors[:, None] - known[found]).norm(dim=-1)
    words = tokenizer().decoder
    return [
        [
            (words[i].removesuffix("</w>"), round(distance, 4))
            for distance, i in zip(*row, strict=True)
        ]
        for row in zip(distances.tolist(), found.tolist(), strict=True)
    ]


def write_words(contexts: Mapping[str, Tensor], clip: ClipModel, folder: str | Path) -> None:
    """Write the nearest words of every context `[M, W]` into `folder`, and log the first's."""
    embedding = clip.token_embedding.weight
    found = {name: nearest_words(context, embedding) for name, context in contexts.items()}
    write_json({"distance": "Euclidean, of embeddings", "contexts": found}, Path(folder, FILE))
    name, rows = next(iter(found.items()))
    first = " ".join(row[0][0] for row in rows)
    logger.info('Nearest words of the context "%s": %s (%s)', name, first, Path(folder, FILE))
