"""GalLoP against the public code on the same weights, and against the obvious form of its parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clip.prompted import DescribedCLIP, top_region_cosines
from dassl.utils.errors import InputError
from ood.evaluation import Batch, score_batch
from ood.scoring import get_scores
from tests.trainers.test_goldens import GOLDEN_CONFIG, Batches
from tests.trainers.test_goldens import recorded_trainer as recorded
from trainers.gallop import GalLoP, PromptSets

ABOUT = json.loads((Path(__file__).parents[1] / "golden/gallop.json").read_text(encoding="utf-8"))
LEARNED = {
    "global_prompt": "global_prompt",
    "local_prompts": "local_prompts",
    "local_proj": "local_proj.linear.weight",
}


@pytest.fixture
def backbone(generated_weights, tmp_path):
    from safetensors.torch import save_file

    def write(arch):
        path = tmp_path / f"{arch}.safetensors"
        weights = generated_weights(arch, ABOUT["weights_seed"])
        save_file(weights, path, {"activation": "quick_gelu"})
        return str(path)

    return write


@pytest.fixture
def make(backbone, tmp_path):
    def built(case, loader=None, **settings):
        size = {"tiny-vit": 64, "tiny-vit-224": 224}[case["arch"]]
        own = {"N_GLOBAL": case["m"], "N_LOCAL": case["n"], "TOPK": case["topk"], "PREC": "fp32"}
        config = {
            **GOLDEN_CONFIG,
            "TRAINER.NAME": "GalLoP",
            "OUTPUT_DIR": str(tmp_path / "run"),
            "INPUT.SIZE": (size, size),
            "INPUT.TRANSFORMS": ("normalize",),
            "MODEL.BACKBONE.NAME": backbone(case["arch"]),
            "OPTIM.WARMUP_EPOCH": -1,
            "OPTIM.WEIGHT_DECAY": 0.01,
            "OPTIM.MAX_EPOCH": case.get("ep", 4),
            **{f"TRAINER.GALLOP.{key}": value for key, value in own.items()},
            **settings,
        }
        return recorded("GalLoP", config, case["classnames"], loader)

    return built


def norm_error(actual, expected):
    actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def pixels(arrays, name):
    return torch.from_numpy(arrays[f"{name}/images_q"]).float() / 32


def disturbed(trainer, arrays, name):
    """The trainer, its parameters moved from their start as the golden's were."""
    state = dict(trainer.learner.named_parameters())
    with torch.no_grad():
        for ours, theirs in LEARNED.items():
            noise = torch.from_numpy(arrays[f"{name}/noise_{ours}"])
            state[theirs] += noise.to(state[theirs].dtype)
    kept = torch.from_numpy(arrays[f"{name}/dropout_index"])
    trainer.kept_prompts = lambda count: kept
    return trainer


@pytest.mark.parametrize("case", ABOUT["cases"], ids=lambda case: case["id"])
@pytest.mark.parametrize("chunk", [1 << 20, 8])
def test_losses_and_gradients(case, chunk, golden, make):
    arrays, name = golden("gallop.npz"), case["id"]
    trainer = disturbed(make(case, **{"TRAINER.GALLOP.TEXT_CHUNK": chunk}), arrays, name)
    labels = torch.from_numpy(arrays[f"{name}/labels"])
    _, summary = trainer.loss(pixels(arrays, name), trainer.kept_prompts(len(labels)), labels)
    for part, expected in case["losses"].items():
        assert summary[part].item() == pytest.approx(expected, rel=1e-5), part
    summary["loss"].backward()
    state = dict(trainer.learner.named_parameters())
    assert set(state) == set(LEARNED.values())
    for ours, theirs in LEARNED.items():
        assert norm_error(state[theirs].grad, arrays[f"{name}/grad_{ours}_f64"]) < 1e-5, ours


@pytest.mark.parametrize("case", ABOUT["cases"], ids=lambda case: case["id"])
def test_scores_and_predictions(case, golden, make):
    """By the trainer's model, and by that of a detector."""
    arrays, name = golden("gallop.npz"), case["id"]
    trainer = disturbed(make(case), arrays, name)
    trainer.model.eval()
    with torch.no_grad():
        classes = trainer.class_features()
        described = DescribedCLIP(trainer.model.clip, classes, trainer.model.scale)
        found = [
            score_batch(
                model,
                Batch(*model.image_features(pixels(arrays, name), local=True)),
                classes,
                get_scores(["MCM", "GL-MCM", "L-MCM"]),
                {},
            )
            for model in (trainer.model, described)
        ]
    for scored in found:
        for score in ("MCM", "GL-MCM", "L-MCM"):
            expected = arrays[f"{name}/score_{score}_f64"]
            np.testing.assert_allclose(scored.scores[score], expected, rtol=1e-5)
        assert scored.cosines.argmax(-1).tolist() == arrays[f"{name}/pred_both_f64"].tolist()
    batch = {"img": pixels(arrays, name), "label": torch.zeros(len(found[0].cosines))}
    trainer._total, trainer._correct = 0, torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        (whole, parts), _ = trainer.parse_batch_test(batch)
    for kind, cosines in (("global", whole), ("local", parts)):
        predicted = cosines.mean(dim=1).argmax(-1).tolist()
        assert predicted == arrays[f"{name}/pred_{kind}_f64"].tolist()
    cosines = trainer.model_inference((whole, parts)) / trainer.model.scale  # of the accuracy
    np.testing.assert_allclose(cosines.numpy(), found[0].cosines, rtol=1e-5, atol=1e-7)
    assert all(model.reads_regions({"cosines"}) for model in (trainer.model, described))


def test_beside_words_its_mean_prompts_have_length_one(make):
    """As the words and every other method's class texts; its own scores read the mean itself."""
    trainer = make(ABOUT["cases"][0])
    trainer.model.texts = {"neglabel": None, "neglabel_negatives": torch.ones(3, 64)}
    with torch.no_grad():
        torch.nn.init.normal_(trainer.learner.global_prompt)
        classes = trainer.class_features()
    lengths = classes["text"].norm(dim=-1)
    assert (lengths < 0.99).any() and (lengths > 0).all()
    torch.testing.assert_close(classes["neglabel"], classes["text"] / lengths[:, None])
    assert classes["neglabel_negatives"].equal(torch.ones(3, 64))


def test_steps_of_training(golden, make, monkeypatch):
    case, arrays = ABOUT["train"], golden("gallop.npz")
    name = case["id"]
    images = torch.from_numpy(arrays[f"{name}/images_q"]).float() / 32
    loader = Batches(images, torch.from_numpy(arrays[f"{name}/labels"]), case["spe"])
    trainer = make(case, loader)
    kept, rates, losses, states = iter(arrays[f"{name}/dropout_index"]), [], [], []
    trainer.kept_prompts = lambda count: torch.from_numpy(next(kept))
    start = {key: x.clone() for key, x in trainer.learner.state_dict().items()}
    trainer.max_epoch, step = 2, GalLoP.forward_backward

    def recording(self, batch):
        rates.append(self.get_current_lr())
        losses.append(step(self, batch)["loss"])
        states.append({key: x.clone() for key, x in self.learner.state_dict().items()})
        return {"loss": losses[-1]}

    monkeypatch.setattr(GalLoP, "forward_backward", recording)
    trainer.train()
    assert rates == case["lr"]
    assert losses == pytest.approx(case["loss"], rel=1e-5)
    for number in (1, 3, 4):
        for ours, theirs in LEARNED.items():
            expected = arrays[f"{name}/{ours}_f64_step{number}"] - start[theirs].double().numpy()
            changed = states[number - 1][theirs].double() - start[theirs].double()
            assert norm_error(changed, expected) < 1e-4, (ours, number)


def test_top_regions_are_the_largest():
    regions, texts = torch.randn(2, 5, 3), torch.randn(2, 4, 3)
    found = top_region_cosines(regions, texts, [2, 9])  # 9 of 5: all
    for b in range(2):
        for n, k in ((0, 2), (1, 5)):
            for c in range(4):
                values = sorted((regions[b] @ texts[n, c]).tolist(), reverse=True)
                assert found[b, n, c].item() == pytest.approx(sum(values[:k]) / k, abs=1e-6)


def test_prompt_sets_beyond_the_chunk_hold_no_graph(make):
    held = {}
    for chunk in (1 << 20, 8):
        trainer, sizes = make(ABOUT["train"], **{"TRAINER.GALLOP.TEXT_CHUNK": chunk}), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x
        ):
            trainer.model.text_features()
        held[chunk] = sum(sizes)
    assert held[8] < held[1 << 20] / 10


def test_dropout_is_a_function_of_seed_and_step(make):
    trainer = make(ABOUT["train"], SEED=1)
    trainer.num_batches, trainer.epoch, trainer.batch_idx = 5, 2, 3
    first = trainer.kept_prompts(64)
    torch.rand(3)
    assert torch.equal(trainer.kept_prompts(64), first) and first.shape == (64, 1)
    assert set(first.flatten().tolist()) == {0, 1, 2, 3}
    for seed, epoch, batch in ((1, 2, 4), (1, 3, 3), (1, 3, 2), (2, 2, 3)):  # none repeats it
        trainer.cfg.merge_from_list(["SEED", seed])
        trainer.epoch, trainer.batch_idx = epoch, batch
        assert not torch.equal(trainer.kept_prompts(64), first)


@pytest.mark.parametrize("share, kept", [(0.0, 4), (0.4, 3), (0.6, 2), (0.75, 1), (0.99, 1)])
def test_the_number_of_dropped_prompts_is_rounded_down(share, kept, make):
    trainer = make(ABOUT["train"] | {"m": 4}, **{"TRAINER.GALLOP.DROPOUT": share})
    trainer.num_batches = 1
    assert trainer.kept_prompts(2).shape == (2, kept)


def test_a_prompt_has_no_full_stop_and_starts_at_the_template(tiny_clip):
    model = tiny_clip("tiny-vit")
    learner = PromptSets(["tea_pot", "cat"], model, "A photo of a", 2, 3)
    import clip

    expected = clip.tokenize(["a photo of a tea pot", "a photo of a cat"])[:, :8]
    assert torch.equal(learner.tokens, expected[:, : learner.tokens.shape[1]])
    embedded = model.token_embedding(expected[0, 1:5])
    for prompt in (*learner.global_prompt, *learner.local_prompts):
        assert torch.equal(prompt, embedded)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"TOPK": (1, 2, 3)}, "one for all 4 local prompts"),
        ({"TOPK": (0,)}, "whole numbers of 1 or more"),
        ({"TOPK": (1.5,)}, "whole numbers of 1 or more"),
        ({"N_GLOBAL": 0}, "N_GLOBAL is 0, it must be at least 1"),
        ({"DROPOUT": 1.0}, "0 or more and below 1"),
        ({"TEMPLATE": " "}, "TEMPLATE is empty"),
    ],
)
def test_settings_that_cannot_be(make, settings, message):
    case = ABOUT["train"]
    with pytest.raises(InputError, match=message):
        make(case, **{f"TRAINER.GALLOP.{key}": value for key, value in settings.items()})


def test_a_resnet_is_refused(make, backbone):
    with pytest.raises(InputError, match=r"local features of a ViT.*use a ViT"):
        make(ABOUT["train"], **{"MODEL.BACKBONE.NAME": backbone("tiny-rn")})


def test_one_number_of_top_regions_is_that_of_each_local_prompt(golden, make):
    """And no prompt changes its kind: the m first stay global, whatever the numbers."""
    arrays, case = golden("gallop.npz"), ABOUT["cases"][0]
    found = []
    for numbers in ((3,), (3,) * case["n"]):
        trainer = disturbed(make(case, **{"TRAINER.GALLOP.TOPK": numbers}), arrays, case["id"])
        assert trainer.ks == [3] * case["n"]
        inputs = trainer.model.image_features(pixels(arrays, case["id"]), local=True)
        with torch.no_grad():
            pair = trainer.model.set_cosines(*inputs, trainer.model.text_features())
        assert [len(x[0]) for x in pair] == [case["m"], case["n"]]
        found.append(pair)
    assert all(map(torch.equal, *found))


def test_more_regions_than_there_are_mean_all(make, caplog):
    make(ABOUT["train"], **{"TRAINER.GALLOP.TOPK": (30,)})
    assert "an image has 16 regions; a larger number means all" in caplog.text


def test_checkpoints(make, tmp_path):
    """A file in the published layout loads; those of other methods and numbers are refused."""
    trainer = make(ABOUT["train"])
    state = {key: torch.randn_like(x) for key, x in trainer.learner.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 50}, tmp_path / "published.ckpt")
    loaded = make(ABOUT["train"], **{"MODEL.INIT_WEIGHTS": str(tmp_path / "published.ckpt")})
    for key, x in loaded.learner.state_dict().items():
        assert torch.equal(x, state[key])
    torch.save({"state_dict": {"ctx": torch.zeros(16, 128)}}, tmp_path / "coop.pth")
    with pytest.raises(InputError, match=r"holds no global_prompt, .* no checkpoint of GalLoP"):
        make(ABOUT["train"], **{"MODEL.INIT_WEIGHTS": str(tmp_path / "coop.pth")})
    with pytest.raises(InputError, match=r"its global_prompt is \[4, 4, 128\], the config asks"):
        make(ABOUT["train"] | {"m": 2}, **{"MODEL.INIT_WEIGHTS": str(tmp_path / "published.ckpt")})
    copies = {f"module.{key}": x + 1 for key, x in state.items()}
    for odd, words in (
        ({key: x.int() for key, x in state.items()}, r"odd.ckpt holds weights .*torch.int32"),
        (state | copies, r"odd.ckpt holds more than one model: (\S+) and module.\1 are both \1"),
    ):
        torch.save({"state_dict": odd}, tmp_path / "odd.ckpt")
        with pytest.raises(InputError, match=words):
            make(ABOUT["train"], **{"MODEL.INIT_WEIGHTS": str(tmp_path / "odd.ckpt")})
