"""Check on a GPU what the other tests check on the CPU: `bash scripts/test.sh -m gpu`."""

from __future__ import annotations

import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

import eval_ood
from benchmarks import selftest
from dassl.config import get_cfg_default
from dassl.data import build_data_loader
from dassl.data.ahead import batches_for
from dassl.data.datasets import Datum
from dassl.data.transforms import build_transform
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from detector import Detector
from run.config import build_cfg
from run.flags import make_parser
from tests.trainers.test_goldens import Batches, make_trainer
from tests.worlds import images, tiny_flags, tiny_scoring, tiny_world

pytestmark = pytest.mark.gpu


def test_the_device_computes_what_the_cpu_does():
    report = selftest.Report()
    report.attempt("parity", selftest.parity, "cuda")
    assert not report.failed, report.rows


@pytest.mark.parametrize("name", ["amp", "amp_bf16"])
def test_mixed_precision_is_near_float32(name):
    report = selftest.Report()
    report.attempt(name, selftest.precision, "cuda", name)
    assert not report.failed and len(report.rows) == len(selftest.PARTS), report.rows


def test_two_ranks_on_nccl_end_as_one_does(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    report = selftest.Report()
    report.attempt("ranks", selftest.two_ranks, Namespace(device="cuda", batch=8), tmp_path)
    assert not report.failed, report.rows


def test_amp_trains_as_float32_does(golden, clip_file, tmp_path, monkeypatch):
    """Two steps with the gradient scaler; at the warm-up's rate one that overflows is no loss."""
    about, arrays = golden("train.json"), golden("train.npz")
    run, steps, losses = about["runs"][0], about["batches_per_epoch"], []
    images = torch.from_numpy(arrays["images_q"]).float() / 32
    trainer = make_trainer(
        "LoCoOp",
        run,
        about["classnames"],
        Batches(images, torch.from_numpy(arrays["labels"]), steps),
        tmp_path,
        clip_file(run["arch"]),
        about["topk"],
        about["lambda_value"],
        device="cuda",
        precision="amp",
    )
    with torch.no_grad():
        trainer.learner.ctx.copy_(torch.from_numpy(arrays[f"{run['id']}/ctx0"]))
    trainer.max_epoch = 1
    take = trainer.take_step

    def recorded(summary):
        numbers = take(summary)
        losses.append(numbers["loss"])
        return numbers

    monkeypatch.setattr(trainer, "take_step", recorded)
    trainer.train()
    assert trainer.scaler.is_enabled() and torch.isfinite(trainer.learner.ctx).all()
    assert losses == pytest.approx(run["loss_f64"][:steps], rel=1e-2)


@pytest.fixture(scope="module")
def world(tmp_path_factory, clip_file):
    return tiny_world(tmp_path_factory.mktemp("world"), clip_file)


def test_a_recorded_training_while_a_loaders_thread_pins_memory(world, tmp_path):
    settings = ["TRAINER.LOCOOP.PREC", "amp", "DATALOADER.NUM_WORKERS", 2, "OPTIM.MAX_EPOCH", 6]
    words = tiny_flags(world, "LoCoOp", tmp_path, *settings, "DATALOADER.TRAIN_X.BATCH_SIZE", 2)
    trainer = build_trainer(build_cfg(make_parser("").parse_args(words)))
    trainer.train()
    assert trainer.graph.recorded is not None and torch.isfinite(trainer.learner.ctx).all()


def test_from_words_to_verdicts_in_amp(world, tmp_path, monkeypatch):
    settings = tiny_flags(world, "ZeroshotCLIP", tmp_path, "TRAINER.ZSCLIP.PREC", "amp")
    scoring = tiny_scoring(world, ("MCM", "GL-MCM", "NegLabel", "CSP", "EOE", "ODIN"))
    monkeypatch.setattr(sys, "argv", ["eval_ood.py", *scoring, *settings])
    eval_ood.main()
    detector, file = Detector.load(tmp_path), world / "data/Dots/0.jpg"
    verdicts = detector([file, detector.preprocess(file).to("cuda")])
    assert verdicts[0].score == pytest.approx(verdicts[1].score, rel=1e-3)
    assert verdicts[0].score == pytest.approx(detector(file).score, rel=1e-2)
    assert detector.region_map(file).ranks.shape == detector.model.clip.grid


def test_images_sent_ahead_are_the_loaders(tmp_path):
    images(tmp_path / "all", 10, np.random.default_rng(0))
    cfg = get_cfg_default()
    cfg.merge_from_list(["DATASET.ROOT", str(tmp_path), "DATALOADER.NUM_WORKERS", 2])
    items = [Datum(str(path)) for path in sorted((tmp_path / "all").iterdir())]
    tfm = build_transform(cfg, is_train=False)
    loader = build_data_loader(cfg, data_source=items, batch_size=4, tfm=tfm, is_train=False)
    set_random_seed(0)
    plain = [batch["img"] for batch in loader]
    ahead = [batch["img"] for batch in batches_for(loader, torch.device("cuda"))]
    assert len(plain) == 3 and all(image.is_cuda for image in ahead)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(ahead, plain, strict=True))
