import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip import encode, tokenize
from dassl.engine import TrainerBase
from dassl.utils.errors import InputError
from trainers.prompt_learner import CLASS_TOKEN_POSITIONS, PromptLearner

NAMES = ["cat", "golden_retriever", "crane (bird)", "jack-o'-lantern", "great white shark"]


def _obvious(model, ctx, name, position):
    """The prompt of one class, piece by piece as the paper writes it."""
    name = name.replace("_", " ")
    # With the full stop at once: "(bird)." ends in one token ")." where "(bird)" ends in ")".
    sos, *words = model.token_embedding(torch.tensor([49406, *encode(f"{name}."), 49407]))
    name_rows, rest = words[: len(encode(name))], words[len(encode(name)) :]
    before = {"end": len(ctx), "middle": len(ctx) // 2, "front": 0}[position]
    return torch.stack([sos, *ctx[:before], *name_rows, *ctx[before:], *rest])


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
    n_ctx=st.integers(1, 17),
    csc=st.booleans(),
    position=st.sampled_from(CLASS_TOKEN_POSITIONS),
)
def test_prompts_are_those_of_the_paper(names, n_ctx, csc, position, tiny_clip):
    model = tiny_clip()
    learner = PromptLearner(names, model, n_ctx=n_ctx, csc=csc, position=position)
    prompts = learner()
    for i, name in enumerate(names):
        expected = _obvious(model, list(learner.ctx[i] if csc else learner.ctx), name, position)
        end = learner.eot[i] + 1
        assert end == len(expected)
        torch.testing.assert_close(prompts[i, :end], expected)


@pytest.mark.parametrize("position", CLASS_TOKEN_POSITIONS)
def test_only_the_context_learns(tiny_clip, position):
    learner = PromptLearner(NAMES, tiny_clip(), n_ctx=4, position=position)
    assert [name for name, p in learner.named_parameters() if p.requires_grad] == ["ctx"]
    learner().square().sum().backward()
    assert learner.ctx.grad.abs().min() > 0


def test_words_to_start_from_override_number_and_class_specific_context(tiny_clip, caplog):
    model = tiny_clip()
    learner = PromptLearner(NAMES, model, n_ctx=16, csc=True, ctx_init="a_photo_of a")
    expected = model.token_embedding(tokenize("a photo of a"))[0, 1:5]
    assert torch.equal(learner.ctx, expected) and "CSC is ignored" in caplog.text


def test_words_of_several_tokens_count_all_of_them(tiny_clip):
    model = tiny_clip()
    learner = PromptLearner(["cat"], model, ctx_init="photographique of a")
    assert len(learner.ctx) == len(encode("photographique of a")) > 3
    plain = model.token_embedding(tokenize("photographique of a cat."))[
        0, : learner.tokens.shape[1]
    ]
    torch.testing.assert_close(learner()[0], plain)


@pytest.mark.parametrize("csc, shape", [(False, (4, 128)), (True, (5, 4, 128))])
def test_the_state_is_the_context_alone(tiny_clip, csc, shape):
    """CoOp's readers look for no more, whatever CoOp writes."""
    state = PromptLearner(NAMES, tiny_clip(), n_ctx=4, csc=csc).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {"ctx": shape}


def test_a_checkpoint_of_1000_classes_is_small(tiny_clip, tmp_path):
    """And nothing but what a step reads is kept on the device."""
    names = [f"{NAMES[i % 5]} {i}" for i in range(1000)]
    learner = PromptLearner(names, tiny_clip(), n_ctx=16)
    optimiser = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
    learner.packed()[0].sum().backward()
    optimiser.step()
    trainer = TrainerBase()
    trainer.register_model("prompt_learner", learner, optimiser)
    trainer.save_model(0, tmp_path)
    file = tmp_path / "prompt_learner/model.pth.tar-1"
    assert file.stat().st_size < 100_000
    kept = {name: buffer.numel() for name, buffer in learner.named_buffers()}
    tokens = learner.fixed.shape[0] * learner.fixed.shape[1]
    assert kept.pop("fixed") == tokens * 128 and sum(kept.values()) < 5 * tokens


def test_the_start_depends_on_the_seed_alone(tiny_clip):
    def start(seed):
        return PromptLearner(NAMES, tiny_clip(), generator=torch.Generator().manual_seed(seed)).ctx

    assert torch.equal(start(0), start(0)) and not torch.equal(start(0), start(1))
    assert start(0).std().item() == pytest.approx(0.02, rel=0.1)


def test_context_is_float32_on_half_precision_towers(clip_file):
    import clip

    model = clip.load(clip_file("tiny-vit"))[0].to_dtype(torch.float16)
    assert PromptLearner(NAMES, model, ctx_init="a photo").ctx.dtype == torch.float32


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"position": "start"}, "end, middle, front"),
        ({"n_ctx": 80}, "Use fewer context tokens"),
        ({"ctx_init": "a photo of a {}."}, r"context alone.* Leave {} out"),
    ],
)
def test_impossible_prompts_are_told(kwargs, words, tiny_clip):
    with pytest.raises(InputError, match=words):
        PromptLearner(NAMES, tiny_clip(), **kwargs)
