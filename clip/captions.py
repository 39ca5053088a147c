"""A caption decoder on CLIP's image features, and the words that it suggests for an image.

Esmaeilpour et al., Zero-shot out-of-distribution detection based on the pre-trained model CLIP,
AAAI 2022 (ZOC): what a caption of the image might say stands beside the ID classes.
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
    """Predict the captions of images, token by token, over CLIP's vocabulary.

    A copy of CLIP's text transformer in float32, read at every position instead of at [EOT]; its
    first token is the image's feature, mapped, in the place of [SOT]. The next token is predicted
    by the cosine of CLIP's word embeddings, which stay frozen, and a bias. A word whose embedding
    is zero is none that CLIP has learned: the V others are predicted. Here a token is its place
    among these, V for one that is not known.

    Differs from upstream: there a BERT of 24 layers with a vocabulary of its own, which attends to
    the unnormalised feature.
    """

    def __init__(self, clip: ClipModel):
        super().__init__()
        tower = copy.deepcopy(clip.text).float().requires_grad_(True)
        self.transformer, self.ln_final = tower.transformer, tower.ln_final
        self.positional_embedding = tower.positional_embedding
        width = tower.project(torch.zeros_like(self.positional_embedding[:1])).shape[-1]
        every = clip.token_embedding.weight.detach().float()
        ids = every.any(dim=-1).nonzero().flatten()  # [V]
        place = torch.full_like(every[:, 0], len(ids), dtype=torch.int64)
        place[ids] = torch.arange(len(ids), device=ids.device)
        self.image = nn.Linear(width, every.shape[1], device=every.device)
        nn.init.zeros_(self.image.weight)  # the start is drawn by no generator
        nn.init.zeros_(self.image.bias)
        self.bias = nn.Parameter(every.new_zeros(len(ids)))
        for name, value in (
            ("ids", ids),  # [V], of CLIP's tokenizer
            ("place", place),  # [all of them], the other way round
            ("words", F.pad(every[ids], (0, 0, 0, 1))),  # [V + 1, W], the last of unknown ones
            ("lengths", every[ids].norm(dim=-1)),  # [V]
            ("mask", tower.attn_mask),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Return logits `[B, 1 + L, V]` of the token after the image, and after each of `tokens`.

        Args:
            features: of images, normalised, `[B, D]`. tokens: `[B, L]`, as described above.
        """
        x = torch.cat([self.image(features)[:, None], F.embedding(tokens, self.words)], dim=1)
        x = x + self.positional_embedding[: x.shape[1]]  # [B, 1 + L, W]
        x = self.transformer(x, attn_mask=self.mask[: x.shape[1], : x.shape[1]])
        return F.linear(self.ln_final(x), self.words[:-1]) / self.lengths + self.bias

    def loss(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed cross entropy of captions, and of how many tokens it is.

        Args:
            features: `[B, D]`. tokens: the captions by CLIP's tokenizer, [SOT] first, `[B, L]`.
        """
        unknown, eot = len(self.ids), tokens.argmax(dim=-1, keepdim=True)
        behind = torch.arange(tokens.shape[1] - 1, device=eot.device) >= eot
        targets = self.place[tokens[:, 1:]].masked_fill(behind, unknown)  # [B, L - 1]
        logits = self(features, targets[:, :-1])  # causal: nothing reads what is behind [EOT]
        flat = logits.flatten(0, 1), targets.flatten()
        total = F.cross_entropy(*flat, reduction="sum", ignore_index=unknown)
        return total, (targets != unknown).sum()

    def texts(self) -> list[str]:
        """Return what each of the V tokens says alone."""
        return [decode(token) for token in self.ids.tolist()]


def greedy_candidates(
    next_logits: Callable[[Tensor], Tensor], start: Tensor, steps: int, top: int
) -> Tensor:
    """Return the `top` most probable tokens in each step of a greedy caption: `[B, steps, top]`.

    The most probable one comes first and is appended. Nothing stops at the end of a caption.

    Args:
        next_logits: tokens so far `[B, L]` -> logits of the next one `[B, V]`. start: `[B, L]`.
    """
    tokens, found = start, []
    for _ in range(steps):
        found.append(next_logits(tokens).topk(top, dim=-1).indices)
        tokens = torch.cat([tokens, found[-1][:, :1]], dim=1)
    return torch.stack(found, dim=1)


class Captioner(nn.Module):
    """Compare images with what captions of them might say.

    Attributes:
        decoder: of captions. rule: steps and candidates a step, `[2]`. template: of their texts.
        texts: features of all texts that may be candidates, normalised, `[S, D]`; none at first.
        text_of: which of them a token is, S for none, `[V]`.
    """

    def __init__(self, decoder: CaptionDecoder, steps: int, top: int, template: str = ""):
        super().__init__()
        self.decoder, self.template = decoder, template
        self.register_buffer("rule", torch.tensor([steps, top]))
        self.register_buffer("texts", torch.empty(0))
        self.register_buffer("text_of", torch.empty(0, dtype=torch.int64))

    @torch.no_grad()
    def candidate_lse(self, features: Tensor, scale: Tensor) -> Tensor:
        """Return log-sum-exp `[B]` of the logits of normalised features `[B, D]` with the texts of
        each image's own candidates, every distinct text once; at least that of one at cosine -1."""
        steps, top = self.rule.tolist()
        start = torch.empty(len(features), 0, dtype=torch.int64, device=features.device)
        found = greedy_candidates(
            lambda tokens: self.decoder(features, tokens)[:, -1],
            start,
            steps,
            min(top, len(self.decoder.ids)),
        )
        return own_lse(scale * features @ self.texts.T, self.text_of[found.flatten(1)], scale)

    def kept(self) -> dict[str, Tensor]:
        """Return what a detector keeps to make it again; nothing as long as it has no texts."""
        state = self.state_dict() if len(self.texts) else {}
        return {f"{KEPT}{name}": value for name, value in state.items()}

    @classmethod
    def restored(cls, clip: ClipModel, kept: Mapping[str, Tensor]) -> Captioner:
        """Return the captioner of `clip` that `kept` is of."""
        state = {name.removeprefix(KEPT): value for name, value in kept.items()}
        own = cls(CaptionDecoder(clip), *state["rule"].tolist())
        own.texts, own.text_of = state["texts"], state["text_of"]
        own.load_state_dict(state)
        return own


KEPT = "captioner."  # before the names of what a detector keeps


def own_lse(logits: Tensor, chosen: Tensor, scale: Tensor) -> Tensor:
    """Return log-sum-exp `[B]` of those logits `[B, S]` that an image has chosen, each once.

    Args:
        chosen: columns, `[B, n]`, S for none. scale: minus this is returned where there is none.
    """
    mask = torch.zeros(len(logits), logits.shape[1] + 1, dtype=torch.bool, device=logits.device)
    mask = mask.scatter(1, chosen, True)[:, :-1]  # [B, S]
    lse = logits.masked_fill(~mask, -torch.inf).logsumexp(dim=-1)
    return torch.maximum(lse, -scale)
