"""Runs whose augmentations come again, from kept features: what they share; it is exact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import sweep
import train
from dassl.config.defaults import EVAL
from dassl.engine import TRAINER_REGISTRY, build_trainer
from run.config import build_cfg
from run.flags import make_parser
from tests.run.test_sweep import metrics, same, stopped_at
from tests.worlds import CLASSES
from trainers.prompt_trainer import IMAGE_HALF, PromptTrainer
from trainers.side_by_side import SideBySide
from trainers.views import KeptViews

pytestmark = pytest.mark.slow  # trains

KEEPING = [n for n in TRAINER_REGISTRY.registered_names() if TRAINER_REGISTRY.get(n).KEEPS_VIEWS]
EPOCHS, SHOTS, BATCH = 3, 3, 5
IMAGES = SHOTS * len(CLASSES)  # 2 batches and 2 images that they leave out
BYTES = (1 + 16) * 64 * 4  # an image's features and those of its regions, in float32


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

    def counted(self, images, local, *more):
        calls.append((len(images), local))
        return tower(self, images, local, *more)

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
    """With and without workers, while features are encoded and when they are read."""
    plain = run(trainer, 0)
    assert_same(run(trainer, 0, "DATALOADER.NUM_WORKERS", 2), plain)
    encoded.clear()
    assert_same(run(trainer, EPOCHS, "DATALOADER.NUM_WORKERS", 2), plain)
    assert in_training(encoded) == EPOCHS * IMAGES
    encoded.clear()
    assert_same(run(trainer, 2 * EPOCHS), plain)
    assert in_training(encoded) == 0


def test_half_precision_is_kept_as_it_is(run, encoded):
    settings = ["TRAINER.LOCOOP.PREC", "amp_bf16"]
    plain = run("LoCoOp", 0, *settings)
    for images in (EPOCHS * IMAGES, 0):
        encoded.clear()
        assert_same(run("LoCoOp", EPOCHS, *settings), plain)
        assert in_training(encoded) == images
    names = {path.name for path in Path(EVAL["FEATURES"]).rglob("training-*/*")}
    assert names == {"about.json", "global.bf16", "local.bf16"}


def test_side_by_side_and_stopped_in_between(world, call, run, encoded, tmp_path, monkeypatch):
    arguments = flags(world, tmp_path / "out", "CoOp", EPOCHS)
    arguments[arguments.index("--trainer")] = "--trainers"
    arguments[arguments.index("CoOp")] = "CoOp,LoCoOp"
    arguments.insert(0, "--no-eval")
    plain = [
        run(trainer, 0, "TRAINER.LOCOOP.TOPK", 2) if trainer == "LoCoOp" else run(trainer, 0)
        for trainer in ("CoOp", "LoCoOp")
    ]
    encoded.clear()
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        stopped_at(2, patch, SideBySide)
        call(sweep, *arguments, "TRAINER.LOCOOP.TOPK", 2)
    call(sweep, *arguments, "TRAINER.LOCOOP.TOPK", 2)
    assert in_training(encoded) == EPOCHS * IMAGES and {True} == {
        local for _, local in encoded[:-1]
    }
    rows = json.loads(next((tmp_path / "out").rglob("runs.json")).read_text())
    for row, reference in zip(rows, plain, strict=True):
        assert_same(Path(row["folder"]), reference)


def test_with_fewer_views_kept_features_are_those_of_the_same_augmentations(run, monkeypatch):
    """Epochs have batches of their own, in which a view's images come again, those too that its
    first epoch left out. Encoded in other batches, features differ in their last bits."""
    settings = ["CoOp", 2, "OPTIM.MAX_EPOCH", 4]  # both views come twice
    kept = metrics(run(*settings))
    monkeypatch.setattr(PromptTrainer, "views", None)  # encoded anew in every epoch
    anew = metrics(run(*settings))
    for one, other in zip(kept, anew, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_fewer_views_are_encoded_once_for_all_runs(run, encoded):
    """Of other learning rates and methods; a method that reads regions encodes them, once."""
    first = run("CoOp", 2)
    assert in_training(encoded) == 2 * IMAGES
    for trainer, more, images in (
        ("CoOp", [], 0),
        ("CoOp", ["OPTIM.LR", 0.1], 0),
        ("CoOp", ["OPTIM.MAX_EPOCH", 5, "DATALOADER.VIEWS", 1], 0),
        ("CoOp", ["DATALOADER.TRAIN_X.BATCH_SIZE", 4, "OPTIM.MAX_EPOCH", 2], 2 * IMAGES),
        ("LoCoOp", [], 2 * IMAGES),
        ("LoCoOp", [], 0),
        ("LoCoOpFoBoR", [], 2 * IMAGES),  # it reads attention
        ("CoOp", [], 0),
    ):
        encoded.clear()
        last = run(trainer, 2, *more)
        assert in_training(encoded) == images, (trainer, more)
    assert_same(last, first)
    with pytest.raises(AssertionError):
        assert_same(run("CoOp", 0), first)


def test_a_resumed_run_does_not_depend_on_what_is_still_kept(run, tmp_path, monkeypatch):
    whole = run("CoOp", 1)
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        stopped_at(2, patch)
        run("CoOp", 1, output=tmp_path / "parts")
    shutil.rmtree(EVAL["FEATURES"])
    assert_same(run("CoOp", 1, output=tmp_path / "parts"), whole)


@pytest.mark.parametrize("batch", [BATCH, 1])  # of 1: batches without a readable image
def test_images_that_cannot_be_read_are_left_out_as_in_the_plain_run(run, world, tmp_path, batch):
    root = tmp_path / "data"
    shutil.copytree(world / "data", root)
    for path in sorted((root / "pets/train/cat").iterdir())[:2]:
        path.write_bytes(b"no image")
    settings = ["DATASET.ROOT", root, "DATALOADER.BAD_IMAGES", "skip"]
    settings += ["DATALOADER.TRAIN_X.BATCH_SIZE", batch]
    plain = run("CoOp", 0, *settings)
    for _ in range(2):
        assert_same(run("CoOp", EPOCHS, *settings), plain)


@pytest.mark.parametrize(
    "trainer, settings, words",
    [
        ("CoOp", ["DATALOADER.VIEWS", -1], "DATALOADER.VIEWS is -1, it must be at least 0"),
        ("CLIPN", [], "CLIPN trains on the images themselves"),
        (
            "CoOp",
            ["SEED", -1, "DATASET.NUM_SHOTS", -1],
            "without a seed no two runs see the same views",
        ),
        ("CoOp", ["EVAL.FEATURES", "none"], "EVAL.FEATURES names no folder"),
        (
            "LoCoOp",
            ["EVAL.FEATURES_LIMIT", 1e-6],
            f"no room for the features of 2 views: about {2 * IMAGES * BYTES / 2**30:.3g} GiB are",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(world, told, tmp_path, trainer, settings, words):
    assert words in told(train, *flags(world, tmp_path / "run", trainer, 2, *settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", IMAGE_HALF)
def test_a_trainer_that_encodes_in_its_own_way_keeps_no_views(
    world, told, tmp_path, monkeypatch, name
):
    """Its features would be taken for those of others, and theirs for its own."""
    kind = TRAINER_REGISTRY.get("CoOp")
    monkeypatch.setattr(kind, name, lambda self, *_: None)
    words = told(train, *flags(world, tmp_path / "run", "CoOp", 2))
    assert f"and CoOp has its own {name}: leave these to PromptTrainer, or set it to 0" in words
    assert not (tmp_path / "run").exists()


def built(world, views, *more):
    args = map(str, flags(world, world / "unused", "CoOp", views, *more))
    return build_trainer(build_cfg(make_parser("").parse_args(list(args))))


@pytest.mark.parametrize(
    "settings, other",
    [
        (["OPTIM.LR", 0.1], False),
        (["MODEL.BACKBONE.NAME", "another CLIP"], True),
        (["TRAINER.COOP.PREC", "amp_bf16"], True),
        (["INPUT.RRCROP_SCALE", (0.5, 1.0)], True),
        (["DATALOADER.TRAIN_X.BATCH_SIZE", BATCH - 1], True),
    ],
)
def test_what_changes_features_has_views_of_its_own(world, clip_file, settings, other):
    settings = [clip_file("tiny-vit", 5) if x == "another CLIP" else x for x in settings]
    folders = [
        KeptViews(built(world, 2, *more)).store._place("view", []) for more in ((), settings)
    ]
    assert (folders[0] != folders[1]) == other


def test_results_say_how_many_views_came_again(world):
    def training(views):
        return built(world, views).provenance()["comparable"]["training"]

    assert training(2) == training(0) | {"views": 2}
    assert training(EPOCHS) == training(0)  # bit by bit, as the tests above show
