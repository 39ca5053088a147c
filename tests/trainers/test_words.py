"""The words that learned contexts are like."""

import json

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


def test_words_that_a_clip_does_not_know_are_never_near(tiny_clip):
    """A small CLIP's embedding is 0 for words beyond its training captions."""
    embedding = tiny_clip("tiny-vit").token_embedding.weight.detach().clone()
    embedding[clip.encode("photo")] = 0
    found = nearest_words(embedding.new_zeros(1, embedding.shape[1]), embedding)
    assert "photo" not in [word for word, _ in found[0]]


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
