"""Fixtures: a tiny folder of images, and a configuration for it."""

import logging

import numpy as np
import pytest
from PIL import Image
from yacs.config import CfgNode as CN

from dassl.config import get_cfg_default


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    """Write <root>/tiny/{train,test}/{ant,bee,cat}/<i>.png: 6 training, 3 test images a class."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for colour, name in enumerate(("ant", "bee", "cat")):
            folder = root / "tiny" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (20, 24, 3), dtype=np.uint8)
                pixels[..., colour] += 100
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture
def make_cfg(tiny_root, tmp_path):
    """Return a maker of configurations for a short run: `make_cfg("KEY", value, ...)`."""

    def make(*opts):
        cfg = get_cfg_default()
        cfg.TRAINER.UPSTREAMSTYLE = CN({"PREC": "fp32"})
        cfg.merge_from_list(
            ["DATASET.ROOT", str(tiny_root), "DATASET.NAME", "TinyFolders"]  # noqa: RUF005
            + ["TRAINER.NAME", "UpstreamStyle", "OUTPUT_DIR", str(tmp_path / "run")]
            + ["INPUT.SIZE", (16, 16), "DATALOADER.NUM_WORKERS", 0]
            + ["INPUT.TRANSFORMS", ("random_resized_crop", "random_flip", "normalize")]
            + ["DATALOADER.TRAIN_X.BATCH_SIZE", 5, "DATALOADER.TEST.BATCH_SIZE", 4]
            + ["OPTIM.NAME", "sgd", "OPTIM.LR", 0.05, "OPTIM.MAX_EPOCH", 3]
            + ["OPTIM.LR_SCHEDULER", "cosine", "OPTIM.WARMUP_EPOCH", 1]
            + ["OPTIM.WARMUP_TYPE", "constant", "SEED", 1]
        )
        cfg.merge_from_list(list(opts))
        cfg.freeze()
        return cfg

    return make


@pytest.fixture(autouse=True)
def _info_level(caplog):
    caplog.set_level(logging.INFO)
