import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip import encode, tokenize


def test_ids_are_openais(golden):
    cases, arrays = golden("tokenize.json"), golden("tokenize.npz")
    texts = [case["text"] for case in cases]
    assert (tokenize(texts, truncate=True).numpy() == arrays["ids"]).all()
    assert (tokenize(texts, context_length=20, truncate=True).numpy() == arrays["ids_ctx20"]).all()
    assert [encode(text) for text in texts] == [case["encode"] for case in cases]


def test_too_long_is_refused_exactly_where_openai_refuses(golden):
    for case in golden("tokenize.json"):
        if case["error_truncate_false"] is None:
            tokenize(case["text"])
        else:
            with pytest.raises(RuntimeError, match="too long for context length 77"):
                tokenize(case["text"])


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_every_row_starts_ends_and_is_padded(texts):
    rows = tokenize(texts, truncate=True)
    assert rows.shape == (len(texts), 77) and rows.dtype == torch.int64
    assert (rows[:, 0] == 49406).all()
    eot = rows.argmax(dim=1)  # how the text tower finds it
    for row, end in zip(rows, eot, strict=True):
        assert row[end] == 49407 and (row[end + 1 :] == 0).all()


def test_special_tokens_carry_openais_names():
    assert encode("<|startoftext|>") == [49406] and encode("<|endoftext|>") == [49407]
    assert len(encode("<start_of_text>")) > 1
