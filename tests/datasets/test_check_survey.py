"""The whole check: each fault is named, a clean folder has none, and the loaders agree with it."""

import io
import itertools
import os
import random
import re
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from yacs.config import CfgNode as CN

import trainers  # noqa: F401  (registers them)
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum, build_dataset
from dassl.utils.errors import InputError
from datasets.check import files
from datasets.check.survey import check
from datasets.needs import EVALUATION, training_needs
from datasets.ood_sets import load_ood_sets

TENCH, GOLDFISH = "n01440764", "n01443537"
NUMBERS = itertools.count(1)  # no two images are equal
SLOW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def write(folder: Path, count: int, ending: str = "png") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for _ in range(count):
        number = next(NUMBERS)
        buffer = io.BytesIO()
        colour = (number >> 16, number >> 8 & 255, number & 255)
        Image.new("RGB", (2, 2), colour).save(buffer, "PNG")
        paths.append(folder / f"{number}.{ending}")
        paths[-1].write_bytes(buffer.getvalue())
    return paths


def config(root: Path, name="ImageFolder", **folders: str):
    cfg = get_cfg_default()
    cfg.DATASET.ROOT, cfg.DATASET.NAME, cfg.SEED = str(root), name, 1
    cfg.TRAINER.NAME = "CoOp"
    cfg.DATASET.FOLDER = "pets" if name == "ImageFolder" else ""
    sets = {key: CN({"FOLDERS": [folder], "IMAGES": 0}) for key, folder in folders.items()}
    cfg.OOD.SETS = CN(sets, new_allowed=True)
    return cfg


@pytest.fixture
def pets(tmp_path):
    """A clean data set of two classes and two OOD sets."""
    for split, name in itertools.product(("train", "val"), ("cat", "dog")):
        write(tmp_path / "pets" / split / name, 3)
    for name in ("SUN", "Texture/images"):
        write(tmp_path / name, 3)
    return config(tmp_path, SUN="SUN", Texture="Texture/images")


def survey(cfg, *asked, full=False):
    runs = {"evaluation": EVALUATION, "training": training_needs(cfg)}
    return check(cfg, "pets", runs, asked or ("evaluation",), full)


def kinds(report):
    return {(problem.where, problem.kind) for problem in report.problems}


def test_a_clean_folder_has_no_problem(pets):
    report = survey(pets, "evaluation", "training")
    assert report.problems == [] and report.ready
    assert [(row.name, row.folders, row.images) for row in report.rows] == [
        ("ID val", 2, 6),
        ("ID train", 2, 6),
        ("SUN", 1, 3),
        ("Texture", 1, 3),
    ]
    assert report.text().count("can go ahead") == 2 and "error" not in report.text()


NAMES = st.text("abcXYZ _-'é0", min_size=1, max_size=6).filter(lambda name: name.strip() == name)


def prompt(name):
    return tuple(re.findall("[a-zé]+|[0-9]|[-']+", name.replace("_", " ").lower()))


@SLOW
@given(
    classes=st.lists(NAMES, min_size=1, max_size=4, unique_by=prompt),
    splits=st.sampled_from(
        [("val",), ("test",), ("train", "val"), ("train", "val", "test"), ("train",), ("",)]
    ),
    inside=st.sampled_from(["", "images"]),
    most=st.integers(2, 4),
    ood=st.lists(st.lists(NAMES, max_size=2), min_size=1, max_size=3),
    full=st.booleans(),
)
def test_no_false_alarm_on_clean_folders(
    tmp_path_factory, classes, splits, inside, most, ood, full
):
    root, draw = tmp_path_factory.mktemp("clean"), random.Random(most)
    for split, name in itertools.product(splits, classes):
        folder = root / "pets" / inside / split / name
        write(folder, draw.randint(2, most), draw.choice(["png", "JPEG"]))
    cfg = config(root, **{f"Set{n}": f"set_{n}_of_ood" for n in range(len(ood))})
    for number, parts in enumerate(ood):
        count = draw.randint(1, most)
        write(root.joinpath(f"set_{number}_of_ood", *parts), count)
        cfg.OOD.SETS[f"Set{number}"].IMAGES = draw.choice([0, count])
    found = kinds(survey(cfg, full=full))
    lacks_train = splits in (("val",), ("test",))
    assert found == ({("ID train", "missing")} if lacks_train else set())


def _remove_files(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _flatten(split: Path) -> None:
    for path in split.glob("*/*"):
        path.rename(split / f"{path.parent.name}_{path.name}")
    for folder in split.glob("*/"):
        folder.rmdir()


def _nest(own: Path) -> None:
    own.rename(own.with_name("x"))
    own.mkdir()
    own.with_name("x").rename(own / own.name)


FAULTS = {  # of the ID set's folder and one of its two classes
    "rename a split": lambda own, name: (own / "val").rename(own / "Val"),
    "move a split": lambda own, name: (own / "train").rename(own.parent / "train"),
    "no val": lambda own, name: shutil.rmtree(own / "val"),
    "no train": lambda own, name: shutil.rmtree(own / "train"),
    "remove a class": lambda own, name: shutil.rmtree(own / "val" / name),
    "remove a training class": lambda own, name: shutil.rmtree(own / "train" / name),
    "empty a class": lambda own, name: _remove_files(own / "val" / name),
    "empty a training class": lambda own, name: _remove_files(own / "train" / name),
    "flatten": lambda own, name: _flatten(own / "val"),
    "flatten training": lambda own, name: _flatten(own / "train"),
    "no SUN": lambda own, name: shutil.rmtree(own.parent / "SUN"),
    "empty SUN": lambda own, name: _remove_files(own.parent / "SUN"),
    "lower SUN": lambda own, name: (own.parent / "SUN").rename(own.parent / "Sun"),
    "nest": lambda own, name: _nest(own),
    "text in a class": lambda own, name: (own / "val" / name / "notes.txt").write_text("x"),
    "a folder more": lambda own, name: (own / "val/bird").mkdir(),
    "a training folder more": lambda own, name: (own / "train/bird").mkdir(),
    "a class by its name": lambda own, name: (own / "val" / name).rename(own / "val/tench"),
    "a knot": lambda own, name: os.symlink("knot", own / "val" / name / "knot"),
}
CLASSES = {"ImageFolder": ("pets", "cat", "dog"), "ImageNet": ("imagenet", TENCH, GOLDFISH)}


@pytest.mark.slow
@settings(SLOW, max_examples=100)
@given(
    st.sampled_from(sorted(CLASSES)),
    st.data(),
    st.lists(st.sampled_from(sorted(FAULTS)), max_size=3, unique=True),
)
def test_errors_are_told_exactly_where_the_loaders_refuse(tmp_path_factory, kind, data, faults):
    root = tmp_path_factory.mktemp("faults")
    folder, first, second = CLASSES[kind]
    for split, name in itertools.product(("train", "val"), (first, second)):
        write(root / folder / split / name, 2)
    write(root / "SUN", 1)
    for fault in faults:
        with suppress(FileNotFoundError, NotADirectoryError):  # an earlier fault took it away
            FAULTS[fault](root / folder, first)
    cfg = config(root, kind, SUN="SUN")
    cfg.DATASET.CLASSES = data.draw(
        st.sampled_from(["", "present", first, second, f"{first},{second}"])
    )
    assert survey(cfg).ready == _loads(cfg)


def _loads(cfg) -> bool:
    try:
        build_dataset(cfg)
        load_ood_sets(cfg)
    except InputError:
        return False
    return True


def test_files_that_cannot_be_read(pets, tmp_path, monkeypatch):
    empty, damaged = (tmp_path / "pets/val/cat").iterdir().__next__(), write(tmp_path / "SUN", 1)[0]
    empty.write_bytes(b"")
    damaged.write_bytes(damaged.read_bytes()[:40])
    os.symlink("nowhere", tmp_path / "Texture/images/gone.jpg")
    denied = write(tmp_path / "Texture/images", 1)[0]
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: str(path) != str(denied) and access(path, mode)
    )
    report = survey(pets)
    assert kinds(report) == {
        ("ID val", "empty files"),
        ("SUN", "unreadable"),
        ("Texture", "broken links"),
        ("Texture", "no permission"),
    }
    assert not report.ready
    pets.DATALOADER.BAD_IMAGES = "skip"  # then such images stop no run
    again = survey(pets)
    assert kinds(again) == kinds(report) and again.ready


def test_images_in_two_sets(pets, tmp_path):
    sun = sorted((tmp_path / "SUN").iterdir())
    shutil.copy(sun[0], tmp_path / "Texture/images/other_name.png")
    for path in (tmp_path / "pets/train/cat").iterdir():
        shutil.copy(path, tmp_path / "pets/val/cat")
    assert survey(pets).problems == []
    report = survey(pets, full=True)
    assert kinds(report) == {("ID train", "wrong split"), ("Texture", "duplicates")}
    told = {problem.where: problem for problem in report.problems}
    assert told["ID train"].what.startswith("3 images") and report.ready
    assert told["Texture"].files == [f"{tmp_path}/Texture/images/other_name.png = {sun[0]}"]


@pytest.mark.parametrize("full", [False, True])
def test_a_folder_that_is_a_link_to_another_sets(pets, tmp_path, full):
    (tmp_path / "SUN").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "Texture/images", tmp_path / "SUN")
    (problem,) = survey(pets, full=full).problems
    assert (problem.where, problem.kind) == ("Texture", "duplicates")
    assert problem.what.startswith("3 images found in SUN too, by a link")


def test_a_sample_of_the_files_is_read(pets, monkeypatch):
    monkeypatch.setattr(files, "DECODED", 2)
    monkeypatch.setattr(files, "STATTED", 3)
    read = []
    original = files.read_image
    monkeypatch.setattr(files, "read_image", lambda path: read.append(path) or original(path))
    assert survey(pets).problems == [] and len(read) == 2 * 4
    read.clear()
    assert survey(pets, full=True).problems == [] and len(read) == 6 + 6 + 3 + 3


def test_numbers_against_the_protocol_and_the_shots(pets, tmp_path):
    pets.OOD.SETS.SUN.IMAGES, pets.DATASET.NUM_SHOTS = 2, 4
    write(tmp_path / "pets/train/dog", 1)
    report = survey(pets, "evaluation", "training")
    assert kinds(report) == {("SUN", "count"), ("ID train", "few images")} and report.ready
    told = {problem.where: problem for problem in report.problems}
    assert "curated" in told["SUN"].what  # more than there should be
    assert "cat with 3" in told["ID train"].what and "--shots 3" in told["ID train"].what
    assert kinds(survey(pets)) == {("SUN", "count")}  # nobody asked for a training


@pytest.fixture
def imagenet(tmp_path):
    for split, name in itertools.product(("train", "val"), (TENCH, GOLDFISH)):
        folder = tmp_path / f"imagenet/images/{split}/{name}"
        prefix = f"{name}_" if split == "train" else "ILSVRC2012_val_"
        for path in write(folder, 50):
            path.rename(folder / f"{prefix}{path.name}")
    write(tmp_path / "SUN", 1)
    cfg = config(tmp_path, "ImageNet", SUN="SUN")
    cfg.DATASET.CLASSES = f"{TENCH},{GOLDFISH}"
    return cfg


def test_imagenets_names_and_numbers(imagenet, tmp_path):
    assert survey(imagenet).problems == []
    images = tmp_path / "imagenet/images"
    first, second = sorted((images / "train" / TENCH).iterdir())[:2]
    first.rename(images / "val" / TENCH / first.name)
    second.rename(images / "train" / GOLDFISH / second.name)
    report = survey(imagenet)
    assert kinds(report) == {
        ("ID val", "wrong split"),
        ("ID val", "count"),
        ("ID train", "wrong class"),
    }
    told = {problem.kind: problem for problem in report.problems}
    assert told["count"].what.startswith("101 images in ID val where the protocol has 100")
    assert told["wrong class"].files == [f"{GOLDFISH}/{second.name}"]


def test_a_folder_that_may_not_be_listed_is_named(pets, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith("SUN"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = survey(pets)
    assert ("SUN", "no permission") in kinds(report) and not report.ready


def test_what_the_loader_alone_refuses_is_an_error(pets):
    pets.DATASET.CLASSNAMES_FILE = "nowhere.txt"
    report = survey(pets)
    assert kinds(report) == {("ID", "refused")} and not report.ready
    assert "nowhere.txt" in report.text()


def test_a_set_that_a_class_of_its_own_reads_is_named_as_not_checked(pets, tmp_path, monkeypatch):
    class Own(DatasetBase):
        def __init__(self, cfg):
            super().__init__(train_x=[Datum(str(tmp_path / "x.png"), 0, classname="cat")])

    monkeypatch.setitem(DATASET_REGISTRY._objects, "Own", Own)
    pets.DATASET.NAME = "Own"
    report = survey(pets)
    assert report.ready and re.search(r"ID +Own +- +- +- +not checked", report.text())
    assert "warning: ID: a class of its own reads this set" in report.text()


def test_the_record_holds_what_the_text_cuts(pets, tmp_path):
    for path in write(tmp_path / "SUN", 9):
        path.write_bytes(b"")
    record = survey(pets).record()
    assert record["ready"] is False and len(record["problems"][0]["files"]) == 9
    assert [row["verdict"] for row in record["sets"]] == ["ok", "ok", "empty files", "ok"]


@pytest.fixture
def clipn(pets, tmp_path):
    """Training on a table of pairs: five, two of them of one image."""
    names = [f"web/{path.name}" for path in write(tmp_path / "web", 4)]
    rows = "".join(f"{name},a caption\n" for name in [*names, names[0]])
    (tmp_path / "pairs.csv").write_text(f"path,caption\n{rows}", encoding="utf-8")
    pets.TRAINER.NAME, pets.DATALOADER.TRAIN_X.BATCH_SIZE = "CLIPN", 4
    pets.DATASET.PAIRS.SOURCE, pets.DATASET.PAIRS.PATH = "csv", "pairs.csv"
    return pets


def test_pairs_have_a_row_in_the_place_of_training_images(clipn, tmp_path):
    for path in (tmp_path / "pets/train/cat").iterdir():
        path.write_bytes(b"")
    report = survey(clipn, "evaluation", "training")
    assert report.problems == [] and report.ready
    assert [(row.name, row.found, row.images) for row in report.rows] == [
        ("ID val", "pets/val", 6),
        ("DATASET.PAIRS", "pairs.csv", 5),
        ("SUN", "SUN", 3),
        ("Texture", "Texture/images", 3),
    ]


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("DATASET.PAIRS.COLUMNS", ("path", "text"), "has no column text"),
        ("DATASET.PAIRS.NUM_PAIRS", 9, "there are 5 pairs"),
        ("DATALOADER.TRAIN_X.BATCH_SIZE", 8, "fewer than a batch"),
    ],
)
def test_what_the_loader_of_pairs_refuses_stops_training(clipn, key, value, words):
    clipn.merge_from_list([key, value])
    report = survey(clipn, "training")
    assert kinds(report) == {("DATASET.PAIRS", "refused")} and words in report.problems[0].what
    assert not report.ready and survey(clipn).ready


def test_shards_are_counted(clipn, tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for name in ("a.png", "a.txt", "b.png", "b.txt"):
                tar.addfile(tarfile.TarInfo(name))
    clipn.DATASET.PAIRS.SOURCE, clipn.DATASET.PAIRS.PATH = "shards", "{0..1}.tar"
    row = survey(clipn, "training").rows[1]
    assert (row.name, row.images) == ("DATASET.PAIRS", 4)
    (tmp_path / "0.tar").write_bytes(b"garbage" * 100)
    assert "no readable tar" in survey(clipn, "training").problems[0].what


def test_captions_of_class_names_are_checked_as_training_images(clipn, tmp_path):
    clipn.DATASET.PAIRS.SOURCE = "classnames"
    report = survey(clipn, "training")
    assert report.problems == [] and [row.name for row in report.rows][:3] == [
        "ID val",
        "ID train",
        "DATASET.PAIRS",
    ]
    assert report.rows[2].images == 6
    shutil.rmtree(tmp_path / "pets/train")
    report = survey(clipn, "training")
    assert kinds(report) == {("ID train", "missing")} and not report.ready
