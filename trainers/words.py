"""What learned context vectors are like: the nearest words of CLIP's vocabulary.

CoOp (Zhou et al., IJCV 2022), Section 4.2. Few of them mean anything: the paper says so too.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from clip import ClipModel, weights_hash
from clip.tokenizer import tokenizer
from dassl.distributed import is_main
from dassl.utils.files import write_json
from trainers.base import ClipTrainer

logger = logging.getLogger(__name__)

FILE = "context_words.json"
WORDS = 3  # of each vector


class ContextTrainer(ClipTrainer):
    """A trainer that learns contexts, and writes down which words they are like.

    It sets `self.learner`, which holds them, and its settings have TEXT_CHUNK.
    """

    INCIDENTAL = ("TEXT_CHUNK",)

    def contexts(self) -> dict[str, Tensor]:
        """Return the learned contexts `[M, W]` by name."""
        raise NotImplementedError

    def after_train(self) -> None:
        super().after_train()
        if is_main():
            write_words(self.contexts(), self.model.clip, self.output_dir)

    def memory_settings(self) -> dict[str, object]:
        return {f"TRAINER.{self.CONFIG_KEY}.TEXT_CHUNK": self.settings.TEXT_CHUNK}

    def provenance(self) -> dict[str, object]:
        file = self._loaded_from or self.cfg.MODEL.INIT_WEIGHTS or None
        context = {"file": file, "hash": weights_hash(self.learner.state_dict())}
        return super().provenance() | {"context": context}


def nearest_words(context: Tensor, embedding: Tensor) -> list[list[tuple[str, float]]]:
    """Return for each of the vectors `[M, W]` its nearest words, with their Euclidean distance.

    Args:
        embedding: of the whole vocabulary, `[V, W]`; a row of zeros is of a word that the CLIP has
            never seen, and near to none.
    """
    vectors, known = context.detach().float(), embedding.detach().float()
    far = torch.cdist(vectors, known).masked_fill(~known.any(dim=-1), torch.inf)  # [M, V]
    found = far.topk(WORDS, dim=-1, largest=False).indices  # [M, 3]
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
