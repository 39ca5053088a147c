"""The words that learned contexts are like."""

import json

import pytest
import torch

import clip
from results.report.page import report_page
from results.summary import summarise
from tests.results.conftest import gather, write_run
from trainers.words import nearest_words, write_words


def test_the_embedding_of_a_word_is_that_word(tiny_clip):
    model = tiny_clip("tiny-vit")
    embedding = model.token_embedding.weight
    vectors = embedding[clip.encode("a photo of a cat")] + 1e-3
    found = nearest_words(vectors, embedding)
    assert [row[0][0] for row in found] == ["a", "photo", "of", "a", "cat"]
    assert [len(row) for row in found] == [3] * 5
    slow = (embedding - vectors[4]).norm(dim=-1).sort().values[:3].tolist()
    torch.testing.assert_close([d for _, d in found[4]], slow, atol=2e-3, rtol=0)


def test_words_that_the_clip_has_never_seen_are_near_to_none(tiny_clip):
    """A CLIP of a few hundred words has zeros for all others, and a context starts near zero."""
    known = tiny_clip("tiny-vit").token_embedding.weight
    embedding, ids = torch.zeros_like(known), clip.encode("a photo of a cat")
    embedding[ids] = known[ids].detach()
    rows = nearest_words(torch.zeros(1, known.shape[1]), embedding)
    assert {word for word, _ in rows[0]} <= {"a", "photo", "of", "cat"}


@pytest.mark.parametrize("words", ["few", "all"])
def test_padding_is_a_word_to_a_clip_of_all_words_alone(tiny_clip, words):
    """Its id is that of "!"; the file of the generated CLIP has a row for it."""
    embedding = tiny_clip("tiny-vit").token_embedding.weight.detach().clone()
    if words == "few":
        embedding[400:40_000] = 0
    rows = nearest_words(embedding[:1], embedding)
    assert (rows[0][0] == ("!", 0.0)) == (words == "all")


def test_the_generated_clip_is_near_to_words_of_its_captions():
    model = clip.load("generated-ViT-S/8")[0]
    embedding = model.token_embedding.weight
    vectors = 0.02 * torch.randn(16, embedding.shape[1], generator=torch.Generator().manual_seed(1))
    assert "!" not in {word for row in nearest_words(vectors, embedding) for word, _ in row}


def test_they_are_written_and_reported(tiny_clip, tmp_path):
    model, run = tiny_clip("tiny-vit"), write_run(tmp_path / "seed1")
    contexts = {
        name: model.token_embedding(torch.tensor(clip.encode(name))) for name in ("tree", "house")
    }
    write_words(contexts, model, run.folder)
    content = json.loads((run.folder / "context_words.json").read_text())["contexts"]
    assert content["tree"][0][0] == ["tree", 0.0] and list(content) == ["tree", "house"]
    page = report_page(summarise(gather([tmp_path])))
    assert 'id="words"' in page and "house <small>0.00</small>" in page
