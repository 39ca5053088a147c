"""CLIPN's losses, gradients and training against the public code, and where ours is better."""

import json
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clip import tokenize
from clip.negation import draw
from clip.templates import classifier
from clip.tokenizer import cut_to_longest
from dassl.data.transforms import build_transform
from datasets.captions import PREFETCH, as_bytes, build_pairs_loader, from_bytes
from run.settings import default_cfg, merge, read_config_file
from tests.golden import weights_clipn
from trainers import clipn
from trainers.clipn import CLIPN, BranchTexts, clipn_losses

pytestmark = pytest.mark.slow  # half a minute together

GOLDEN = Path(__file__).parents[1] / "golden"
LOSS = json.loads((GOLDEN / "clipn_loss.json").read_text(encoding="utf-8"))
TRAIN = json.loads((GOLDEN / "clipn_train.json").read_text(encoding="utf-8"))
VARIANTS = {"src": "learnable", "hand": "handcrafted"}
# Slices of parameters that the goldens hold, by name.
SLICES = {
    "prompt_no": ("prompt_no", np.s_[:, :14, :16]),
    "fc": ("transformer.resblocks.1.mlp.c_fc.weight", np.s_[:12, :12]),
    "inproj": ("transformer.resblocks.0.attn.in_proj_weight", np.s_[:12, :12]),
    "outproj_bias": ("transformer.resblocks.1.attn.out_proj.bias", np.s_[:24]),
    "ln_final_w": ("ln_final.weight", np.s_[:24]),
    "text_projection_no": ("text_projection", np.s_[:12, :12]),
    "pos_no": ("positional_embedding", np.s_[:16, :8]),
}


EXACT = 1e-10  # of float64, through two towers of a few layers


def close(actual, expected, tolerance=1e-5):
    """Largest difference relative to the largest value."""
    actual, expected = (np.asarray(x, dtype=np.float64) for x in (actual, expected))
    error, largest = np.abs(actual - expected).max(), np.abs(expected).max()
    assert error <= tolerance * largest, f"error {error:.2e}, largest {largest:.2e}"


class Batches(list):
    """Recorded batches, the same in every epoch but for their texts."""

    texts, epoch = None, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            yield batch | self.texts(batch["caption"], self.epoch * len(self) + number)

    @property
    def dataset(self):
        return range(sum(len(batch["img"]) for batch in list.__iter__(self)))


@pytest.fixture
def make_trainer(clipn_file, tmp_path):
    """The real trainer on recorded batches, tokens and draws."""

    def make(case, loader=None, tokens=None, draws=None, folder="run", **settings):
        cfg = default_cfg()
        plain = case.get("init") == "clip"
        settings = {
            "TRAINER.NAME": "CLIPN",
            "OUTPUT_DIR": str(tmp_path / folder),
            "SEED": 1,
            "MODEL.BACKBONE.ACTIVATION": "gelu",
            "INPUT.SIZE": (64, 64),
            "INPUT.TRANSFORMS": ("normalize",),
            "MODEL.BACKBONE.NAME": clipn_file(
                case["seed"], case["variant"], logit_scale=case["logit_scale"], plain=plain
            ),
            "INPUT.INTERPOLATION": "bicubic",
            "INPUT.PIXEL_MEAN": [0.48145466, 0.4578275, 0.40821073],
            "INPUT.PIXEL_STD": [0.26862954, 0.26130258, 0.27577711],
            "TEST.NO_TEST": True,
            "OPTIM.NAME": "adamw",
            "OPTIM.LR": 3e-4,
            "OPTIM.ADAM_BETA2": 0.98,
            "OPTIM.WEIGHT_DECAY": 0.2,
            "OPTIM.MAX_EPOCH": case.get("epochs", 1),
            "TRAINER.CLIPN.VARIANT": VARIANTS[case["variant"]],
            "TRAINER.CLIPN.PREC": "fp32",
            "TRAINER.CLIPN.TEMPLATE": "published",
            "TRAINER.CLIPN.WARMUP_STEPS": case.get("warmup", 0),
            **settings,
        }
        for key, value in settings.items():
            cfg.merge_from_list([key, value])

        class Recorded(CLIPN):
            def build_data_loader(self):
                names = ["cat", "dog"]
                dataset = SimpleNamespace(classnames=names, train_x=[], lab2cname={})
                self.dm = SimpleNamespace(
                    dataset=dataset,
                    lab2cname=dict(enumerate(names)),
                    tfm_train=build_transform(self.cfg, choices=["normalize"]),
                    tfm_test=build_transform(self.cfg, is_train=False, choices=["normalize"]),
                )
                self.num_classes, self.lab2cname = len(names), self.dm.lab2cname

            @cached_property
            def train_loader_x(self):
                loader.texts = self.texts() if tokens is None else recorded
                return loader

        def recorded(rows, step):  # the recorded "captions" are row numbers
            standard, denied = (
                (tokens[rows], tokens[rows]) if tokens.ndim == 2 else (tokens[rows].unbind(1))
            )
            drawn = {} if draws is None else {"choices": torch.tensor(draws[step])}
            return {"tokens": standard, "denied": denied, **drawn}

        return Recorded(cfg)

    return make


# Losses


def _features(arrays, name, dtype=torch.float32):
    return [
        torch.from_numpy(arrays[f"{name}/{key}"]).to(dtype).requires_grad_()
        for key in ("img", "yes", "no")
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", LOSS["cases"], ids=lambda case: case["name"])
def test_losses_and_gradient(case, dtype, golden):
    name, expected = case["name"], case["fp64"]
    if dtype == torch.float32 and name in ("N4_same", "N4_neg"):
        pytest.skip("2 - 2 t.g cancels: float32, the public code's too, has 4 digits left")
    arrays = golden("clipn_loss.npz")
    features = _features(arrays, name, dtype)
    scale = torch.tensor(case["scale"], dtype=dtype, requires_grad=True)
    bin_yes, bin_no, tso = clipn_losses(*features, scale)
    assert bin_yes.item() == pytest.approx(expected["bin_yes"], rel=1e-5)
    assert tso.item() == pytest.approx(expected["tso_L2"], rel=1e-5)
    if name == "N1":  # a single pair has no negatives: NaN in the public code
        assert bin_no == 0 and np.isnan(case["fp64"]["total"])
        return
    assert bin_no.item() == pytest.approx(expected["bin_no"], rel=1e-5)
    total = 0.5 * (bin_yes + bin_no + tso)
    assert total.item() == pytest.approx(expected["total"], rel=1e-5)
    total.backward()
    for key, x in zip(("img", "yes", "no", "scale"), (*features, scale), strict=True):
        close(x.grad, arrays[f"{name}/g_{key}"], EXACT if dtype == torch.float64 else 1e-6)


def test_finite_where_the_public_code_is_not(golden):
    """Its float32 loss is NaN from a logit gap of 104."""
    case = next(case for case in LOSS["cases"] if case["name"] == "N4_sat")
    assert np.isnan(case["fp32_total"]) and np.isfinite(case["fp64"]["total"])
    features = torch.eye(4)
    for scale in (1e3, 1e6):
        negation = features.clone().requires_grad_()
        losses = clipn_losses(features, -features, negation, torch.tensor(scale))
        sum(losses).backward()
        assert sum(losses).isfinite() and negation.grad.isfinite().all()
        assert losses[0].item() == pytest.approx(2 * scale)


@pytest.mark.parametrize("batch", ["N4", "N8"])
def test_two_ranks_loss_is_that_of_the_whole_batch(batch, golden):
    arrays = golden("clipn_loss.npz")
    images, text, negation = _features(arrays, f"ddp/{batch}")
    losses = clipn_losses(images, text, negation, torch.tensor(20.0))
    expected = arrays[f"ddp/{batch}/losses"]
    assert [loss.item() for loss in losses] == pytest.approx(expected[:3].tolist(), rel=1e-5)
    (0.5 * sum(losses)).backward()
    close(negation.grad, arrays[f"ddp/{batch}/g_no"])


@pytest.mark.parametrize("micro_batch", [0, 2, 4])
@pytest.mark.parametrize("name", LOSS["model"])
def test_gradients_of_the_whole_model(name, micro_batch, golden, make_trainer, monkeypatch):
    """As published, whole or in parts: the parts' gradients are the whole batch's.

    In float64, as the goldens are; the gradients of the prompts are kept in float32.
    """
    variant, case = name.split("/")[0], LOSS["model"][name]
    arrays = {
        key.removeprefix(f"{name}/"): x
        for key, x in golden("clipn_loss.npz").items()
        if key.startswith(f"{name}/")
    }
    trainer = make_trainer(
        {**case, "variant": variant}, **{"TRAINER.CLIPN.MICRO_BATCH": micro_batch}
    )
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    trainer.model.double()
    tokens = torch.from_numpy(arrays["tokens"].astype("int64"))
    standard, denied = (tokens, tokens) if tokens.ndim == 2 else tokens.unbind(1)
    images = torch.from_numpy(weights_clipn.make_images(case["image_seed"], len(tokens), 64))
    choices = torch.tensor(case["idx"]) if variant == "src" else None
    _, summary = trainer.loss(images.double(), standard, denied, choices)
    summary["loss"].backward()
    assert summary["loss"].dtype == torch.float64
    expected = arrays["losses"].tolist()
    assert [summary[key].item() for key in ("bin_yes", "bin_no", "tso", "loss")] == pytest.approx(
        expected, rel=EXACT
    )
    grads = {key: p.grad for key, p in trainer.encoder.named_parameters()}
    for key, norm in case["grad_norms"].items():
        own = key if key == "prompt_no" else key.replace("_no", "", 1)
        assert grads[own].norm().item() == pytest.approx(norm, rel=EXACT), key
    close(grads["text_projection"][:16, :16], arrays["g_text_projection_no_slice"], EXACT)
    close(grads["positional_embedding"][:14, :16], arrays["g_pos_no_slice"], EXACT)
    close(grads["transformer.resblocks.1.mlp.c_fc.weight"][:12, :12], arrays["g_fc_slice"], EXACT)
    close(grads["token_embedding.weight"][arrays["emb_rows"], :16], arrays["g_emb_rows"], EXACT)
    if variant == "src":
        stored = float(np.finfo(np.float32).eps)
        close(grads["prompt_no"][:, :14, :24], arrays["g_prompt_no_slice"], stored)
        norms = arrays["g_prompt_no_norm_per_prompt_pos"]
        close(grads["prompt_no"].norm(dim=-1), norms, EXACT)


# Training


def _recorded(run, arrays):
    size = run["B"]
    count = run["steps"] * size
    images = torch.from_numpy(weights_clipn.make_images(run["seed"], count, 64))
    loader = Batches(
        {"img": images[i : i + size], "caption": list(range(i, i + size))}
        for i in range(0, count, size)
    )
    # Two ranks took the halves of each batch, in order.
    draws = [list(chain(*parts)) for parts in zip(*run["idx"].values(), strict=True)] or None
    return loader, torch.from_numpy(arrays["tokens"].astype("int64")), draws


@pytest.mark.parametrize("name", TRAIN)
def test_four_steps_of_training(name, golden, make_trainer, monkeypatch):
    """C ran on two processes, with the public default, `gather_with_grad` off, which halves the
    gradient; AdamW sees that by its eps alone. Half the loss gives half the gradient here."""
    run = TRAIN[name]
    arrays = {
        key.removeprefix(f"{name}/"): x
        for key, x in golden("clipn_train.npz").items()
        if key.startswith(f"{name}/")
    }
    settings = {
        "B": {"OPTIM.LR": 1e-3, "OPTIM.WEIGHT_DECAY": 0.1},
        "C": {"TRAINER.CLIPN.LOSS_WEIGHT": 0.25},
    }.get(name, {})
    trainer = make_trainer(run, *_recorded(run, arrays), **settings)
    rates, losses, states = [], [], {}
    step = CLIPN.forward_backward

    def recorded(self, batch):
        rates.append(self.get_current_lr())
        scale = self.model.scale.item()
        summary = step(self, batch)
        losses.append([*(summary[key] for key in ("bin_yes", "bin_no", "tso")), scale])
        states[len(losses)] = {k: v.clone() for k, v in self.encoder.state_dict().items()}
        return summary

    monkeypatch.setattr(type(trainer), "forward_backward", recorded)
    trainer.train()
    assert rates == pytest.approx(run["lr"], rel=1e-12)
    assert np.array(losses) == pytest.approx(np.array(run["losses"]), rel=2e-5)
    slices = {
        **SLICES,
        "emb_rows": ("token_embedding.weight", (run["emb_rows"], np.s_[:8])),
        "logit_scale": ("logit_scale", ()),
    }
    for number in (1, 4):
        for key in slices.keys() & {key.removeprefix(f"step{number}_") for key in arrays}:
            parameter, part = slices[key]
            _close_as_public(
                states[number][parameter][part],
                arrays[f"step{number}_{key}"],
                run["public_fp32_error"][f"step{number}_{key}"],
            )


def _close_as_public(actual, expected, public_error):
    """1e-5 of the float64 reference, or twice what the public float32 run itself is away from it.

    Where a gradient is near AdamW's eps, rounding moves a step: one element in 1000 may do so.
    """
    error = np.abs(actual.double().numpy() - expected) / np.abs(expected).max()
    allowed = max(1e-5, 2 * public_error / np.abs(expected).max())
    assert np.quantile(error, 0.999) < allowed and error.max() < 0.05


def test_groups_are_the_published(make_trainer):
    run = TRAIN["A"]
    trainer = make_trainer(run)
    names = {id(p): name for name, p in trainer.encoder.named_parameters()}
    spared, decayed = trainer.optim.param_groups
    assert {names[id(p)] for p in spared["params"]} == {
        name.replace("_no", "", 1) for name in run["not_decayed"]
    }
    assert [
        (len(g["params"]), g["weight_decay"], list(g["betas"]), g["eps"]) for g in (spared, decayed)
    ] == [(g["n"], g["weight_decay"], g["betas"], g["eps"]) for g in run["groups"]]


def test_only_the_no_branch_learns(make_trainer, golden):
    """And of the tokens' rows those that occur; what is not used is only decayed."""
    run = TRAIN["A"]
    arrays = {"tokens": golden("clipn_train.npz")["A/tokens"]}
    trainer = make_trainer(run, *_recorded(run, arrays))
    before = {key: x.clone() for key, x in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    learned = {f"encoder.{name}" for name, _ in trainer.encoder.named_parameters()}
    assert changed == learned | {"encoder.logit_scale"}
    assert trainer.encoder.logit_scale.exp().item() == pytest.approx(100, rel=1e-6)


def _captioned(steps=4, size=4):
    images = torch.from_numpy(weights_clipn.make_images(5, steps * size, 64))
    words = ["a small dog", "a cat on a mat", "{braces}", "red, green, blue"]
    return Batches(
        {"img": images[i : i + size], "caption": words[:size]} for i in range(0, steps * size, size)
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_is_the_uninterrupted_one(variant, make_trainer):
    case = {**TRAIN["A"], "variant": variant, "epochs": 3}

    def run(folder, until, resume=""):
        trainer = make_trainer(
            case,
            _captioned(),
            folder=folder,
            RESUME=resume,
            **{"TRAIN.CHECKPOINT_FREQ": 1, "TRAINER.CLIPN.WARMUP_STEPS": 2},
        )
        trainer.max_epoch = until
        trainer.train()
        return trainer

    whole = run("whole", 3)
    stopped = run("stopped", 2)
    resumed = run("stopped", 3)
    steps = [trainer.sched.last_epoch for trainer in (stopped, resumed, whole)]
    assert steps == [8, 12, 12]
    for key, value in whole.encoder.state_dict().items():
        assert torch.equal(value, resumed.encoder.state_dict()[key]), key


def test_checkpoint_holds_tensors_only_and_the_branch_only(make_trainer, tmp_path):
    trainer = make_trainer(TRAIN["A"], _captioned(1), folder="run")
    trainer.train()
    content = torch.load(tmp_path / "run/no_encoder/model.pth.tar-1", weights_only=True)
    assert set(content["state_dict"]) == set(trainer.encoder.state_dict())
    assert content["meta"]["variant"] == "learnable" and content["meta"]["activation"] == "gelu"
    other = make_trainer(TRAIN["A"], folder="other")
    other.load_model(tmp_path / "run")
    assert torch.equal(other.encoder.prompt_no, trainer.encoder.prompt_no)


def test_another_batch_of_draws_in_each_step(make_trainer, monkeypatch):
    """A rank takes its share of what one process draws."""
    trainer = make_trainer(TRAIN["A"])
    for step in (0, 1):
        found = trainer.texts()(["a cat"] * 6, step)["choices"]
        assert torch.equal(found, draw(6, 17, seed=1, step=step))
    monkeypatch.setattr(clipn, "world_size", lambda: 2)
    halves = []
    for rank in (0, 1):
        monkeypatch.setattr(clipn, "rank", lambda rank=rank: rank)
        halves.append(trainer.texts()(["a cat"] * 3, 1)["choices"])
    assert torch.equal(torch.cat(halves), found)


def test_handcrafted_captions_are_wrapped_in_pairs(make_trainer):
    trainer = make_trainer(
        {**TRAIN["A"], "variant": "hand"}, **{"TRAINER.CLIPN.TEMPLATE": "a photo of a {}."}
    )
    assert trainer.texts()(["word " * 200], 0)["denied"].shape == (1, 77)
    texts = trainer.texts()(["cat", "{odd} dog"], 0)
    assert texts.keys() == {"tokens", "denied"}
    read, denied = (
        cut_to_longest(tokenize([f"a photo of {article} {name}." for name in ("cat", "{odd} dog")]))
        for article in ("a", "no")
    )
    assert torch.equal(texts["tokens"], read) and torch.equal(texts["denied"], denied)
    assert read.shape == denied.shape == (2, 11)


@pytest.mark.parametrize("variant", VARIANTS)
def test_classes_are_averaged_over_all_templates(variant, make_trainer):
    trainer = make_trainer(
        {**TRAIN["A"], "variant": variant}, **{"TRAINER.CLIPN.TEMPLATE": "a {}.|the nice {}"}
    )
    found, encoder = trainer.class_features(), trainer.encoder
    read = ["a {}.", "the nice {}"]
    denied = read if variant == "src" else ["no {}.", "no nice {}"]
    for name, tower, templates in (("text", trainer.model.clip, read), ("no", encoder, denied)):
        torch.testing.assert_close(found[name], classifier(tower, ["cat", "dog"], templates))


@pytest.fixture
def pairs_cfg(tmp_path):
    """Nine images of noise with captions, read in batches of four."""
    rng = np.random.default_rng(0)
    for number in range(9):
        pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,caption {number}" for number in range(9)]
    (tmp_path / "pairs.csv").write_text("\n".join(["path,caption", *rows]))
    cfg = default_cfg()
    cfg.DATASET.ROOT, cfg.DATASET.PAIRS.SOURCE = str(tmp_path), "csv"
    cfg.DATASET.PAIRS.PATH, cfg.INPUT.SIZE, cfg.SEED = "pairs.csv", (64, 64), 1
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "normalize")
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
    return cfg


@pytest.mark.parametrize("pairs", [None, (("a {}", "no {}"), ("the {}", "not the {}"))])
@pytest.mark.parametrize("workers", [0, 2])
def test_tokens_come_from_the_workers_and_are_of_the_step(pairs, workers, pairs_cfg, monkeypatch):
    pairs_cfg.DATALOADER.NUM_WORKERS = workers
    texts = BranchTexts(pairs, seed=1, rank=0, ranks=1, context=77)
    loader = build_pairs_loader(pairs_cfg, as_bytes(build_transform(pairs_cfg)), texts=texts)
    for epoch in (0, 2):
        loader.set_epoch(epoch)
        with monkeypatch.context() as patch:
            batches = iter(loader)  # starts the workers, if there are any
            if workers:
                patch.setattr(clipn, "tokenize", lambda *_, **__: pytest.fail("tokenised here"))
            batches = list(batches)
        for number, batch in enumerate(batches):
            expected = texts(batch["caption"], epoch * 2 + number)
            assert all(torch.equal(batch[key], value) for key, value in expected.items())


@pytest.mark.parametrize("transforms", [("normalize",), (), ("random_resized_crop", "random_flip")])
def test_images_travel_as_bytes_and_arrive_as_before(transforms, pairs_cfg):
    pairs_cfg.INPUT.TRANSFORMS, pairs_cfg.DATALOADER.NUM_WORKERS = transforms, 2
    transform = build_transform(pairs_cfg)
    seen = build_transform(pairs_cfg, is_train=False)
    scale = [torch.tensor(x).view(3, 1, 1) for x in (seen.mean, seen.std)]
    plain = build_pairs_loader(pairs_cfg, transform)
    as_they_travel = build_pairs_loader(pairs_cfg, as_bytes(transform))
    for one, other in zip(plain, as_they_travel, strict=True):
        assert other["img"].dtype == torch.uint8 and one["caption"] == other["caption"]
        assert torch.equal(from_bytes(other["img"], *scale), one["img"])


def test_features_of_bytes_are_those_of_floats(make_trainer):
    trainer = make_trainer(TRAIN["A"], **{"TRAINER.CLIPN.MICRO_BATCH": 2})
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 3, 64, 64), generator=generator, dtype=torch.uint8)
    tokens = tokenize(["a cat"] * 3)
    floats = torch.stack([trainer.dm.tfm_train.transforms[-1](image / 255) for image in images])
    for found, expected in zip(
        trainer.frozen_features(images, tokens),
        trainer.frozen_features(floats, tokens),
        strict=True,
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["vit_b16_cc3m", "vit_b32_cc3m", "tiny", "generated"])
def test_loading_fits_into_six_gib(name):
    path = Path(__file__).parents[2] / f"configs/trainers/CLIPN/{name}.yaml"
    cfg = default_cfg()
    merge(cfg, read_config_file(path), str(path))
    # Beside those made ahead: in the trainer's hands, being sent to a GPU, being pinned.
    batches = max(1, cfg.DATALOADER.NUM_WORKERS) * PREFETCH + 3
    height, width = cfg.INPUT.SIZE
    assert batches * cfg.DATALOADER.TRAIN_X.BATCH_SIZE * 3 * height * width < 6 * 2**30


def test_a_micro_batch_is_all_that_is_encoded_at_once(make_trainer):
    trainer, sizes = make_trainer(TRAIN["A"], **{"TRAINER.CLIPN.MICRO_BATCH": 2}), []
    trainer.encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    texts = trainer.texts()(["a cat"] * 5, 0)
    trainer.no_features(texts["denied"], texts["choices"])
    assert sizes == [2, 2, 1]


def test_runs_with_other_micro_batches_are_comparable(make_trainer):
    settings = [
        make_trainer(TRAIN["A"], **{"TRAINER.CLIPN.MICRO_BATCH": size}).provenance()["comparable"][
            "settings"
        ]
        for size in (0, 2)
    ]
    assert settings[0] == settings[1] and "LOSS_WEIGHT" in settings[0]


def test_the_loss_weight_of_the_paper(make_trainer, golden):
    features = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.manual_seed(0)))
    totals = [
        make_trainer(TRAIN["A"], **{"TRAINER.CLIPN.LOSS_WEIGHT": weight})
        .losses(features, features.roll(1, 0), features.roll(2, 0))["loss"]
        .item()
        for weight in (0.5, 1.0)
    ]
    assert totals[1] == pytest.approx(2 * totals[0])
