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

logger = logging.getLogger(__name__)

FILE = "context_words.json"
WORDS = 3  # of each vector


def nearest_words(context: Tensor, embedding: Tensor) -> list[list[tuple[str, float]]]:
    """Return for each of the vectors `[M, W]` its nearest words, with their Euclidean distance.

    Args:
        embedding: of the whole vocabulary, `[V, W]`.
    """
    # As a matrix product, short distances lose their digits.
    exactly = "donot_use_mm_for_euclid_dist"
    vectors, known = context.detach().float(), embedding.detach().float()
    distances = torch.cdist(vectors, known, compute_mode=exactly)  # [M, V]
    nearest = distances.topk(WORDS, dim=-1, largest=False)
    words = tokenizer().decoder
    return [
        [
            (words[i].removesuffix("</w>"), round(distance, 4))
            for distance, i in zip(*row, strict=True)
        ]
        for row in zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True)
    ]


def write_words(contexts: Mapping[str, Tensor], clip: ClipModel, folder: str | Path) -> None:
    """Write the nearest words of every context `[M, W]`, if any, into `folder`; log the first's."""
    if not contexts or not is_main():
        return
    embedding = clip.token_embedding.weight
    found = {name: nearest_words(context, embedding) for name, context in contexts.items()}
    write_json({"distance": "Euclidean, of embeddings", "contexts": found}, Path(folder, FILE))
    name, rows = next(iter(found.items()))
    first = " ".join(row[0][0] for row in rows)
    logger.info('Nearest words of the context "%s": %s (%s)', name, first, Path(folder, FILE))
