"""The learnable prompt that every prompt-learning trainer shares.

CoOp (Zhou et al., IJCV 2022), Section 3.2: M context vectors replace the words
of a hand-written prompt, `[SOS] v_1 .. v_M <class name> . [EOT]`.
"""

import logging

import torch
from torch import Tensor, nn

from clip import ClipModel, Packing, encode
from clip.tokenizer import tokenize_prompts
from dassl.utils import InputError, check_availability

logger = logging.getLogger(__name__)

CLASS_TOKEN_POSITIONS = ("end", "middle", "front")


class PromptLearner(nn.Module):
    """Context vectors and the prompts of all classes built from them.

    Args:
        classnames: C names; underscores are read as spaces.
        model: the CLIP whose token embeddings surround the context.
        n_ctx: M, the number of context vectors.
        csc: one context per class instead of a shared one.
        ctx_init: words to start from; they override `n_ctx` and, without `copies`, `csc`.
        position: where the class name stands: "end" (after the context),
            "middle" (after its first half) or "front" (before it). The full
            stop stays last in all three.
        generator: draws the random start N(0, 0.02); None for the global one.
        copies: with `csc` and `ctx_init`, start every class from a copy of the words' context.
        stop: the text after the class name.

    State dict: `ctx` `[M, W]` (`[C, M, W]` with `csc`). CoOp's files also hold `token_prefix` and
    `token_suffix`, the embeddings of the class names; CoOp drops them on loading, and so do we.

    Raises:
        InputError: unknown position, {} in the words, or a prompt too long for the text tower.
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
        copies: bool = False,
        stop: str = ".",
    ):
        super().__init__()
        _check_context(n_ctx, position, ctx_init)
        # A tuple, so that the CLIP's embedding is not registered as the learner's own.
        self._embedding = (model.token_embedding,)
        names = [name.replace("_", " ") for name in classnames]
        self.n_cls = len(names)
        ctx_init = ctx_init.replace("_", " ").strip()
        if ctx_init:
            ids = encode(ctx_init)
            n_ctx, ctx = len(ids), self._embed(torch.tensor(ids))
            if csc and copies:
                ctx = ctx.expand(len(names), -1, -1)  # [C, M, W]
            elif csc:
                logger.warning("CTX_INIT starts a context shared by all classes: CSC is ignored")
        else:
            shape = (len(names), n_ctx) if csc else (n_ctx,)
            ctx = torch.empty(*shape, model.token_embedding.embedding_dim)
            nn.init.normal_(ctx, std=0.02, generator=generator)
        # Float32 whatever the towers are: with a learning rate of 1e-5, most of a half-precision
        # context would round back to what it was.
        self.ctx = nn.Parameter(ctx.float().clone())
        start = ctx_init or " ".join(["X"] * n_ctx)  # X: one token, overwritten by the context
        logger.info('Initial context: "%s", %d tokens', start, n_ctx)
        prompts = [f"{start} {name}{stop}" for name in names]
        tokens = tokenize_prompts(prompts, names, model.context_length)
        self._place(tokens, names, n_ctx, position)
        self.register_load_state_dict_pre_hook(_drop_names)

    def _place(self, tokens: Tensor, names: list[str], n_ctx: int, position: str) -> None:
        """Find where the context stands in the prompts, token ids `[C, context_length]`."""
        eot = tokens.argmax(dim=-1)
        tokens = tokens[:, : int(eot.max()) + 1]  # nothing after the last [EOT] is ever read
        before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
        name_lens = [len(encode(name)) for name in names]
        number = torch.arange(n_ctx)
        # [C, M]; each context vector stands before the class name or after it.
        places = 1 + number + torch.tensor(name_lens)[:, None] * (number >= before)
        for row, length in zip(tokens, name_lens, strict=True):  # move the class name forward
            behind = slice(1 + before, 1 + n_ctx + length)
            row[behind] = row[behind].roll(length)
        # [SOS] and the context vectors that stand before every class name.
        self.shared = 1 + (before if self.ctx.dim() == 2 else 0)
        self.packing = Packing((eot + 1 - self.shared).tolist())
        packed = self.packing.start[:, None] + (places[:, self.shared - 1 :] - self.shared)
        self.tokens, self.places = tokens, places  # [C, L], [C, M]; only `forward` reads them
        for name, value in (
            ("eot", eot),  # [C]
            ("sos", self._embed(tokens[:1, 0])),  # [1, W]
            ("fixed", self.packing.pack(self._embed(tokens[:, self.shared :]))),  # [rows, R, W]
            ("packed_places", packed.flatten()),  # [C * context vectors after the shared part]
        ):
            self.register_buffer(name, value, persistent=False)

    def _embed(self, tokens: Tensor) -> Tensor:
        """Return the CLIP's embeddings `[..., W]` of token ids, float32."""
        (embedding,) = self._embedding
        with torch.no_grad():
            return embedding(tokens.to(embedding.weight.device)).float()

    def packed(self, ctx: Tensor | None = None) -> tuple[Tensor, Tensor, Packing]:
        """Return the prompts packed for `clip.prefix.encode_packed`, without building each.

        Args:
            ctx: context vectors to use instead of the learner's, of the same shape.

        Returns:
            The common beginning of all prompts, `[P, W]`: [SOS] and the shared context before the
            class names; the rest of each prompt up to [EOT], in rows `[rows, R, W]`; and the
            packing of these rows.
        """
        ahead, ctx = self.shared - 1, self.ctx if ctx is None else ctx
        if ctx.dim() == 2:
            prefix = torch.cat([self.sos, ctx[:ahead]])
            behind = ctx[ahead:].expand(self.n_cls, -1, -1)
        else:
            prefix, behind = self.sos, ctx
        if len(self.packed_places) == 0:
            return prefix, self.fixed, self.packing
        rows = self.fixed.flatten(0, 1).index_copy(0, self.packed_places, behind.flatten(0, 1))
        return prefix, rows.view_as(self.fixed), self.packing  # [P, W], [rows, R, W]

    def forward(self) -> Tensor:
        """Return prompt embeddings `[C, L, W]`, L the length of the longest prompt.

        This is the obvious form of `packed`, many times its size, for reference.
        """
        prompts = self._embed(self.tokens)  # [C, L, W]
        places = self.places.to(prompts.device)[..., None].expand(-1, -1, prompts.shape[-1])
        return prompts.scatter(1, places, self.ctx.expand(self.n_cls, -1, -1))


def _check_context(n_ctx: int, position: str, ctx_init: str) -> None:
    if n_ctx < 1:
        raise InputError(f"N_CTX is {n_ctx}: the number of context vectors must be 1 or more")
    check_availability(position, CLASS_TOKEN_POSITIONS, what="CLASS_TOKEN_POSITION")
    if "{" in ctx_init:
        raise InputError(
            f'CTX_INIT is "{ctx_init}": it must be the words of the context alone, as the class '
            'name is added. Leave {} out, as in "a photo of a"'
        )


def _drop_names(learner: PromptLearner, state: dict, prefix: str, *_) -> None:
    """Drop the class names' embeddings from a loaded state dict."""
    for key in ("token_prefix", "token_suffix"):
        state.pop(prefix + key, None)
