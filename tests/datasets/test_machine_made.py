"""What systems leave behind, other endings, links that lead back: what counts, and what is said."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from yacs.config import CfgNode as CN

from dassl.data.datasets import build_dataset
from dassl.utils import read_image
from datasets.check.survey import check
from datasets.folders import image_extensions, walk_images
from datasets.needs import EVALUATION
from datasets.ood_sets import load_ood_sets
from datasets.splits import class_folders

LEFT_FOLDERS = (
    *("@eaDir", ".AppleDouble", "__MACOSX", "lost+found", "#recycle", "$RECYCLE.BIN", "@Recycle"),
    *(".ipynb_checkpoints", ".Trash-1000", ".thumbnails", ".@__thumb", "System Volume Information"),
)
LEFT_FILES = (".DS_Store", "Thumbs.db", "._x.jpg", "desktop.ini")


@pytest.fixture
def pets(cfg, tree, tmp_path):
    """Two classes of two images in train/ and val/, and the OOD set SUN."""
    tree({f"pets/{s}/{c}": 2 for s, c in itertools.product(("train", "val"), ("cat", "dog"))})
    tree({"SUN": 2})
    cfg.DATASET.NAME, cfg.DATASET.FOLDER, cfg.TRAINER.NAME = "ImageFolder", "pets", "CoOp"
    cfg.OOD.SETS = CN({"SUN": CN({"FOLDERS": ["SUN"], "IMAGES": 2})}, new_allowed=True)
    return cfg


def survey(cfg):
    return check(cfg, "pets", {"evaluation": EVALUATION}, ["evaluation"])


def counts(cfg):
    data = build_dataset(cfg)
    assert data.classnames == ["cat", "dog"]
    return len(data.train_x), len(data.test), len(load_ood_sets(cfg)["SUN"])


@pytest.mark.parametrize("name", LEFT_FOLDERS)
def test_folders_left_by_systems_are_neither_classes_nor_images(pets, tree, name):
    places = ("pets/train/cat", "pets/train", "pets/val/dog", "pets/val", "pets", "SUN")
    tree({f"{place}/{name}/x.jpg": 2 for place in places})
    assert counts(pets) == (4, 4, 2)
    report = survey(pets)
    assert report.problems == [] and [row.images for row in report.rows[:1]] == [4]


@pytest.mark.parametrize("name", LEFT_FILES)
def test_files_left_by_systems_are_not_images(pets, tmp_path, name):
    for folder in ("pets/train/cat", "pets/val", "pets/val/dog", "SUN"):
        (tmp_path / folder / name).write_bytes(b"left behind")
    assert counts(pets) == (4, 4, 2)
    assert survey(pets).problems == []


@pytest.mark.parametrize(
    "ending",
    [".jfif", ".jpe", ".JPG", ".pgm", ".ppm", ".tga", ".jp2", ".avif", ".webp", ".gif", ".tiff"],
)
def test_what_pillow_decodes_is_an_image(pets, tmp_path, ending):
    if ending.lower() not in image_extensions():
        pytest.skip("this Pillow has no codec for it")
    Image.new("RGB", (8, 8)).save(tmp_path / "pets/train/cat" / f"more{ending}")
    assert counts(pets) == (5, 4, 2)
    assert read_image(str(tmp_path / "pets/train/cat" / f"more{ending}")).size == (8, 8)


def test_every_ending_is_of_a_format_that_is_decoded():
    assert {".jpg", ".png", ".bmp", ".tif"} <= image_extensions()
    assert not {".pdf", ".h5", ".mpg", ".eps", ".wmf", ".pfm", ".txt"} & image_extensions()


def test_files_left_out_are_said(pets, tmp_path, caplog):
    for folder in ("pets/val/cat", "SUN"):
        (tmp_path / folder / "x.heic").write_bytes(b"")
        (tmp_path / folder / "notes.txt").write_bytes(b"")
    counts(pets)
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(said) == 2 and all(
        "2 files among" in text and ".heic, .txt" in text for text in said
    )
    kinds = {(problem.where, problem.kind) for problem in survey(pets).problems}
    assert kinds == {("ID val", "not images"), ("SUN", "not images")}


LINKS = {  # link -> what it leads to
    "pets/val/cat/up": "..",
    "pets/val/cat/self": ".",
    "pets/val/cat/far": "../../..",
    "pets/val/loop": ".",
    "pets/val/above": "../..",
    "SUN/up": "..",
}


@pytest.mark.parametrize("link", LINKS)
def test_links_that_lead_back_are_not_followed(pets, tmp_path, link):
    os.symlink(LINKS[link], tmp_path / link)
    assert counts(pets) == (4, 4, 2)
    report = survey(pets)
    assert report.problems == [] and [row.images for row in report.rows] == [4, 2]


def test_links_lead_back_by_written_path_too(tmp_path, tree):
    tree({"store": 1, "data/set": 1})
    os.symlink(tmp_path / "store", tmp_path / "data/set/elsewhere")
    os.symlink(tmp_path / "data", tmp_path / "store/back")  # above it as it is written
    assert sorted(walk_images(tmp_path / "data/set")) == ["0.png", "elsewhere/0.png"]


def test_a_link_to_another_class_gives_no_image_two_labels(pets, tmp_path):
    os.symlink("../dog", tmp_path / "pets/val/cat/dogs")
    assert counts(pets) == (4, 4, 2)


def test_linked_classes_and_splits_are_followed(pets, tmp_path):
    shutil.move(tmp_path / "pets/val/cat", tmp_path / "store")
    os.symlink(tmp_path / "store", tmp_path / "pets/val/cat")
    shutil.move(tmp_path / "pets/train", tmp_path / "store_train")
    os.symlink(tmp_path / "store_train", tmp_path / "pets/train")
    assert counts(pets) == (4, 4, 2)
    assert class_folders(Path(tmp_path, "pets/val")) == ["cat", "dog"]
