"""Losses, gradients and whole short trainings against the public code on the same weights."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dassl.engine import TRAINER_REGISTRY
from ood.scoring import compute_scores, get_scores
from run.settings import default_cfg
from tests.golden.weights import make_images_q

EPS = float(np.finfo(np.float32).eps)
GOLDEN_CONFIG = {
    "OPTIM.NAME": "sgd",
    "OPTIM.LR": 0.002,
    "OPTIM.LR_SCHEDULER": "cosine",
    "OPTIM.WARMUP_EPOCH": 1,
    "OPTIM.WARMUP_TYPE": "constant",
    "OPTIM.WARMUP_CONS_LR": 1e-5,
    "INPUT.SIZE": (64, 64),
    "INPUT.TRANSFORMS": ("normalize",),
    "INPUT.INTERPOLATION": "bicubic",
    "INPUT.PIXEL_MEAN": [0.48145466, 0.4578275, 0.40821073],
    "INPUT.PIXEL_STD": [0.26862954, 0.26130258, 0.27577711],
    "TEST.NO_TEST": True,
}


class Batches:
    """Recorded batches: the next `per_epoch` at every pass."""

    def __init__(self, images, labels, per_epoch):
        self.batches = [
            {"img": image, "label": label} for image, label in zip(images, labels, strict=True)
        ]
        self.per_epoch, self.epoch = per_epoch, 0
        self.dataset = range(per_epoch * len(images[0]))

    def __len__(self):
        return self.per_epoch

    def __iter__(self):
        start = self.epoch * self.per_epoch
        self.epoch += 1
        return iter(self.batches[start : start + self.per_epoch])


def make_trainer(
    name,
    case,
    classnames,
    loader,
    folder,
    backbone,
    k=3,
    lam=0.25,
    seed=-1,
    device="cpu",
    precision="fp32",
    **own,
):
    """The real trainer on recorded batches; `own`: settings of its node, or of groups."""
    node = TRAINER_REGISTRY.get(name).CONFIG_KEY
    settings = {
        **GOLDEN_CONFIG,
        "TRAINER.NAME": name,
        "OUTPUT_DIR": str(folder),
        "SEED": seed,
        "USE_CUDA": device == "cuda",
        "MODEL.BACKBONE.NAME": backbone,
        "OPTIM.MAX_EPOCH": case.get("max_epoch", 4),
        f"TRAINER.{node}.PREC": precision,
        f"TRAINER.{node}.N_CTX": case["n_ctx"],
        f"TRAINER.{node}.CSC": case["csc"],
        f"TRAINER.{node}.CTX_INIT": case.get("ctx_init") or "",
        f"TRAINER.{node}.CLASS_TOKEN_POSITION": case["class_token_position"],
    }
    if name == "LoCoOp":
        own = {"TOPK": k, "LAMBDA": lam, **own}
    settings |= {key if "." in key else f"TRAINER.{node}.{key}": own[key] for key in own}
    return recorded_trainer(name, settings, classnames, loader)


def recorded_trainer(name, settings, classnames, loader):
    """The trainer of a config, its data the recorded batches of `loader`."""
    cfg = default_cfg()
    for key, value in settings.items():
        cfg.merge_from_list([key, value])

    class Recorded(TRAINER_REGISTRY.get(name)):
        def build_data_loader(self):
            dataset = SimpleNamespace(classnames=classnames, train_x=[], held_out=[], lab2cname={})
            self.dm = SimpleNamespace(dataset=dataset, lab2cname=dict(enumerate(classnames)))
            self.train_loader_x = loader
            self.num_classes, self.lab2cname = len(classnames), self.dm.lab2cname

    Recorded.__name__ = name  # as checkpoints record it
    return Recorded(cfg)


def close(actual, expected, tolerance=1e-5):
    """Largest difference relative to the largest value."""
    expected = np.asarray(expected, dtype=np.float64)
    actual = np.asarray(actual, dtype=np.float64)
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < tolerance, f"relative error {error:.2e}"


def _loss_cases():
    import json
    from pathlib import Path

    path = Path(__file__).parents[1] / "golden" / "loss.json"
    return json.loads(path.read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", _loss_cases(), ids=lambda case: case["id"])
def test_loss_and_gradient(case, golden, clip_file, tmp_path, device, monkeypatch):
    """In float64, as the goldens are, but for their scale, exp(logit_scale), and what they keep of
    the gradients: both are rounded to float32."""
    arrays, about = golden("loss.npz"), golden("loss.json")
    images = torch.from_numpy(arrays["images_q"]).float() / 32
    labels = torch.from_numpy(arrays["labels"])
    backbone = clip_file(case["arch"])
    trainer = make_trainer(
        "LoCoOp", case, about["classnames"], None, tmp_path, backbone, device=device
    )
    ctx0 = torch.from_numpy(arrays[f"{case['id']}/ctx0"]).float()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    trainer.model.double()
    images = images.double()
    with torch.no_grad():
        trainer.learner.ctx.copy_(ctx0)
        close(trainer.model.prompts().cpu(), arrays[f"{case['id']}/text_features"], EPS)
    for k, expected in case["topk"].items():
        trainer.cfg.TRAINER.LOCOOP.TOPK = int(k)
        trainer.learner.ctx.grad = None
        _, summary = trainer.loss(*trainer.parse_batch_train({"img": images, "label": labels}))
        for part in ("loss", "loss_id", "loss_en"):
            assert summary[part].item() == pytest.approx(expected[part], rel=EPS, abs=1e-12), part
        summary["loss"].backward()
        _check_gradient(
            trainer.learner.ctx.grad.cpu().numpy(),
            arrays,
            case["id"],
            k,
            none_selected=expected["n_selected"] == 0,
        )


def _check_gradient(grad, arrays, case, k, none_selected):
    key = f"{case}/coop" if none_selected else f"{case}/top{k}"
    if f"{key}/grad" in arrays:
        close(grad, arrays[f"{key}/grad"], 4 * EPS)
    else:  # of some classes only
        close(grad[[0, 3, -1]], arrays[f"{key}/grad_cls"], 4 * EPS)


def scores_at_100(model, images, names, params=None):
    """Scores as the public code has them: of logits / 100, whatever the model's scale."""
    classes, scores = model.class_features(), get_scores(names)
    needs = {need for score in scores for need in score.needs}
    with torch.no_grad():
        inputs = model.inputs(*model.image_features(images, True), classes, needs)
    share = model.scale.item() / 100
    inputs = {key: x * share if "cosines" in key else x for key, x in inputs.items()}
    return compute_scores(scores, inputs, params)


@pytest.mark.parametrize("arch", ["tiny-vit", "tiny-rn"])
@pytest.mark.parametrize("t", ["1.0", "0.5", "2.0", "0.01"])
def test_scores_of_images(arch, t, golden, clip_file, tmp_path, monkeypatch):
    """In float64; the public code negates."""
    arrays, case = golden("ood_scores.npz"), {"n_ctx": 16, "csc": False}
    case |= {"class_token_position": "end"}
    names = golden("loss.json")["classnames"]
    trainer = make_trainer("LoCoOp", case, names, None, tmp_path, clip_file(arch))
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    trainer.model.double()
    trainer.learner.ctx.data.copy_(torch.from_numpy(arrays["locoop/ctx0"]))
    images = torch.from_numpy(make_images_q(911, 20, 64)).double() / 32
    kinds = ["MCM", "GL-MCM"]
    found = scores_at_100(trainer.model, images, kinds, {"temperature": float(t)})
    for name in kinds:
        close(found[name], -arrays[f"locoop/{arch.replace('-', '_')}/T{t}/{name}_f64"], EPS)


def _runs():
    import json
    from pathlib import Path

    path = Path(__file__).parents[1] / "golden" / "train.json"
    return json.loads(path.read_text(encoding="utf-8"))["runs"]


@pytest.mark.parametrize("run", _runs(), ids=lambda run: run["id"])
def test_eight_steps_of_training(run, golden, clip_file, tmp_path, monkeypatch, device):
    about, arrays = golden("train.json"), golden("train.npz")
    start = arrays[f"{run['id']}/ctx0"].astype(np.float64)
    images = torch.from_numpy(arrays["images_q"]).float() / 32  # [8, 4, 3, 64, 64]
    loader = Batches(images, torch.from_numpy(arrays["labels"]), about["batches_per_epoch"])
    trainer = make_trainer(
        run["trainer"],
        run,
        about["classnames"],
        loader,
        tmp_path,
        clip_file(run["arch"]),
        about["topk"],
        about["lambda_value"],
        device=device,
    )
    with torch.no_grad():
        trainer.learner.ctx.copy_(torch.from_numpy(start))
    trainer.max_epoch = 4  # of MAX_EPOCH, which is the cosine's length
    rates, losses, contexts = [], [], []
    step = type(trainer).forward_backward

    def recorded(self, batch):
        rates.append(self.get_current_lr())
        losses.append(step(self, batch)["loss"])
        contexts.append(self.learner.ctx.detach().cpu().numpy().copy())

        return {"loss": losses[-1]}

    monkeypatch.setattr(type(trainer), "forward_backward", recorded)
    trainer.train()
    assert rates == run["lr"]
    assert losses == pytest.approx(run["loss_f64"], rel=1e-5)
    for number in (1, 3, 8):
        key = f"{run['id']}/ctx_f64_step{number}"
        expected = arrays[key if key in arrays else key.replace("f64", "f32")]
        close(contexts[number - 1], expected)
        tolerance = 1e-4 if key in arrays else 2e-4  # the public float32's own error
        close(contexts[number - 1] - start, expected - start, tolerance)


def test_a_gradient_scaler_changes_nothing_but_the_path(golden, clip_file, tmp_path):
    """On a GPU amp is the default: its branch of the step, with a scaler that works on the CPU."""
    about, arrays = golden("train.json"), golden("train.npz")
    run = about["runs"][0]
    contexts = []
    for scaler in (
        torch.amp.GradScaler("cpu", enabled=False),
        torch.amp.GradScaler("cpu", init_scale=1024.0),
    ):
        images = torch.from_numpy(arrays["images_q"]).float() / 32
        loader = Batches(images, torch.from_numpy(arrays["labels"]), about["batches_per_epoch"])
        trainer = make_trainer(
            "LoCoOp",
            run,
            about["classnames"],
            loader,
            tmp_path / str(len(contexts)),
            clip_file(run["arch"]),
        )
        with torch.no_grad():
            trainer.learner.ctx.copy_(torch.from_numpy(arrays["a/ctx0"]))
        trainer.scaler, trainer.max_epoch = scaler, 2
        trainer.train()
        contexts.append(trainer.learner.ctx.detach().numpy())
    close(contexts[1], contexts[0], 1e-6)


def test_the_order_of_the_images_depends_on_the_seed_alone(golden, clip_file, tmp_path):
    """Not on how many random numbers building the model took."""
    about = golden("train.json")
    drawn = []
    for arch in ("tiny-vit", "tiny-rn"):
        case = about["runs"][0] | {"arch": arch}
        make_trainer(
            "CoOp", case, about["classnames"], None, tmp_path / arch, clip_file(arch), seed=3
        )
        drawn.append(torch.randperm(100))
    assert torch.equal(*drawn)


def test_lambda_zero_is_coop(golden, clip_file, tmp_path):
    about, arrays = golden("loss.json"), golden("loss.npz")
    case = about["cases"][0]
    images = torch.from_numpy(arrays["images_q"]).float() / 32
    labels = torch.from_numpy(arrays["labels"])
    losses = {}
    for name in ("CoOp", "LoCoOp"):
        trainer = make_trainer(
            name, case, about["classnames"], None, tmp_path / name, clip_file("tiny-vit"), lam=0.0
        )
        with torch.no_grad():
            trainer.learner.ctx.copy_(torch.from_numpy(arrays["c00/ctx0"]))
        inputs = trainer.parse_batch_train({"img": images, "label": labels})
        losses[name] = trainer.loss(*inputs)[1]["loss"].item()
    assert losses["CoOp"] == pytest.approx(losses["LoCoOp"], rel=1e-6)
