"""A caption decoder on CLIP's image features, and the words it suggests for an image.

Esmaeilpour et al., Zero-shot out-of-distribution detection based on the pre-trained model CLIP,
AAAI 2022 (ZOC): words that a caption of the image might contain compete with the ID classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import ClipModel
from clip.tokenizer import decode


class CaptionDecoder(nn.Module):
    """A decoder that predicts the captions of images, token by token, over CLIP's vocabulary.

    A copy of CLIP's text transformer in float32, read at every position. A linear map of the
    image's feature takes the place of [SOT]. A token's logit is the product with its frozen word
    embedding, scaled to length 1, plus a bias. The V tokens whose embedding is not zero can be
    predicted; CLIP has not learned the others. Tokens are indices among these V, V for others.

    Differs from upstream: ZOC trains a BERT of 24 layers with a vocabulary of its own, which
    attends to the unnormalised feature.
    """

    def __init__(self, clip: ClipModel):
        super().__init__()
        tower = copy.deepcopy(clip.text).float().requires_grad_(True)
        self.transformer, self.ln_final = tower.transformer, tower.ln_final
        self.positional_embedding = tower.positional_embedding
        width = tower.project(torch.zeros_like(self.positional_embedding[:1])).shape[-1]
        embeddings = clip.token_embedding.weight.detach().float()
        ids = embeddings.any(dim=-1).nonzero().flatten()  # [V]
        index_of = torch.full_like(embeddings[:, 0], len(ids), dtype=torch.int64)
        index_of[ids] = torch.arange(len(ids), device=ids.device)
        self.image = nn.Linear(width, embeddings.shape[1], device=embeddings.device)
        nn.init.zeros_(self.image.weight)  # zeros: the start depends on no random generator
        nn.init.zeros_(self.image.bias)
        self.bias = nn.Parameter(embeddings.new_zeros(len(ids)))
        for name, value in (
            ("ids", ids),  # [V], index among the V -> id of CLIP's tokeniser
            ("index_of", index_of),  # [vocabulary], id of CLIP's tokeniser -> index
            ("words", F.pad(embeddings[ids], (0, 0, 0, 1))),  # [V + 1, W], zero for unknown ones
            ("lengths", embeddings[ids].norm(dim=-1)),  # [V]
            ("mask", tower.attn_mask),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits `[B, 1 + L, V]` of the next token, at the image and at each token.

        Args:
            features: of images, normalised, `[B, D]`. tokens: indices `[B, L]` in [0, V].
        """
        x = torch.cat([self.image(features)[:, None], F.embedding(tokens, self.words)], dim=1)
        x = x + self.positional_embedding[: x.shape[1]]  # [B, 1 + L, W]
        x = self.transformer(x, attn_mask=self.mask[: x.shape[1], : x.shape[1]])
        return F.linear(self.ln_final(x), self.words[:-1]) / self.lengths + self.bias

    def loss(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of captions, summed over tokens, and the number of tokens.

        Args:
            features: `[B, D]`. tokens: CLIP's ids of the captions, [SOT] first, `[B, L]`.
        """
        unknown, eot = len(self.ids), tokens.argmax(dim=-1, keepdim=True)
        past_eot = torch.arange(tokens.shape[1] - 1, device=eot.device) >= eot
        targets = self.index_of[tokens[:, 1:]].masked_fill(past_eot, unknown)  # [B, L - 1]
        logits = self(features, targets[:, :-1])  # causal: nothing after [EOT] counts
        flat = logits.flatten(0, 1), targets.flatten()
        total = F.cross_entropy(*flat, reduction="sum", ignore_index=unknown)
        return total, (targets != unknown).sum()

    def texts(self) -> list[str]:
        """Return the text of each of the V tokens."""
        return [decode(token) for token in self.ids.tolist()]


def greedy_candidates(
    next_logits: Callable[[Tensor], Tensor], start: Tensor, steps: int, top: int
) -> Tensor:
    """Return the `top` most probable tokens at each step of a greedy caption: `[B, steps, top]`.

    The most probable token comes first and is appended; an end of the caption stops nothing.

    Args:
        next_logits: tokens so far `[B, L]` -> logits of the next one `[B, V]`. start: `[B, L]`.
    """
    tokens, candidates = start, []
    for _ in range(steps):
        candidates.append(next_logits(tokens).topk(top, dim=-1).indices)
        tokens = torch.cat([tokens, candidates[-1][:, :1]], dim=1)
    return torch.stack(candidates, dim=1)


class Captioner(nn.Module):
    """The candidate words of images, found by a caption decoder, and their CLIP features.

    Attributes:
        decoder: a `CaptionDecoder`. rule: number of steps, candidates at each step, `[2]`.
        template: of the candidates' texts. texts: normalised features of all texts that may be
            candidates, `[S, D]`; none at first. text_of: each token's text, S for none, `[V]`.
    """

    def __init__(self, decoder: CaptionDecoder, steps: int, top: int, template: str = ""):
        super().__init__()
        self.decoder, self.template = decoder, template
        self.register_buffer("rule", torch.tensor([steps, top]))
        self.register_buffer("texts", torch.empty(0))
        self.register_buffer("text_of", torch.empty(0, dtype=torch.int64))

    @torch.no_grad()
    def candidate_lse(self, features: Tensor, scale: Tensor) -> Tensor:
        """Return the log-sum-exp `[B]` of the logits of each image's own candidates, distinct texts
        only, or `-scale` if that is larger. `features`: of the images, normalised, `[B, D]`."""
        steps, top = self.rule.tolist()
        start = torch.empty(len(features), 0, dtype=torch.int64, device=features.device)
        candidates = greedy_candidates(
            lambda tokens: self.decoder(features, tokens)[:, -1],
            start,
            steps,
            min(top, len(self.decoder.ids)),
        )
        columns = self.text_of[candidates.flatten(1)]  # [B, steps * top]
        return lse_of_columns(scale * features @ self.texts.T, columns, scale)

    def kept(self) -> dict[str, Tensor]:
        """Return the state that a detector saves; empty as long as there are no texts."""
        return dict(self.state_dict(prefix=STATE_PREFIX)) if len(self.texts) else {}

    @classmethod
    def restored(cls, clip: ClipModel, kept: Mapping[str, Tensor]) -> Captioner:
        """Return the captioner of `clip` whose `kept()` was saved."""
        state = {name.removeprefix(STATE_PREFIX): value for name, value in kept.items()}
        captioner = cls(CaptionDecoder(clip), *state["rule"].tolist())
        captioner.texts, captioner.text_of = state["texts"], state["text_of"]
        captioner.load_state_dict(state)
        return captioner


STATE_PREFIX = "captioner."  # of the tensors in a detector's file


def lse_of_columns(logits: Tensor, columns: Tensor, scale: Tensor) -> Tensor:
    """Return the log-sum-exp `[B]` of the logits `[B, S]` in each image's `columns`, each once.

    Args:
        columns: `[B, n]`, S for none. scale: the result is at least minus this: cosine -1.
    """
    mask = torch.zeros(len(logits), logits.shape[1] + 1, dtype=torch.bool, device=logits.device)
    mask = mask.scatter(1, columns, True)[:, :-1]  # [B, S]
    lse = logits.masked_fill(~mask, -torch.inf).logsumexp(dim=-1)
    return torch.maximum(lse, -scale)
