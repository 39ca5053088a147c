"""A step of every trainer, as the command builds it: what it waits for and what it survives."""

from __future__ import annotations

import gc
import json
import logging
import math
import sys
import traceback
import weakref
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import clip.loading
import train
import trainers.base
from clip.precision import PRECISIONS
from dassl import command
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import read_image
from dassl.utils.errors import InputError, NonFiniteLossError
from run.config import build_cfg
from run.flags import make_parser
from run.settings import default_cfg, read_config_file
from tests.worlds import tiny_flags, tiny_world
from trainers.base import ClipTrainer

ROOT = Path(__file__).parents[2]
OURS = [
    name
    for name in TRAINER_REGISTRY.registered_names()
    if issubclass(TRAINER_REGISTRY.get(name), ClipTrainer)
]
LEARNING = [name for name in OURS if TRAINER_REGISTRY.get(name).LEARNS]
GRAPHED = [name for name in LEARNING if TRAINER_REGISTRY.get(name).GRAPHED]


@pytest.fixture(scope="module")
def world(tmp_path_factory, clip_file):
    return tiny_world(tmp_path_factory.mktemp("world"), clip_file)


@pytest.fixture
def make(world, tmp_path):
    """make("LoCoOp", "KEY", value, ...) -> a trainer."""

    def built(name, *pairs, folder="run"):
        words = tiny_flags(world, name, tmp_path / folder, *pairs)
        return build_trainer(build_cfg(make_parser("").parse_args(words)))

    return built


def test_every_learning_trainer_of_this_repository_is_tested():
    """The lists come from the registry, so that a new one is too."""
    known = {"CoOp", "LoCoOp", "GalLoP", "CLIPN", "SCT", "FA", "LoCoOpFoBoR", "SCTFoBoR", "ZOC"}
    assert known <= set(LEARNING) and "ZeroshotCLIP" not in LEARNING


@pytest.mark.parametrize("name", OURS)
def test_every_state_is_contiguous(make, name):
    """NCCL broadcasts nothing else."""
    trainer = make(name)
    for model in [*trainer._models.values(), trainer.model]:
        for key, tensor in model.state_dict().items():
            assert tensor.is_contiguous(), key


@pytest.mark.parametrize("name", OURS)
def test_who_learns_class_texts(make, name):
    """Those that learn none have the texts of a score's own templates beside words."""
    assert make(name).model.learns_texts == (name not in ("ZeroshotCLIP", "CLIPN", "ZOC"))


def test_zocs_defaults_are_those_of_its_yaml():
    own = read_config_file("configs/trainers/ZOC/vit_b32_coco.yaml")["TRAINER"]["ZOC"]
    assert own == default_cfg().TRAINER.ZOC
    assert (own["STEPS"], own["TOP"]) == (9, 35)  # those of the public code


def test_zoc_may_begin_with_another_runs_decoder(make, tmp_path):
    source = make("ZOC", "TEST.NO_TEST", True, folder="source")
    source.decoder.bias.data += 1
    source.save_model(0, str(tmp_path))
    file = tmp_path / "decoder/model.pth.tar-1"
    begun = make("ZOC", "MODEL.INIT_WEIGHTS", file)
    assert all(map(torch.equal, learned(begun), learned(source)))
    assert begun.provenance()["decoder"]["file"] == str(file)


def test_zocs_pairs_are_not_augmented(make):
    trainer = make("ZOC", "INPUT.TRANSFORMS", "('random_resized_crop','random_flip','normalize')")
    trainer.encode = None  # then the loader reads the images themselves
    trainer.train_loader_x.set_epoch(1)
    images = {item.impath: item for item in trainer.dm.dataset.train_x}
    plain = [trainer.dm.tfm_test(read_image(path)) for path in images]
    for image in next(iter(trainer.train_loader_x))["img"]:
        assert any(torch.equal(image, other) for other in plain)


@pytest.mark.parametrize("name", OURS)
def test_a_trainer_is_freed_with_its_last_name(make, name):
    """And its CLIP's memory with it, without waiting for a garbage collection."""
    gc.disable()
    try:
        trainer = make(name)
        freed = weakref.ref(trainer)
        del trainer
        assert freed() is None
    finally:
        gc.enable()


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU; the optimiser's own steps are left out."""

    def __init__(self):
        super().__init__()
        self.found, self.off = [], False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = [i for i in (args[1] if name in ("index", "index_put_") else ()) if i is not None]
        waits = name in ("_local_scalar_dense", "nonzero", "masked_select")
        if not self.off and (waits or any(i.dtype == torch.bool for i in masks)):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch):
    """Runs a step of a trainer; returns what would wait for a GPU in it."""

    def run(trainer):
        mode = Waits()
        getattr(trainer, "values", None)  # CLIPN's table of pixel values: made once
        trainer.begin_epoch()
        trainer.batch_idx, batch = 0, next(iter(trainer.train_batches()))
        for name in ("tolist", "cpu", "numpy"):
            # On the CPU they copy nothing, and no dispatch mode sees them.
            real = getattr(torch.Tensor, name)

            def seen(tensor, *args, real=real, name=name, **kwargs):
                mode.found.append(name)
                return real(tensor, *args, **kwargs)

            monkeypatch.setattr(torch.Tensor, name, seen)
        real_to = torch.Tensor.to

        def to(tensor, *args, **kwargs):
            to_device = args and isinstance(args[0], torch.device)
            if to_device and not kwargs.get("non_blocking"):
                mode.found.append("blocking to")
            return real_to(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, "to", to)
        for optim in trainer._optims.values():
            optim.register_step_pre_hook(lambda *_: setattr(mode, "off", True))
            optim.register_step_post_hook(lambda *_: setattr(mode, "off", False))
        with mode:
            trainer.forward_backward(batch)
        monkeypatch.undo()
        return mode.found

    return run


@pytest.mark.parametrize("name", LEARNING)
def test_a_step_waits_for_the_device_once(make, waits, name):
    """At its end."""
    assert waits(make(name)) == ["tolist"]


def test_the_test_of_waiting_can_fail(make, waits, monkeypatch):
    trainer = make("CoOp")
    loss = trainer.loss

    def slow(features, regions, labels):
        chosen = features[labels > 0]
        assert chosen.isfinite().all()
        return loss(features, regions, labels.to(trainer.device))

    trainer.loss = slow
    assert waits(trainer) == ["index", "_local_scalar_dense", "blocking to", "tolist"]


class Mark:
    """An object that a weak reference can name."""


@pytest.mark.parametrize("name", GRAPHED)
def test_a_step_leaves_nothing_of_its_graph(make, name):
    """A step is recorded after the first: that one's nodes would tie it to another stream."""
    trainer = make(name)
    trainer.begin_epoch()
    marks, loss, batches = [], trainer.loss, enumerate(trainer.train_batches())

    def watched(*inputs):
        outputs = loss(*inputs)
        for group in trainer.optim.param_groups:
            for parameter in group["params"]:
                node = parameter.view_as(parameter).grad_fn.next_functions[0][0]
                node.metadata["mark"] = mark = Mark()  # lives as long as the node
                marks.append(weakref.ref(mark))
                del mark
        assert any(mark() for mark in marks)
        return outputs

    trainer.loss = watched
    for number, batch in batches:
        trainer.batch_idx = number
        trainer.forward_backward(batch)
        assert marks and not any(mark() for mark in marks)


def test_the_way_to_the_step_is_short(world, tmp_path, monkeypatch):
    """From the command to the optimiser, as a traceback shows it."""
    frames = []

    def step(self, closure=None):
        stack = traceback.extract_stack()
        begin = next(i for i, frame in enumerate(stack) if frame.name == "run")
        files = [Path(frame.filename) for frame in stack[begin:-1]]
        frames.append(
            [
                f
                for f in files
                if ROOT in f.parents and not {"site-packages", "tests"} & set(f.parts)
            ]
        )
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    monkeypatch.setattr(sys, "argv", ["train.py", *tiny_flags(world, "LoCoOp", tmp_path)])
    with pytest.raises(SystemExit):
        command.run(train.main)
    assert len(frames[0]) <= 9


# Half precision, which needs a GPU but for a few steps of a small model


@pytest.fixture
def half_on_the_cpu(monkeypatch):
    for module in (trainers.base, clip.loading):  # of the run, and of the towers' weights
        monkeypatch.setattr(module, "resolve_precision", lambda name, device: PRECISIONS[name])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["amp", "fp16"])
@pytest.mark.parametrize("name", LEARNING)
def test_training_in_float16(make, half_on_the_cpu, name, precision):
    """The loss falls, and a run that was stopped goes on with its scaler."""
    node = TRAINER_REGISTRY.get(name).CONFIG_KEY
    settings = [f"TRAINER.{node}.PREC", precision, "OPTIM.WARMUP_EPOCH", 0, "TEST.NO_TEST", True]
    settings += ["OPTIM.MAX_EPOCH", 4]
    if name == "CLIPN":
        settings += ["OPTIM.LR", 1e-5]  # few pairs, drawn anew in each step
    trainer = make(name, *settings)
    assert trainer.scaler.is_enabled() and trainer.precision.name == precision
    assert trainer.model.clip.visual.conv1.weight.dtype == torch.float16  # no step casts it
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    trainer.max_epoch = 3
    trainer.train()
    lines = Path(trainer.output_dir, "metrics.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    losses = [row["mean_loss"] for row in rows if "mean_loss" in row]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert trainer.scaler.get_scale() > 2.0**10
    resumed = make(name, *settings)
    resumed.before_train()
    assert resumed.start_epoch == 3
    assert resumed.scaler.state_dict() == trainer.scaler.state_dict()


def learned(trainer):
    return [p.detach().clone() for model in trainer._models.values() for p in model.parameters()]


@pytest.mark.parametrize("name", LEARNING)
def test_an_overflow_skips_the_step(make, half_on_the_cpu, name):
    trainer = make(name, f"TRAINER.{TRAINER_REGISTRY.get(name).CONFIG_KEY}.PREC", "amp")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    trainer.begin_epoch()
    batch, before = next(iter(trainer.train_batches())), learned(trainer)
    assert math.isfinite(trainer.forward_backward(batch)["loss"])
    assert trainer.scaler.get_scale() == 2.0**119
    assert all(map(torch.equal, learned(trainer), before))


@pytest.mark.parametrize("name", LEARNING)
def test_a_loop_of_ones_own_sees_each_steps_texts(make, name):
    """Without the hooks of an epoch."""
    trainer = make(name)
    batch, before = next(iter(trainer.train_batches())), trainer.text_features().clone()
    for group in trainer.optim.param_groups:
        group["lr"] = 0.1
    trainer.forward_backward(batch)
    after = trainer.text_features()
    assert torch.equal(after, trainer.model.text_features())
    assert torch.equal(after, before) != trainer.model.learns_texts


@pytest.mark.parametrize("name", LEARNING)
def test_a_loss_of_nan_changes_no_weight(make, name):
    trainer = make(name)
    trainer.begin_epoch()
    trainer.epoch, trainer.batch_idx = 1, 0
    batch, before = next(iter(trainer.train_batches())), learned(trainer)
    batch["img"] = batch["img"].float()  # CLIPN's come as bytes
    batch["img"][0] = math.nan
    with pytest.raises(
        NonFiniteLossError, match="The loss is nan in epoch 2, batch 1 at precision"
    ):
        trainer.forward_backward(batch)
    assert all(map(torch.equal, learned(trainer), before))


@pytest.mark.parametrize(
    "name, key", [("LoCoOp", "TRAINER.LOCOOP.LAMBDA"), ("CLIPN", "TRAINER.CLIPN.LOSS_WEIGHT")]
)
def test_a_weight_out_of_all_proportion_is_named_first(make, name, key):
    assert f"a smaller {key} (now 1e+30), " in make(name, key, 1e30).advice()
    assert key not in make(name).advice()


def test_zero_shot_reads_the_data_sets_prompt(make):
    trainer = make("ZeroshotCLIP", "DATASET.TEMPLATE", "{} texture.")
    own = make("ZeroshotCLIP", "TRAINER.ZSCLIP.TEMPLATE", "{} texture.")
    assert torch.equal(trainer.text_features(), own.text_features())
    assert trainer.provenance()["comparable"] == own.provenance()["comparable"]
    assert make("ZeroshotCLIP").template == "a photo of a {}."


@pytest.mark.parametrize("name", ["LoCoOp", "CLIPN"])
@pytest.mark.parametrize(
    "key, value",
    [
        ("DATASET.NUM_SHOTS", 2),
        ("OPTIM.GAMMA", 0.5),
        ("INPUT.RRCROP_SCALE", (0.5, 1.0)),
        ("INPUT.ROTATION", 9.0),
        ("DATALOADER.TRAIN_X.DROP_LAST", False),
        ("DATALOADER.TRAIN_X.SAMPLER", "SequentialSampler"),
        ("DATASET.PAIRS.NUM_PAIRS", 3),
        ("DATASET.FOLDER", "other"),
        ("TRAINER.{}.PREC", "amp_bf16"),
        ("TEST.FINAL_MODEL", "best_val"),
    ],
)
def test_results_say_how_the_model_was_trained(make, name, key, value):
    trainer = make(name)
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([key.format(trainer.CONFIG_KEY), value])
    differs = trainer.training_facts(cfg) != trainer.provenance()["comparable"]["training"]
    assert differs == (trainer.READS_PAIRS or "PAIRS" not in key)


def test_k_of_all_classes_is_warned_of(make, caplog):
    with caplog.at_level(logging.WARNING):
        make("LoCoOp", "TRAINER.LOCOOP.TOPK", 3).before_train()
    assert "K = 3 is the number of classes" in caplog.text and "LoCoOp becomes CoOp" in caplog.text


def test_the_preset_k_is_comparable_with_the_same_k_given(make):
    preset, given = (make("LoCoOp", "TRAINER.LOCOOP.TOPK", k) for k in (0, 1))  # 1 of 3 classes
    assert preset.top_k == given.top_k == 1
    assert preset.provenance()["comparable"] == given.provenance()["comparable"]


# Going on with other settings


def rates(trainer):
    """The learning rate of each step."""
    used, step = [], trainer.forward_backward
    trainer.forward_backward = lambda *batch: (used.append(trainer.get_current_lr()), step(*batch))[
        1
    ]
    trainer.train()
    del trainer.forward_backward  # a cycle: the trainer would wait for a garbage collection
    return used


CHANGES = [
    ["OPTIM.MAX_EPOCH", 5],
    ["OPTIM.LR", 0.01],
    ["OPTIM.LR_SCHEDULER", "single_step", "OPTIM.STEPSIZE", (1,)],
    ["OPTIM.WARMUP_EPOCH", 3],
    ["OPTIM.WEIGHT_DECAY", 0.125],
]


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNING)
def test_new_settings_are_those_of_a_fresh_run(make, tmp_path, name):
    """From the epoch on at which the old run ended; what the optimiser has learned stays."""
    pairs = ["TEST.NO_TEST", True, "OPTIM.MAX_EPOCH", 3]
    stopped = make(name, *pairs, folder="stopped")
    stopped.max_epoch = 2
    stopped.train()
    for number, change in enumerate(CHANGES):
        fresh = make(name, *pairs, *change, folder=f"fresh{number}")
        expected = rates(fresh)
        resumed = make(name, *pairs, *change, folder=f"resumed{number}")
        resumed.cfg.defrost()
        resumed.cfg.RESUME = str(tmp_path / "stopped")
        found = rates(resumed)
        assert 0 < len(found) < len(expected), change
        assert found == expected[len(expected) - len(found) :], change
        assert _options(resumed) == _options(fresh), change


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SCT", "FA", "SCTFoBoR", "CLIPN", "ZOC"])
def test_a_stopped_run_ends_as_an_undisturbed_one(make, name):
    """Bit by bit, with FA's rate by step."""
    pairs = ["TEST.NO_TEST", True, "OPTIM.MAX_EPOCH", 3]
    whole = make(name, *pairs, folder="whole")
    whole.train()
    stopped = make(name, *pairs, folder="stopped")
    stopped.max_epoch = 2
    stopped.train()
    resumed = make(name, *pairs, folder="stopped")
    resumed.train()
    assert resumed.start_epoch == 2
    assert all(map(torch.equal, learned(resumed), learned(whole)))
    assert resumed.get_current_lr() == whole.get_current_lr()


def _options(trainer):
    return [
        {key: value for key, value in group.items() if key != "params"}
        for group in trainer.optim.param_groups
    ]


def test_another_optimiser_is_refused(make, tmp_path):
    make("CoOp", "TEST.NO_TEST", True, folder="stopped").train()
    other = make("CoOp", "OPTIM.NAME", "adam", "OPTIM.MAX_EPOCH", 5)
    other.cfg.defrost()
    other.cfg.RESUME = str(tmp_path / "stopped")
    with pytest.raises(InputError, match=r"another optimiser: OPTIM\.NAME was sgd, is adam"):
        other.train()


def test_a_run_that_is_over_is_pointed_at(make, tmp_path):
    make("CoOp", "TEST.NO_TEST", True, folder="over").train()
    again = make("CoOp")
    again.cfg.defrost()
    again.cfg.RESUME = str(tmp_path / "over")
    with pytest.raises(InputError, match=r"Nothing is left to train: .*over has trained 2 epochs"):
        again.train()


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", LEARNING)
def test_the_first_loss_on_a_gpu_is_the_cpus(make, name):
    losses = []
    for cuda in (True, False):
        trainer = make(name, "USE_CUDA", cuda, folder=f"{cuda}")
        trainer.begin_epoch()
        trainer.batch_idx, batch = 0, next(iter(trainer.train_batches()))
        losses.append(trainer.forward_backward(batch)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "amp"])
@pytest.mark.parametrize("name", GRAPHED)
def test_recorded_steps_are_the_steps_to_the_last_bit(make, name, precision):
    node, ends = TRAINER_REGISTRY.get(name).CONFIG_KEY, []
    settings = [f"TRAINER.{node}.PREC", precision, "TEST.NO_TEST", True, "TRAIN.CUDA_GRAPH"]
    for recorded in (True, False):
        trainer = make(name, *settings, recorded, folder=f"{recorded}")
        trainer.train()
        assert (trainer.graph is not None and trainer.graph.recorded is not None) == recorded
        ends.append(learned(trainer))
    assert all(map(torch.equal, *ends))
