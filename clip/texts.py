"""Text features of very many short texts, whose common beginning is encoded once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clip.model import ClipModel
from clip.prefix import Packing, encode_packed
from clip.tokenizer import cut_to_longest, tokenize


@torch.no_grad()
def encode_texts(model: ClipModel, texts: Sequence[str]) -> Tensor:
    """Return unnormalised features `[T, D]` of texts, float32, on the model's device.

    Only a beginning that all texts share is encoded once: texts of one template share all that
    stands before the word. The embeddings of all `texts` are held in memory, so pass some
    thousands at a time. A text longer than the context length is cut.
    """
    device = model.logit_scale.device
    tokens = cut_to_longest(tokenize(list(texts), model.context_length, truncate=True))  # [T, L]
    eot = tokens.argmax(dim=-1)  # [T]
    alike = (tokens == tokens[0]).all(dim=0)  # [L]
    shared = min(int(alike.long().cumprod(dim=0).sum()), int(eot.min()))  # [EOT] is each text's own
    packing = Packing((eot + 1 - shared).tolist())
    rows = model.token_embedding(packing.pack(tokens[:, shared:]).to(device))  # [rows, R, W]
    prefix = model.token_embedding(tokens[0, :shared].to(device))  # [P, W]
    return encode_packed(model, prefix, rows, packing.to(device)).float()
