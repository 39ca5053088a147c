"""Half precision costs no more than chance does: a whole short training in bfloat16 autocast."""

import json

import numpy as np
import pytest
import torch

import train
from clip.precision import resolve_precision
from generated.build import Counts, build
from run import config, flags

pytestmark = pytest.mark.slow  # trains


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    build(root, Counts(train=4, val=1, ood=1, pairs=0), workers=1)
    return root


def context_and_losses(root, folder, seed, precision):
    arguments = [
        "--root",
        str(root),
        "--trainer",
        "LoCoOp",
        "--shots",
        "4",
        "--seed",
        str(seed),
        "--output-dir",
        str(folder),
        "TRAINER.LOCOOP.PREC",
        precision,
        "DATALOADER.TRAIN_X.BATCH_SIZE",
        "16",
        "OPTIM.MAX_EPOCH",
        "2",
        "TEST.NO_TEST",
        "True",
        "OPTIM.WARMUP_EPOCH",
        "0",
        "TRAINER.LOCOOP.N_CTX",
        "4",
    ]
    parser = flags.make_parser("")
    train.train(config.build_cfg(parser.parse_args(arguments)))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [row["mean_loss"] for row in map(json.loads, lines) if "mean_loss" in row]
    state = torch.load(folder / "prompt_learner/model.pth.tar-2", weights_only=True)
    return state["state_dict"]["ctx"], np.array(losses)


def test_a_training_in_bfloat16_ends_within_the_spread_of_seeds(root, tmp_path):
    exact = [
        context_and_losses(root, tmp_path / f"fp32-{seed}", seed, "fp32") for seed in (1, 2, 3)
    ]
    context, losses = context_and_losses(root, tmp_path / "bf16", 1, "amp_bf16")
    assert not torch.equal(context, exact[0][0]), "bfloat16 was not used"
    spread = np.std([losses for _, losses in exact], axis=0, ddof=1)  # of each epoch
    assert (np.abs(losses - exact[0][1]) < spread).all()


@pytest.mark.parametrize("name", ["amp", "fp16"])
def test_float16_is_float32_on_the_cpu(name):
    assert resolve_precision(name, "cpu").name == "fp32"
    assert resolve_precision(name, torch.device("cuda")).name == name
