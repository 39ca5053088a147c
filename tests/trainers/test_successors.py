"""SCT, FA and FoBoR against their public code on the same weights: losses, gradients, short
trainings, choices and scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import clip.image
from dassl.utils.errors import InputError
from run.settings import default_cfg, read_config_file
from tests.golden.weights import images_f32, make_images_q
from tests.trainers.test_goldens import Batches, close, make_trainer, scores_at_100

FOLDER = Path(__file__).parents[1] / "golden"
ABOUT = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in ("sct", "fa", "fobor")}


def pixels(seed, count):
    return torch.from_numpy(images_f32(make_images_q(seed, count, 64)))  # [count, 3, 64, 64]


def build(method, name, case, loader, folder, clip_file, **own):
    about = ABOUT[method]
    backbone = clip_file(about["arch"], about["weights_seed"])
    case = {"n_ctx": case.get("n_ctx", case.get("n", 4)), "class_token_position": "end", **case}
    return make_trainer(name, case, about["classnames"], loader, folder, backbone, **own)


def set_context(trainer, values):
    with torch.no_grad():
        trainer.learner.ctx.copy_(torch.as_tensor(values))


def gradient_of(trainer, images, labels):
    """The summary of a step, and the gradient of the context."""
    trainer.learner.ctx.grad = None
    _, summary = trainer.loss(*trainer.parse_batch_train({"img": images, "label": labels}))
    summary["loss"].backward()
    return summary, trainer.learner.ctx.grad.numpy()


def relative(actual, expected):
    """In relative norm."""
    actual, expected = (np.asarray(x, dtype=np.float64) for x in (actual, expected))
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def follow(trainer, epochs, monkeypatch):
    """Train: the rate, the summary and the context of each step."""
    rates, summaries, contexts = [], [], []
    step = type(trainer).forward_backward

    def recorded(self, batch):
        rates.append(self.get_current_lr())
        summaries.append(step(self, batch))
        contexts.append(self.learner.ctx.detach().numpy().copy())
        return summaries[-1]

    monkeypatch.setattr(type(trainer), "forward_backward", recorded)
    trainer.max_epoch = epochs
    trainer.train()
    return rates, summaries, contexts


def check_contexts(contexts, start, arrays, run):
    for number in (1, 3, 8):
        expected = arrays[f"{run}/ctx_f64_step{number}"]
        close(contexts[number - 1], expected)
        assert relative(contexts[number - 1] - start, expected - start) < 1e-4


# SCT


def sct_runs():
    cases = [(case, run) for case in ABOUT["sct"]["loss_cases"] for run in case["runs"]]
    return [(case, run) for case, run in cases if run["prec"] == "fp32"]


@pytest.mark.parametrize(
    "case, run", sct_runs(), ids=lambda x: x.get("id") or f"k{x['topk']}_lam{x['lam']}"
)
def test_sct_loss_and_gradient(case, run, golden, clip_file, tmp_path):
    arrays, case = golden("sct.npz"), {**case, "class_token_position": case["pos"]}
    case |= {"ctx_init": case["init"]}
    own = {"TOPK": run["topk"], "LAMBDA": run["lam"]}
    trainer = build("sct", "SCT", case, None, tmp_path, clip_file, **own)
    if f"{case['id']}/ctx0" in arrays:
        set_context(trainer, arrays[f"{case['id']}/ctx0"])
    labels = torch.from_numpy(arrays[f"{case['id']}/labels"])
    summary, grad = gradient_of(trainer, pixels(ABOUT["sct"]["image_seed"], 4), labels)
    for part in ("loss", "loss_id", "loss_en"):
        assert summary[part].item() == pytest.approx(run["f64"][part], rel=1e-5, abs=1e-6), part
    key = f"{case['id']}/k{run['topk']}_lam{run['lam']}/grad_f64"
    assert relative(grad, arrays[key]) < 1e-5


@pytest.mark.parametrize("run", ABOUT["sct"]["train_cases"], ids=lambda run: run["id"])
def test_sct_training(run, golden, clip_file, tmp_path, monkeypatch):
    arrays, about = golden("sct.npz"), ABOUT["sct"]
    images = pixels(about["image_seed"], 32).unflatten(0, (8, 4))
    labels = torch.from_numpy(arrays[f"{run['id']}/labels"])
    loader = Batches(images, labels, about["steps_per_epoch"])
    own = {"TOPK": run["k"], "LAMBDA": run["lam"]}
    case = {**run, "max_epoch": run["ep"]}
    trainer = build("sct", "SCT", case, loader, tmp_path, clip_file, **own)
    start = arrays[f"{run['id']}/ctx0"].astype(np.float64)
    set_context(trainer, start)
    rates, summaries, contexts = follow(trainer, 4, monkeypatch)
    assert rates == pytest.approx(run["lr"], rel=1e-12)
    for part in ("loss", "loss_id", "loss_en"):
        expected = [step[part] for step in run["steps_f64"]]
        assert [s[part] for s in summaries] == pytest.approx(expected, rel=1e-5, abs=5e-6), part
    check_contexts(contexts, start, arrays, run["id"])
    if f"{run['id']}/mcm_T1_f64" in arrays:
        found = scores_at_100(trainer.model, images[:2].flatten(0, 1), ["MCM", "GL-MCM"])
        for name, key in (("MCM", "mcm"), ("GL-MCM", "glmcm")):
            close(found[name], arrays[f"{run['id']}/{key}_T1_f64"])


@pytest.mark.parametrize("part, least", [("image_losses", 0.05), ("region_weights", 0.005)])
def test_the_gradient_flows_through_both_of_scts_weights(part, least, golden, clip_file, tmp_path):
    """No loss would show it; the gradient is another where the label's probability is detached."""
    arrays, case = golden("sct.npz"), {**ABOUT["sct"]["loss_cases"][0], "n_ctx": 16}
    trainer = build("sct", "SCT", case, None, tmp_path, clip_file, TOPK=3)
    set_context(trainer, arrays["n16/ctx0"])
    detached = {
        "image_losses": lambda losses: losses * (1.0000001 - (-losses.detach()).exp()),
        "region_weights": lambda losses: 1e-7 + (-losses.detach()).exp()[:, None],
    }
    setattr(trainer, part, detached[part])
    labels = torch.from_numpy(arrays["n16/labels"])
    _, grad = gradient_of(trainer, pixels(ABOUT["sct"]["image_seed"], 4), labels)
    assert relative(grad, arrays["n16/k3_lam0.25/grad_f64"]) > least


# FA


def fa_batches():
    about = ABOUT["fa"]
    images = pixels(about["image_seed"], sum(about["batch_sizes"]))
    return images.split(about["batch_sizes"])


@pytest.mark.parametrize("case", ABOUT["fa"]["loss_cases"], ids=lambda case: case["id"])
def test_fa_loss_and_gradient(case, golden, clip_file, tmp_path):
    """The logits of the public code, too: the learned classes, then K equal blocks."""
    arrays, size = golden("fa.npz"), ABOUT["fa"]["batch_sizes"][0]
    own = {"K": case["K"], "CTX_INIT": "a photo of a"}
    trainer = build("fa", "FA", case, None, tmp_path, clip_file, **own)
    noise = arrays["noise_csc" if case["csc"] else "noise"].astype(np.float32)
    set_context(trainer, trainer.learner.ctx.detach().numpy() + noise)
    labels = torch.from_numpy(arrays["train_labels"][:size])
    images = fa_batches()[0]
    summary, grad = gradient_of(trainer, images, labels)
    assert summary["loss"].item() == pytest.approx(case["loss_f64"], rel=1e-5)
    assert relative(grad, arrays[f"{case['id']}/grad_f64"]) < 1e-5
    with torch.no_grad():
        features, _ = trainer.model.image_features(images, False)
        needs = {"logits", "frozen_cosines"}
        inputs = trainer.model.inputs(features, None, trainer.class_features(), needs)
    frozen = inputs["frozen_cosines"] * trainer.model.scale
    blocks = torch.cat([inputs["logits"], *[frozen] * case["K"]], dim=1)
    close(blocks, arrays[f"{case['id']}/logits_f64"])


@pytest.mark.parametrize("run", ABOUT["fa"]["train_cases"], ids=lambda run: run["id"])
def test_fa_training_and_scores(run, golden, clip_file, tmp_path, monkeypatch):
    """With the rate by step, the smaller last batch, and the scores after all twelve steps."""
    arrays, about = golden("fa.npz"), ABOUT["fa"]
    labels = torch.from_numpy(arrays["train_labels"]).split(about["batch_sizes"])
    loader = Batches(fa_batches() * run["ep"], labels * run["ep"], len(about["batch_sizes"]))
    case = {**run, "max_epoch": run["ep"]}
    own = {"K": run["K"], "CTX_INIT": "a photo of a"}
    trainer = build("fa", "FA", case, loader, tmp_path, clip_file, **own)
    start = trainer.learner.ctx.detach().numpy().copy()
    rates, summaries, contexts = follow(trainer, run["ep"], monkeypatch)
    assert rates == pytest.approx(run["lr"], rel=1e-9)
    assert trainer.get_current_lr() == pytest.approx(run["lr_after_last"], abs=1e-15)
    assert [s["loss"] for s in summaries] == pytest.approx(run["loss_f64"], rel=1e-5)
    check_contexts(contexts, start, arrays, run["id"])
    drawn = pixels(about["image_seed"], 36)
    for part, images in (("test", drawn[24:30]), ("ood", drawn[30:])):
        found = scores_at_100(trainer.model, images, ["FA-MCM", "FA-GL-MCM"])
        close(found["FA-MCM"], arrays[f"{run['id']}/{part}_mcm_f64"], 1e-6)
        close(found["FA-GL-MCM"], arrays[f"{run['id']}/{part}_gl_f64"], 1e-6)
    predicted = trainer.model_inference(
        trainer.model.image_features(drawn[24:30], False)[0]
    ).argmax(dim=1)
    assert predicted.tolist() == arrays[f"{run['id']}/test_pred_f64"].tolist()


def test_fa_refuses_what_it_cannot_mean(clip_file, tmp_path):
    case = {"csc": False}
    for words in ("", "  ", "_"):
        with pytest.raises(InputError, match=r"TRAINER\.FA\.CTX_INIT is empty.*Give words"):
            build("fa", "FA", case, None, tmp_path, clip_file, CTX_INIT=words)
    with pytest.raises(InputError, match=r"TRAINER\.FA\.K is -1, it must be at least 0"):
        build("fa", "FA", case, None, tmp_path, clip_file, CTX_INIT="a photo of a", K=-1)


# FoBoR


@pytest.mark.parametrize("case", ABOUT["fobor"]["loss_cases"], ids=lambda case: case["id"])
def test_fobor_loss_gradient_and_choices(case, golden, clip_file, tmp_path, monkeypatch):
    arrays, about, suffix = golden("fobor.npz"), ABOUT["fobor"], "_csc" if case["csc"] else ""
    own = {key.upper(): value for key, value in case["hy"].items()} | {"TOPK": case["k"]}
    trainer = build("fobor", f"{case['kind']}FoBoR", case, None, tmp_path, clip_file, **own)
    set_context(trainer, arrays[f"ctx0{suffix}"])
    labels = torch.from_numpy(arrays[f"labels{suffix}"])
    images = pixels(about[f"image_seed{suffix}"], 4)
    for at_once in (1, 1 << 40):  # bytes: one image after the other, and all together
        monkeypatch.setattr(clip.image, "CPU_BYTES", at_once)
        attention = trainer.parse_batch_train({"img": images, "label": labels})[2]
        close(attention, arrays[f"attention_f64{suffix}"])
    chosen = []
    argmax = torch.Tensor.argmax
    monkeypatch.setattr(
        torch.Tensor,
        "argmax",
        lambda x, *a, **k: (chosen.append(argmax(x, *a, **k)), chosen[-1])[1],
    )
    summary, grad = gradient_of(trainer, images, labels)
    assert [c.tolist() for c in chosen] == [
        [c[0] for c in case["confusing_class"]],
        [c[0][0] for c in case["region"]],
    ]
    for part in ("loss", "loss_id", "loss_abs", "loss_cfr"):  # a difference of parts of about 3
        assert summary[part].item() == pytest.approx(case["f64"][part], rel=1e-5, abs=5e-6), part
    assert relative(grad, arrays[f"{case['id']}/grad_f64"]) < 1e-5


@pytest.mark.parametrize("run", ABOUT["fobor"]["train_cases"], ids=lambda run: run["id"])
def test_fobor_training(run, golden, clip_file, tmp_path, monkeypatch):
    arrays, about = golden("fobor.npz"), ABOUT["fobor"]
    images = torch.stack([pixels(seed, 4) for seed in run["image_seeds"]])
    labels = torch.from_numpy(arrays[f"{run['id']}/labels"])
    loader = Batches(images, labels, about["steps_per_epoch"])
    own = {key.upper(): value for key, value in run["hy"].items()} | {"TOPK": run["k"]}
    case = {"csc": False, **run, "max_epoch": run["ep"]}
    trainer = build("fobor", f"{run['kind']}FoBoR", case, loader, tmp_path, clip_file, **own)
    start = arrays[f"{run['id']}/ctx0"].astype(np.float64)
    set_context(trainer, start)
    rates, summaries, contexts = follow(trainer, 4, monkeypatch)
    assert rates == pytest.approx(run["lr"], rel=1e-12)
    for part in ("loss_id", "loss_abs", "loss_cfr"):
        expected = [step[part] for step in run["steps_f64"]]
        assert [s[part] for s in summaries] == pytest.approx(expected, rel=1e-5, abs=5e-6), part
    check_contexts(contexts, start, arrays, run["id"])
    found = scores_at_100(trainer.model, images[:2].flatten(0, 1), ["MCM", "GL-MCM"])
    for name, key in (("MCM", "mcm"), ("GL-MCM", "glmcm")):
        close(found[name], arrays[f"{run['id']}/{key}_f64"])


def test_regions_of_equal_attention_weigh_one_half(clip_file, tmp_path):
    """Their attention, 0 to 1 in each image, is 0 divided by 0 but for 1e-8."""
    trainer = trained_with("LoCoOpFoBoR", clip_file, tmp_path)
    weights = trainer.region_weights(torch.tensor([0.0, 2.0]), torch.full((2, 5), 0.2))
    assert weights.equal(torch.full((2, 5), 0.5))


@pytest.mark.parametrize("name", ["LoCoOpFoBoR", "SCTFoBoR"])
def test_fobor_refuses_a_resnet(name, clip_file, tmp_path):
    case = {"n_ctx": 4, "csc": False, "class_token_position": "end"}
    with pytest.raises(InputError, match=r"attention between.*ModifiedResNet has none: use a ViT"):
        make_trainer(name, case, ["a", "b"], None, tmp_path, clip_file("tiny-rn"))


@pytest.mark.parametrize("fuse", [-0.1, 1.5])
def test_fobor_refuses_a_share_beyond_0_and_1(fuse, clip_file, tmp_path):
    with pytest.raises(InputError, match=rf"SCTFOBOR\.FUSE is {fuse}, it must lie between 0 and 1"):
        trained_with("SCTFoBoR", clip_file, tmp_path, FUSE=fuse)


# Files


@pytest.mark.parametrize(
    "file, epochs, batch",
    [
        ("SCT/vit_b16_ep25", 25, 32),
        ("FA/vit_b16_ep50", 50, 160),
        ("LoCoOpFoBoR/vit_b16_ep30", 30, 32),
        ("SCTFoBoR/vit_b16_ep30", 30, 32),
        ("GalLoP/vit_b16_ep50", 50, 128),
    ],
)
def test_a_yaml_lists_all_numbers_of_its_method(file, epochs, batch):
    given = read_config_file(f"configs/trainers/{file}.yaml")
    [(key, own)] = given["TRAINER"].items()
    assert own.keys() == default_cfg().TRAINER[key].keys()
    optim = {key: given["OPTIM"][key] for key in ("NAME", "LR", "MOMENTUM", "WEIGHT_DECAY")}
    decay = 0.01 if key == "GALLOP" else 5e-4
    assert optim == {"NAME": "sgd", "LR": 0.002, "MOMENTUM": 0.9, "WEIGHT_DECAY": decay}
    assert given["OPTIM"]["MAX_EPOCH"] == epochs
    assert given["DATALOADER"]["TRAIN_X"]["BATCH_SIZE"] == batch


def trained_with(name, clip_file, tmp_path, **own):
    """A trainer of two classes, which writes a checkpoint of its own to `tmp_path`/run."""
    case = {"n_ctx": 4, "csc": False, "class_token_position": "end"}
    names, file = ["cat", "tea pot"], clip_file("tiny-vit")
    if name == "FA":
        own = {"CTX_INIT": "a photo of a", **own}
    loader = [None] * 3  # steps of an epoch
    return make_trainer(name, case, names, loader, tmp_path / "run", file, k=1, **own)


SUCCESSORS = ("SCT", "FA", "LoCoOpFoBoR", "SCTFoBoR")


@pytest.mark.parametrize("name", SUCCESSORS)
@pytest.mark.parametrize("layout", ["prompt_learner", "whole model", "one file"])
def test_published_files_load(name, layout, clip_file, tmp_path):
    """LoCoOp's layout (SCT's), FoBoR's of a whole model, and FA's of all weights in one file."""
    trainer = trained_with(name, clip_file, tmp_path)
    ctx = torch.randn_like(trainer.learner.ctx)
    prompts = {"ctx": ctx, "token_prefix": torch.zeros(2, 1, 128), "token_suffix": torch.zeros(2)}
    whole = {f"prompt_learner.{key}": x for key, x in prompts.items()}
    whole |= {"logit_scale": torch.ones(()), "text_encoder.ln_final.weight": torch.ones(128)}
    content, place = {
        "prompt_learner": ({"state_dict": prompts, "epoch": 25}, "prompt_learner/model.pth.tar-25"),
        "whole model": ({"state_dict": whole, "epoch": 30}, "model/model.pth.tar-30"),
        "one file": ({f"module.{key}": x for key, x in whole.items()}, "model.pth"),
    }[layout]
    file = tmp_path / "published" / place
    file.parent.mkdir(parents=True)
    torch.save(content, file)
    trainer.load_model(str(tmp_path / "published"))
    assert torch.equal(trainer.learner.ctx, ctx)
    assert trainer.provenance()["context"]["file"] == str(file)
    begun = trained_with(name, clip_file, tmp_path, **{"MODEL.INIT_WEIGHTS": str(file)})
    assert torch.equal(begun.learner.ctx, ctx)


def refused(trainer, folder, *epoch):
    with pytest.raises(InputError) as error:
        trainer.load_model(str(folder), *epoch)
    return str(error.value)


def test_a_file_without_an_epoch_is_not_taken_for_that_of_one(clip_file, tmp_path):
    """FA's model.pth, when eval_ood.py is asked for an epoch."""
    trainer = trained_with("FA", clip_file, tmp_path)
    before = trainer.learner.ctx.clone()
    torch.save({"ctx": before + 1}, tmp_path / "model.pth")
    assert "There is no checkpoint" in (message := refused(trainer, tmp_path, 5))
    assert "model.pth.tar-5" in message and torch.equal(trainer.learner.ctx, before)
    trainer.load_model(str(tmp_path))
    assert torch.equal(trainer.learner.ctx, before + 1)


@pytest.mark.filterwarnings("ignore:.*sparse tensor")
@pytest.mark.parametrize("name", SUCCESSORS)
def test_a_checkpoint_of_another_method_is_refused(name, clip_file, tmp_path):
    trainer, place = trained_with(name, clip_file, tmp_path), tmp_path / "other/prompt_learner"
    place.mkdir(parents=True)
    ctx = torch.zeros(4, 128)
    for state, words in (
        ({"global_prompt": ctx[None], "local_prompts": ctx[None]}, "no finite context vectors"),
        ({"ctx": ctx, "meta_net.linear1.weight": ctx}, "does not fit the model"),
        ({"ctx": torch.zeros(16, 128)}, "a shared context of 16 tokens"),
        ({"ctx": ctx[0]}, "no finite context vectors"),
        ({"ctx": ctx.to_sparse()}, "no finite context vectors"),
        ({"ctx": ctx.to(torch.complex64)}, "no finite context vectors"),
        ({"ctx": ctx.long()}, "no finite context vectors"),
        ({"ctx": ctx + torch.nan}, "no finite context vectors"),
        ({"ctx": ctx, "module.ctx": ctx + 1}, "model.pth.tar-1 holds more than one model: ctx and"),
    ):
        torch.save({"state_dict": state, "epoch": 1}, place / "model.pth.tar-1")
        assert words in refused(trainer, place.parent)


def test_fa_is_not_scored_with_another_k_or_other_words(clip_file, tmp_path):
    trained_with("FA", clip_file, tmp_path).save_model(0, str(tmp_path / "fa"))
    other = trained_with("FA", clip_file, tmp_path, K=2)
    assert "was trained with K 3" in refused(other, tmp_path / "fa")
    other = trained_with("FA", clip_file, tmp_path, CTX_INIT="a picture of a")
    assert "was trained with frozen_words a photo of a" in refused(other, tmp_path / "fa")
    trained_with("CoOp", clip_file, tmp_path).save_model(0, str(tmp_path / "coop"))
    fa = trained_with("FA", clip_file, tmp_path)
    assert "was trained with trainer CoOp" in refused(fa, tmp_path / "coop")


@pytest.mark.parametrize("prefix", ["", "module.", "prompt_learner."])
def test_a_run_may_begin_with_a_context_beside_other_weights(prefix, clip_file, tmp_path, caplog):
    """As CoCoOp's files hold it; those of its other network are left out, with a warning."""
    file = tmp_path / "cocoop.pth"
    state = {"ctx": torch.randn(4, 128), "meta_net.linear1.bias": torch.zeros(8)}
    torch.save({"state_dict": {prefix + name: x for name, x in state.items()}}, file)
    begun = trained_with("SCT", clip_file, tmp_path, **{"MODEL.INIT_WEIGHTS": str(file)})
    assert torch.equal(begun.learner.ctx, state["ctx"])
    assert f"Left out of {file}" in caplog.text and "meta_net.linear1.bias" in caplog.text


def test_fa_may_begin_with_another_trainers_context(clip_file, tmp_path):
    source = trained_with("CoOp", clip_file, tmp_path, CSC=True)
    source.save_model(0, str(tmp_path))
    file = str(tmp_path / "prompt_learner/model.pth.tar-1")
    begun = trained_with("FA", clip_file, tmp_path, CSC=True, **{"MODEL.INIT_WEIGHTS": file})
    assert torch.equal(begun.learner.ctx, source.learner.ctx)
    with pytest.raises(InputError, match=r"holds one context for each of 2 .* asks for a shared"):
        trained_with("SCT", clip_file, tmp_path, **{"MODEL.INIT_WEIGHTS": file})


def test_locoop_and_its_successors_read_each_others_contexts(clip_file, tmp_path):
    source = trained_with("LoCoOp", clip_file, tmp_path)
    source.save_model(0, str(tmp_path / "locoop"))
    for name in ("SCT", "LoCoOpFoBoR", "SCTFoBoR"):
        trainer = trained_with(name, clip_file, tmp_path)
        trainer.load_model(str(tmp_path / "locoop"))
        assert torch.equal(trainer.learner.ctx, source.learner.ctx)


@pytest.mark.parametrize("name", ["SCT", "LoCoOpFoBoR", "SCTFoBoR"])
def test_k_above_the_classes_and_weights_below_zero(name, clip_file, tmp_path):
    trainer = trained_with(name, clip_file, tmp_path, TOPK=3)
    with pytest.raises(InputError, match=r"K = 3 with 2 classes"):
        trainer.before_train()
    key = trainer.WEIGHTS[0]
    with pytest.raises(InputError, match=rf"\.{key}.* is -1\.0: .*0 or more"):
        trained_with(name, clip_file, tmp_path, **{key: -1.0})
