"""The words of CLIP's vocabulary nearest to learned context vectors.

CoOp (Zhou et al., IJCV 2022), Section 4.2. As the paper says, few of them mean anything.
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
WORDS = 3  # words a vector


class ContextTrainer(ClipTrainer):
    """A trainer that learns contexts, and writes the words nearest to them to a file.

    Subclasses set `self.learner`, which holds the contexts, and have the setting TEXT_CHUNK.
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
    """Return the nearest words of each vector `[M, W]`, with their Euclidean distances.

    Args:
        embedding: the vocabulary's, `[V, W]`. A row of zeros is a word that the CLIP never saw in
            training: it is left out.
    """
    vectors, vocabulary = context.detach().float(), embedding.detach().float()
    unseen = ~vocabulary.any(dim=-1)  # [V]
    # A CLIP of few words may have a row for padding, whose id 0 is "!" to the tokenizer.
    unseen[0] |= unseen.any()
    far = torch.cdist(vectors, vocabulary).masked_fill(unseen, torch.inf)  # [M, V]
    nearest = far.topk(WORDS, dim=-1, largest=False).indices  # [M, 3]
    # Computed anew, as `cdist`'s matrix product loses digits of short distances.
    distances = (vectors[:, None] - vocabulary[nearest]).norm(dim=-1)
    words = tokenizer().decoder
    return [
        [
            (words[i].removesuffix("</w>"), round(distance, 4))
            for distance, i in zip(*row, strict=True)
        ]
        for row in zip(distances.tolist(), nearest.tolist(), strict=True)
    ]


def write_words(contexts: Mapping[str, Tensor], clip: ClipModel, folder: str | Path) -> None:
    """Write the nearest words of every context `[M, W]` into `folder`, and log the first's."""
    embedding, path = clip.token_embedding.weight, Path(folder, FILE)
    words = {name: nearest_words(context, embedding) for name, context in contexts.items()}
    write_json({"distance": "Euclidean, of embeddings", "contexts": words}, path)
    name, rows = next(iter(words.items()))
    nearest = " ".join(row[0][0] for row in rows)
    logger.info('Nearest words of the context "%s": %s (%s)', name, nearest, path)
