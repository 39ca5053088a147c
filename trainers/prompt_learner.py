"""The learnable prompt that every prompt-learning trainer shares.

CoOp (Zhou et al., IJCV 2022), Section 3.2: M context vectors stand where the
words of a hand-written prompt would, `[SOS] v_1 .. v_M <class name> . [EOT]`.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from clip import ClipModel, Packing, encode
from clip.tokenizer import tokenize_prompts
from dassl.utils.errors import InputError

logger = logging.getLogger(__name__)

CLASS_TOKEN_POSITIONS = ("end", "middle", "front")


class PromptLearner(nn.Module):
    """Context vectors and the prompts of all classes built from them.

    Args:
        classnames: C names; underscores are read as spaces.
        model: the CLIP whose token embeddings surround the context.
        n_ctx: M, the number of context vectors.
        csc: one context per class instead of a shared one.
        ctx_init: words to start from; they override `n_ctx` and `csc`.
        position: where the class name stands: "end" (after the context),
            "middle" (after its first half) or "front" (before it). The full
            stop stays last in all three.
        generator: draws the random start N(0, 0.02); None for the global one.

    State dict: `ctx` `[M, W]` (`[C, M, W]` with `csc`), and the fixed embeddings
    `token_prefix` `[C, 1, W]` and `token_suffix` `[C, 76 - M, W]` (of a context of 77) as
    CoOp's files hold them; only `ctx` means anything to another class list.

    Raises:
        InputError: unknown position, or a prompt longer than the text tower reads.
    """

    def __init__(
        self,
        classnames: list[str],
        model: ClipModel,
        *,
        n_ctx: int = 16,
        csc: bool = False,
        ctx_init: str = "",
        position: str = "end",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if n_ctx < 1:
            raise InputError(f"N_CTX is {n_ctx}: at least one context vector is needed")
        if position not in CLASS_TOKEN_POSITIONS:
            raise InputError(
                f"unknown class token position {position!r}: use one of "
                f"{', '.join(CLASS_TOKEN_POSITIONS)}"
            )
        names = [name.replace("_", " ") for name in classnames]
        ctx_init = ctx_init.replace("_", " ").strip()
        if ctx_init:
            ids = encode(ctx_init)
            n_ctx, ctx = len(ids), _embed(model, torch.tensor(ids))
            if csc:
                logger.warning("CTX_INIT starts a context shared by all classes: CSC is ignored")
        else:
            shape = (len(names), n_ctx) if csc else (n_ctx,)
            ctx = torch.empty(*shape, model.token_embedding.embedding_dim)
            nn.init.normal_(ctx, std=0.02, generator=generator)
        # Float32 whatever the towers are: at a learning rate of 1e-5 most of a
        # half-precision context would not move at all.
        self.ctx = nn.Parameter(ctx.float().clone())

        start = ctx_init or " ".join(["X"] * n_ctx)  # X: one token, overwritten by the context
        logger.info('Initial context: "%s"', start)
        logger.info("Number of context words (tokens): %d", n_ctx)
        prompts = [f"{start} {name}." for name in names]
        tokens = tokenize_prompts(prompts, names, model.context_length)
        embedded = _embed(model, tokens)  # [C, context_length, W]
        self.register_buffer("token_prefix", embedded[:, :1])
        self.register_buffer("token_suffix", embedded[:, 1 + n_ctx :])
        eot = tokens.argmax(dim=-1)
        self.register_buffer("eot", eot, persistent=False)  # [C]
        self.length = int(eot.max()) + 1  # nothing after the last [EOT] is ever read
        name_lens = [len(encode(name)) for name in names]
        order = _order(position, n_ctx, name_lens, self.length)
        self.register_buffer("order", order, persistent=False)
        before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
        # [SOS] and the context vectors that stand before every class name.
        self.shared = 1 + (before if self.ctx.dim() == 2 else 0)
        self._pack(_in_order(embedded[:, : self.length], order), _places(before, n_ctx, name_lens))
        self.register_load_state_dict_pre_hook(_keep_names)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        # A file's fixed embeddings are of the class names it was trained with; ours stay.
        for name in ("token_prefix", "token_suffix"):
            state_dict[prefix + name] = getattr(self, name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def n_cls(self) -> int:
        return len(self.token_prefix)

    def _pack(self, prompts: Tensor, places: Tensor) -> None:
        """Prepare `packed`, from prompts `[C, L, W]` with the context at `places` `[C, M]`."""
        self.packing = Packing((self.eot + 1 - self.shared).tolist())
        fixed = self.packing.pack(prompts[:, self.shared :])  # [rows, R, W]
        self.register_buffer("fixed", fixed, persistent=False)
        own = self.packing.start[:, None] + (places[:, self.shared - 1 :] - self.shared)
        self.register_buffer("own_places", own.flatten(), persistent=False)

    def packed(self) -> tuple[Tensor, Tensor, Packing]:
        """The prompts as `ClipModel.encode_packed` wants them, without building them.

        Returns:
            What all prompts begin with, `[P, W]`: [SOS] and the shared context as far as
            no class name stands before it; and the rest of each prompt up to [EOT], in
            rows `[rows, R, W]`, with their packing.
        """
        sos, ahead = self.token_prefix[0], self.shared - 1
        if self.ctx.dim() == 2:
            prefix = torch.cat([sos, self.ctx[:ahead]])
            behind = self.ctx[ahead:].expand(self.n_cls, -1, -1)
        else:
            prefix, behind = sos, self.ctx
        if len(self.own_places) == 0:
            return prefix, self.fixed, self.packing
        rows = self.fixed.flatten(0, 1).index_copy(0, self.own_places, behind.flatten(0, 1))
        return prefix, rows.view_as(self.fixed), self.packing

    def forward(self) -> Tensor:
        """Prompt embeddings `[C, L, W]`, L the length of the longest prompt.

        The obvious form of what `packed` gives, many times its size: for reference, and for
        text towers that can do nothing with a shared prefix.
        """
        ctx = self.ctx.expand(self.n_cls, -1, -1)  # [C, M, W]
        suffix = self.token_suffix[:, : self.length - 1 - ctx.shape[1]]
        prompts = torch.cat([self.token_prefix, ctx, suffix], dim=1)  # [C, L, W]
        return _in_order(prompts, self.order)


def _embed(model: ClipModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.token_embedding(tokens.to(model.token_embedding.weight.device)).float()


def _keep_names(learner: PromptLearner, state: dict, prefix: str, *_) -> None:
    """A file's class names are not this learner's: of what is loaded, only the context counts."""
    for key in ("token_prefix", "token_suffix"):
        if prefix + key in state:
            state[prefix + key] = getattr(learner, key)


def _places(before: int, n_ctx: int, name_lens: list[int]) -> Tensor:
    """Where the context vectors stand in the prompts, `[C, M]`; `before` of them before the name."""
    number = torch.arange(n_ctx)
    return 1 + number + torch.tensor(name_lens)[:, None] * (number >= before)


def _in_order(prompts: Tensor, order: Tensor | None) -> Tensor:
    if order is None:
        return prompts
    return prompts[torch.arange(len(prompts), device=order.device)[:, None], order]


def _order(position: str, n_ctx: int, name_lens: list[int], length: int) -> Tensor | None:
    """Where each place of the prompts comes from in the layout "end", `[C, L]`; None for "end"."""
    if position == "end":
        return None
    before = n_ctx // 2 if position == "middle" else 0
    rows = []
    for name_len in name_lens:
        ctx, name = list(range(1, 1 + n_ctx)), list(range(1 + n_ctx, 1 + n_ctx + name_len))
        head = [0, *ctx[:before], *name, *ctx[before:]]
        rows.append(head + list(range(len(head), length)))
    return torch.tensor(rows)
