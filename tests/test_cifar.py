"""CIFAR's configs on folders as users have them: exported from torchvision's files, or unpacked."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import eval_ood
from dassl import command
from datasets import export as module
from datasets.export import IMAGES, export

pytestmark = pytest.mark.slow  # evaluates seven sets, with all plots

COUNT = 4  # images of each split
PLAIN = {"LSUN": ".", "LSUN_resize": ".", "Imagenet_resize": ".", "dtd/images": "banded"}


def _cifar(folder, label_key: str, files: dict[str, str], meta: str, names_key: str, rng) -> dict:
    """torchvision's pickles of two classes, `files` of split -> name; the MD5 sum of each file."""
    folder.mkdir()
    content = {
        name: {
            "data": rng.integers(0, 255, (COUNT, 3072), dtype=np.uint8),
            label_key: [i % 2 for i in range(COUNT)],
        }
        for name in files.values()
    }
    content[meta] = {names_key: ["cat", "lawn_mower"]}
    sums = {}
    for name, parts in content.items():
        (folder / name).write_bytes(pickle.dumps(parts))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    return sums


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data root with every set that cifar10.yaml and cifar100.yaml name."""
    root, rng = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        for kind, folder, label_key, files, meta, names_key in (
            (
                module.tv.CIFAR10,
                "cifar-10-batches-py",
                "labels",
                {"train": "data_batch_1", "test": "test_batch"},
                "batches.meta",
                "label_names",
            ),
            (
                module.tv.CIFAR100,
                "cifar-100-python",
                "fine_labels",
                {"train": "train", "test": "test"},
                "meta",
                "fine_label_names",
            ),
        ):
            sums = _cifar(root / folder, label_key, files, meta, names_key, rng)
            patch.setattr(kind, "train_list", [[files["train"], sums[files["train"]]]])
            patch.setattr(kind, "test_list", [[files["test"], sums[files["test"]]]])
            patch.setattr(kind, "meta", {**kind.meta, "md5": sums[meta]})
        patch.setattr(module.tv.SVHN, "split_list", _svhn(root, rng))
        for name in IMAGES:
            patch.setitem(IMAGES, name, {"train": COUNT, "test": COUNT})
            export(name, root)
    for folder, below in PLAIN.items():
        (root / folder / below).mkdir(parents=True, exist_ok=True)
        for i in range(COUNT):
            pixels = rng.integers(0, 255, (36, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / below / f"{i}.png")
    return root


def _svhn(root, rng) -> dict[str, list[str]]:
    lists = {}
    for split in ("train", "test"):
        path = root / f"{split}_32x32.mat"
        pixels = rng.integers(0, 255, (32, 32, 3, COUNT), dtype=np.uint8)
        savemat(path, {"X": pixels, "y": np.array([[10], [1], [9], [1]])})
        lists[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    return lists


@pytest.mark.parametrize("name, other", [("cifar10", "CIFAR-100"), ("cifar100", "CIFAR-10")])
def test_every_set_of_the_config_has_figures(data, clip_file, tmp_path, monkeypatch, name, other):
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "eval_ood",
            "--root",
            str(data),
            "--trainer",
            "ZeroshotCLIP",
            "--dataset",
            name,
            "--backbone",
            clip_file("tiny-vit"),
            "--features",
            "none",
            "--output-dir",
            str(tmp_path),
            "--scores",
            "MCM,GL-MCM",
            "INPUT.SIZE",
            "(64, 64)",
            "DATALOADER.NUM_WORKERS",
            "0",
        ],
    )
    command.run(eval_ood.main)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    named = [other, "LSUN", "LSUN-Resize", "ImageNet-Resize", "SVHN", "Texture"]
    assert results["images"] == dict.fromkeys(["ID", *named], COUNT)
    assert results["provenance"]["classnames"] == ["cat", "lawn mower"]
    for score in ("MCM", "GL-MCM"):
        assert list(results["figures"][score]) == [*named, "average"]
        assert all(0 <= results["figures"][score][one]["auroc"] <= 1 for one in named)
