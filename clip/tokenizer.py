"""OpenAI CLIP's tokeniser: open_clip's byte-pair encoding with OpenAI's special tokens."""

from collections.abc import Sequence
from functools import lru_cache

import regex
import torch
from open_clip import SimpleTokenizer

from dassl.utils.errors import InputError

CONTEXT_LENGTH = 77
SOT, EOT = "<|startoftext|>", "<|endoftext|>"


@lru_cache(maxsize=1)
def tokenizer() -> SimpleTokenizer:
    """Return the shared tokeniser, built at first use because reading the vocabulary takes time.

    In a text, OpenAI's names of the two special tokens are single tokens; open_clip's are not.
    """
    bpe = SimpleTokenizer(context_length=CONTEXT_LENGTH)
    for renamed, name, token_id in zip(
        ("<start_of_text>", "<end_of_text>"), (SOT, EOT), bpe.all_special_ids, strict=True
    ):
        del bpe.encoder[renamed], bpe.cache[renamed]
        bpe.encoder[name], bpe.decoder[token_id], bpe.cache[name] = token_id, name, name
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    specials = "|".join(regex.escape(name) for name in (SOT, EOT))
    bpe.pat = regex.compile(f"{specials}|{words}", regex.IGNORECASE)
    return bpe


def encode(text: str) -> list[int]:
    """Return the token ids of `text` without [SOT] and [EOT]."""
    return tokenizer().encode(text)


def decode(token: int) -> str:
    """Return the text of one token, without blanks around it; "" for [SOT] and [EOT]."""
    bpe = tokenizer()
    return "" if token in bpe.all_special_ids else bpe.decode([token]).strip()


def tokenize(
    texts: str | list[str], context_length: int = CONTEXT_LENGTH, truncate: bool = False
) -> torch.Tensor:
    """Return token ids `[T, context_length]` (int64) of one or more texts, padded with 0.

    Raises:
        RuntimeError: a text is too long and `truncate` is off. With `truncate`
            it is cut and its last token becomes [EOT].
    """
    bpe = tokenizer()
    texts = [texts] if isinstance(texts, str) else texts
    tokens = torch.zeros(len(texts), context_length, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        ids = [bpe.sot_token_id, *bpe.encode(text), bpe.eot_token_id]
        if len(ids) > context_length:
            if not truncate:
                raise RuntimeError(
                    f"Input {text} is too long for context length {context_length}: "
                    f"it has {len(ids)} tokens with the start and end tokens"
                )
            ids = [*ids[: context_length - 1], bpe.eot_token_id]
        row[: len(ids)] = torch.tensor(ids)
    return tokens


def cut_to_longest(tokens: torch.Tensor) -> torch.Tensor:
    """Return token ids `[T, L]` without the columns after the last [EOT].

    Attention is causal, so the features are the same for less work. Call it before the tokens
    move to a GPU: there, reading the length would make the host wait.
    """
    return tokens[:, : int(tokens.argmax(dim=-1).max()) + 1]  # [EOT] has the highest id


def tokenize_prompts(
    prompts: Sequence[str], names: Sequence[str], context_length: int
) -> torch.Tensor:
    """Return token ids `[T, context_length]` of prompts about the classes `names` `[T]`.

    Raises:
        InputError: a prompt is too long. If it were cut, two classes could get the same text.
    """
    rows = []
    for prompt, name in zip(prompts, names, strict=True):
        try:
            rows.append(tokenize(prompt, context_length))
        except RuntimeError as error:
            raise InputError(
                f"a prompt of class {name!r} is too long: {error}. Use fewer context tokens "
                "(N_CTX), a shorter template or a shorter class name"
            ) from error
    return torch.cat(rows)
