"""Every trainer on an emulated GPU (`tests.fake_cuda`): training, evaluation and detector."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch

import eval_ood
import train
from dassl import command
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils.errors import InputError
from detector import Detector
from ood.scores import SCORES
from run.config import build_cfg
from run.flags import make_parser
from tests.fake_cuda import CUDA, MixedDevices, WaitsWhileRecorded, emulated
from tests.worlds import clip_of_few_words, tiny_flags, tiny_scoring, tiny_world
from trainers.base import ClipTrainer
from trainers.step import StepGraph

pytestmark = pytest.mark.skipif(
    torch.__version__[:4] not in ("2.14", "2.15"),
    reason="the emulation leans on PyTorch's inner ways, and was tried with 2.14 and 2.15 alone",
)
NAMES = [
    name
    for name in TRAINER_REGISTRY.registered_names()
    if issubclass(TRAINER_REGISTRY.get(name), ClipTrainer)
]
# Scores that only one trainer has; others are computed for all.
OF = {"CTW": "CLIPN", "ATD": "CLIPN", "FA": "FA", "ZOC": "ZOC"}


@pytest.fixture(scope="module")
def world(tmp_path_factory, clip_file):
    return tiny_world(tmp_path_factory.mktemp("world"), clip_file)


@pytest.fixture
def gpu():
    with emulated():
        yield


@pytest.fixture
def call(monkeypatch):
    def run(module, *arguments) -> None:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        command.run(module.main)

    return run


@pytest.fixture
def recorded(monkeypatch):
    """Whether each step that was to be recorded was."""
    found, record = [], StepGraph._record

    def watched(graph, tensors):
        record(graph, tensors)
        found.append(graph.recorded is not None)

    monkeypatch.setattr(StepGraph, "_record", watched)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", NAMES)
def test_a_trainer_in_amp(world, clip_file, call, recorded, tmp_path, name):
    """A training of three steps, an evaluation with all scores, verdicts and a region map."""
    kind, run = TRAINER_REGISTRY.get(name), tmp_path / "run"
    settings = [f"TRAINER.{kind.CONFIG_KEY}.PREC", "amp"]
    if name == "ZOC":
        few = tmp_path / "few.safetensors"
        clip_of_few_words(clip_file("tiny-vit"), ["a photo of a cat", "ant", "bee"], few)
        settings += ["MODEL.BACKBONE.NAME", few, "TRAINER.ZOC.STEPS", 3]
    if kind.LEARNS:
        short = ["OPTIM.MAX_EPOCH", 1, "DATALOADER.TRAIN_X.BATCH_SIZE", 4]
        call(train, *tiny_flags(world, name, run, *settings, *short))
        model = ["--model-dir", run, "--root", world / "data"]
    else:
        model = tiny_flags(world, name, run, *settings)
    assert recorded == [True] * kind.GRAPHED
    scores = [s for s in SCORES if OF.get(s.partition("-")[0], name) == name]
    call(eval_ood, *tiny_scoring(world, scores), *model)
    detector = Detector.load(run)
    assert detector.device.type == "cuda"
    assert detector.model.clip.autocast_dtype == torch.float16
    file = world / "data/Dots/0.jpg"
    verdicts = detector([file, detector.preprocess(file).to(CUDA)])
    assert verdicts[0].score == verdicts[1].score and verdicts[0].verdict in ("ID", "OOD")
    assert detector.region_map(file).ranks.shape == detector.model.clip.grid


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: x + torch.ones(3, 4),
        lambda x: torch.stack([x, torch.ones(3, 4)]),
        lambda x: torch.cat([x[0], torch.ones(4)]),
        lambda x: torch.ones(5, 3) @ x,
        lambda x: torch.ones(3, 4)[x > 0],
        lambda x: x.index_put((torch.tensor([0]),), torch.ones(4)),
        lambda x: torch.where(x > 0, x, torch.ones(3, 4)),
        lambda x: torch.nn.Linear(4, 4)(x),
    ],
)
def test_devices_that_mix_are_an_error(mixed):
    x = torch.randn(3, 4).to("cuda")
    assert (x * torch.tensor(2.0)).device == x[torch.tensor([0])].device == CUDA
    with pytest.raises(MixedDevices):
        mixed(x)


@pytest.mark.usefixtures("gpu")
def test_numpy_is_on_the_cpu():
    x = torch.zeros(2, device="cuda")
    assert x.cpu().numpy().tolist() == x.tolist() == [0, 0]
    for read in (np.asarray, lambda x: x.numpy()):
        with pytest.raises(TypeError, match="convert cuda:0"):
            read(x)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: torch.ones(2).to(x.device),
        lambda x: x[x > 0],
        lambda x: x[torch.tensor([0])],
        lambda x: x.nonzero(),
        lambda x: x.copy_(torch.ones(x.shape)),
        lambda x: bool((x > 0).all()),
    ],
)
def test_a_recorded_step_that_waits_is_an_error(wait):
    weight = torch.ones(2, device="cuda").requires_grad_()

    def step(batch):
        image = batch["img"].to("cuda")
        wait(image)
        return {"loss": (image * weight).sum()}

    graph, batch = StepGraph(step, [weight], CUDA), {"img": torch.ones(3, 2)}
    assert graph(batch)["loss"].item() == 6
    with pytest.raises(WaitsWhileRecorded):
        graph(batch)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", ["LoCoOp", "GalLoP", "CLIPN"])
def test_out_of_memory_names_the_recorded_step(world, tmp_path, name):
    """Each run of a group keeps its own, which a smaller batch alone may not make room for."""
    cfg = build_cfg(make_parser("").parse_args(tiny_flags(world, name, tmp_path)))
    trainer, advice = build_trainer(cfg), ", or set TRAIN.CUDA_GRAPH False"
    for loader, named in (("TRAIN_X", trainer.GRAPHED), ("TEST", False)):
        key = f"DATALOADER.{loader}.BATCH_SIZE (now {cfg.DATALOADER[loader].BATCH_SIZE})"
        with (
            pytest.raises(InputError, match=f"{re.escape(key + advice * named)}$"),
            trainer.explain_out_of_memory("a batch", loader),
        ):
            raise torch.OutOfMemoryError("CUDA out of memory")
