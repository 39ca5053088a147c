"""Runs whose augmentations come again, from kept features: what they share, and that it is exact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import eval_ood
import sweep
import train
from clip import ClipModel
from dassl.config.defaults import EVAL
from dassl.engine import TRAINER_REGISTRY
from run.settings import default_cfg
from tests.run.test_sweep import metrics, same, stopped_at
from tests.worlds import CLASSES
from trainers.prompt_trainer import PromptTrainer

pytestmark = pytest.mark.slow  # trains

KEEPING = [n for n in TRAINER_REGISTRY.registered_names() if TRAINER_REGISTRY.get(n).KEEPS_VIEWS]
EPOCHS, SHOTS, BATCH = 3, 3, 5
IMAGES = SHOTS * len(CLASSES)  # 2 batches and 2 images that they leave out


def flags(world: Path, output: Path, trainer: str, views: int, *more) -> list:
    config = world / trainer / "run.yaml"
    words = ["--root", world / "data", "--dataset-config-file", world / "pets.yaml"]
    words += ["--config-file", config if config.exists() else world / "CoOp/run.yaml"]
    words += ["--trainer", trainer, "--shots", SHOTS, "--output-dir", output]
    settings = ["DATALOADER.TRAIN_X.BATCH_SIZE", BATCH, "TRAIN.PRINT_FREQ", 1]
    return [*words, *settings, "DATALOADER.VIEWS", views, *more]


@pytest.fixture
def run(world, call, tmp_path):
    """run("CoOp", V, "KEY", value, ...) -> the folder of a run, its last checkpoint and metrics."""
    numbers = iter(range(99))

    def trained(trainer, views, *more, output=None):
        output = output or tmp_path / f"{trainer}{views}-{next(numbers)}"
        call(train, *flags(world, output, trainer, views, *more))
        return output

    return trained


@pytest.fixture
def encoded(monkeypatch):
    """Lists (images, with regions) of each batch that the image tower encodes in training."""
    calls, tower = [], PromptTrainer.tower

    def counted(self, images, local):
        calls.append((len(images), local))
        return tower(self, images, local)

    monkeypatch.setattr(PromptTrainer, "tower", counted)
    return calls


def in_training(calls: list) -> int:
    """The images that were encoded but for those of the final test."""
    return sum(count for count, _ in calls) - 3 * len(CLASSES)


def assert_same(one: Path, other: Path) -> None:
    states = [
        torch.load(next(path.glob(f"*/model.pth.tar-{EPOCHS}")), weights_only=True)
        for path in (one, other)
    ]
    assert same(*states) and metrics(one) == metrics(other) and len(metrics(one)) >= 6


@pytest.mark.parametrize("trainer", KEEPING)
def test_with_a_view_for_each_epoch_it_is_the_plain_run(run, encoded, trainer):
    """With and without workers, encoded and read, bit by bit."""
    plain = run(trainer, 0)
    assert_same(run(trainer, 0, "DATALOADER.NUM_WORKERS", 2), plain)
    encoded.clear()
    assert_same(run(trainer, EPOCHS, "DATALOADER.NUM_WORKERS", 2), plain)
    assert in_training(encoded) == EPOCHS * IMAGES
    encoded.clear()
    assert_same(run(trainer, EPOCHS), plain)
    assert_same(run(trainer, 2 * EPOCHS), plain)
    assert sum(count for count, _ in encoded) == 2 * 3 * len(CLASSES)
