"""Folders in the wrong place: what is said of them, before a run."""

import os
import re
import shutil
from pathlib import Path

import pytest
from yacs.config import CfgNode as CN

import trainers  # noqa: F401  (registers them)
from dassl.data.datasets import build_dataset
from dassl.utils.errors import InputError
from datasets.check.layout import PAIRS, ROOT, check_layout, require_data
from datasets.folders import find_folder
from datasets.needs import EVALUATION, Needs, missing_images, training_needs
from datasets.ood_sets import load_ood_sets
from datasets.own import use_id_folder

TENCH, GOLDFISH = "n01440764", "n01443537"
BOTH = EVALUATION | Needs.TRAIN


def runs(cfg):
    return EVALUATION | training_needs(cfg)


@pytest.fixture
def world(cfg, monkeypatch, tmp_path):
    """An ImageNet of two classes (DATASET.CLASSES) and the OOD set SUN, under `data`."""
    monkeypatch.chdir(tmp_path)
    cfg.DATASET.ROOT, cfg.TRAINER.NAME = "data", "CoOp"
    cfg.DATASET.NAME, cfg.DATASET.CLASSES = "ImageNet", f"{TENCH},{GOLDFISH}"
    sets(cfg, SUN=["SUN"])
    return cfg


def sets(cfg, **folders):
    entries = {name: CN({"FOLDERS": names, "IMAGES": 0}) for name, names in folders.items()}
    cfg.OOD.SETS = CN(entries, new_allowed=True)


GOOD = {
    f"data/imagenet/images/{split}/{wnid}": 1
    for split in ("train", "val")
    for wnid in (TENCH, GOLDFISH)
} | {"data/SUN": 1}


def moved(old, new):
    return {folder.replace(old, new): count for folder, count in GOOD.items()}


def only(cfg, needs=BOTH):
    problems = check_layout(cfg, needs).problems
    assert len(problems) == 1, [problem.what for problem in problems]
    return problems[0]


NAMED_ALIKE = {
    "val called validation": moved("images/val", "images/validation"),
    "val called valid": moved("images/val", "images/valid"),
    "Val, in capitals": moved("images/val", "images/Val"),
    "test": moved("images/val", "images/test"),
    "test called testing": moved("images/val", "images/testing"),
    "train called training": moved("images/train", "images/training"),
}


@pytest.mark.parametrize("case", NAMED_ALIKE)
def test_usual_names_of_splits_are_taken(tree, world, case):
    tree(NAMED_ALIKE[case])
    assert check_layout(world, BOTH).problems == []
    data = build_dataset(world)
    assert len(data.test) == len(data.train_x) == 2


REFUSED = {
    "imagenet in imagenet": (moved("imagenet/images", "imagenet/x/images"), "no splits", "x"),
    "another name": (moved("imagenet/images", "imagnet/images"), "missing", "SUN, imagnet"),
    "class folders alone": (
        {f"data/imagenet/{wnid}": 1 for wnid in (TENCH, GOLDFISH)} | {"data/SUN": 1},
        "no splits",
        TENCH,
    ),
    "class names": (moved(f"val/{GOLDFISH}", "val/Gold_fish"), "class names", GOLDFISH),
    "SUN elsewhere": (moved("data/SUN", "data/more/sun_images"), "missing", "imagenet, more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_in_its_place_is_named_with_what_is_there(tree, world, case):
    folders, kind, words = REFUSED[case]
    tree(folders)
    problem = only(world)
    assert problem.kind == kind and words in problem.what


def test_a_good_layout_has_no_problem(tree, world):
    tree(GOOD)
    found = check_layout(world, BOTH)
    assert found.problems == []
    assert [images.name for images in found.sets] == ["ID val", "ID train", "SUN"]
    require_data(world, EVALUATION)
    require_data(world, training_needs(world))


def test_a_flat_split_is_named(tree, world):
    tree({**GOOD, "data/imagenet/images/val": 2, "data/imagenet/images/train": 1})
    for split, stops in (("val", Needs.TEST | Needs.TRAIN), ("train", Needs.TRAIN)):
        for wnid in (TENCH, GOLDFISH):
            shutil.rmtree(f"data/imagenet/images/{split}/{wnid}")
        problem = next(p for p in check_layout(world, BOTH).problems if p.where == f"ID {split}")
        assert problem.kind == "flat" and problem.stops == stops and "valprep.sh" in problem.what


def test_all_that_is_wrong_is_named_at_once(tree, world, tmp_path):
    tree({"data/imagenet/images/validation": 1})
    sets(world, SUN=["SUN"], Texture=["dtd/images"])
    world.OOD.SETS.SUN.DOWNLOAD = "http://host/SUN.tar.gz, unpacked in {root}"
    with pytest.raises(InputError) as error:
        require_data(world, EVALUATION)
    for words in (
        "3 problems",
        "1. ID val: ",
        "2. SUN: The OOD set SUN was not found",
        f"Get it: http://host/SUN.tar.gz, unpacked in {tmp_path}/data",
        "3. Texture:",
        "check.sh",
    ):
        assert words in " ".join(str(error.value).split())


def test_an_evaluation_needs_no_training_folder_and_training_no_ood_set(tree, world):
    tree({folder: count for folder, count in GOOD.items() if "train" not in folder})
    require_data(world, EVALUATION)
    with pytest.raises(InputError, match=r"nothing\s+can\s+be\s+trained"):
        require_data(world, training_needs(world))
    tree({folder: count for folder, count in GOOD.items() if "train" in folder})
    sets(world, SUN=["nowhere"])
    require_data(world, training_needs(world))


@pytest.fixture
def clipn(tree, world):
    """The world without training images, and a trainer that learns from three shards instead."""
    tree({folder: count for folder, count in GOOD.items() if "train" not in folder})
    world.TRAINER.NAME = "CLIPN"
    world.DATASET.PAIRS.SOURCE, world.DATASET.PAIRS.PATH = "shards", "cc3m/{00000..00002}.tar"
    world.DATASET.PAIRS.DOWNLOAD = "img2dataset --output_folder {root}/cc3m"
    return world


def shard(cfg, number, content=b"x"):
    path = Path(cfg.DATASET.ROOT, f"cc3m/0000{number}.tar")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def test_a_trainer_of_pairs_needs_them_and_no_training_images(clipn):
    problem = only(clipn, runs(clipn))
    assert (problem.where, problem.kind, problem.stops) == (PAIRS, "missing", Needs.PAIRS)
    assert "3 of 3 shards do not exist or are empty" in problem.what
    assert f"Get it: img2dataset --output_folder {os.path.abspath('data')}/cc3m" in problem.what
    require_data(clipn, EVALUATION)
    with pytest.raises(InputError, match="not ready for training: 1 problem"):
        require_data(clipn, training_needs(clipn))
    for number in range(3):
        shard(clipn, number)
    assert check_layout(clipn, runs(clipn)).problems == []
    clipn.TRAINER.NAME = "CoOp"  # which reads no pairs, whatever is set
    assert only(clipn, runs(clipn)).where == "ID train"


def test_shards_that_are_lost_or_empty(clipn):
    shard(clipn, 0)
    shard(clipn, 2, b"")
    lost = only(clipn, runs(clipn))
    assert "2 of 3 shards do not exist or are empty" in lost.what and "00001.tar" in lost.what
    assert [Path(name).name for name in lost.files] == ["00001.tar", "00002.tar"]
    shard(clipn, 1)
    assert "1 of 3 shards" in only(clipn, runs(clipn)).what
    Path(lost.files[1]).unlink()
    assert "1 of 3 shards" in only(clipn, runs(clipn)).what
    clipn.DATASET.PAIRS.PATH = "cc3m"
    assert check_layout(clipn, runs(clipn)).problems == []


@pytest.mark.parametrize(
    "source, place, words",
    [
        ("csv", "web/pairs.csv", "web/pairs.csv .* does not exist"),
        ("shards", "web/{0..1}.tar", "2 of 2 shards"),
    ],
)
def test_other_places_of_pairs(clipn, tree, source, place, words):
    clipn.DATASET.PAIRS.SOURCE, clipn.DATASET.PAIRS.PATH = source, place
    problem = only(clipn, runs(clipn))
    assert re.search(words, problem.what) and "img2dataset" not in problem.what
    tree({"data/web": 1})
    for name in ("web/pairs.csv", "web/0.tar", "web/1.tar"):
        Path("data", name).write_bytes(b"x")
    assert check_layout(clipn, runs(clipn)).problems == []


def test_captions_of_class_names_need_the_training_images(clipn):
    clipn.DATASET.PAIRS.SOURCE = "classnames"
    problem = only(clipn, runs(clipn))
    assert (problem.where, problem.stops) == ("ID train", Needs.TRAIN)


def test_pairs_of_no_source_are_refused(clipn):
    clipn.DATASET.PAIRS.SOURCE = "shard"
    with pytest.raises(InputError, match="Did you mean 'shards'"):
        check_layout(clipn, runs(clipn))
    require_data(clipn, EVALUATION)


def test_pairs_of_their_own_root_need_no_data_root(clipn, tmp_path):
    for number in range(3):
        shard(clipn, number)
    clipn.DATASET.PAIRS.PATH = str(tmp_path / "data/cc3m")
    clipn.DATASET.FOLDER = str(tmp_path / "data/imagenet")
    clipn.DATASET.ROOT = "nowhere"
    require_data(clipn, training_needs(clipn))
    assert only(clipn, runs(clipn)).stops == Needs.OOD  # SUN is looked for there


@pytest.mark.parametrize("gone", ["imagenet", "imagenet/images/val"])
def test_class_names_that_are_known_need_no_images(clipn, gone):
    for number in range(3):
        shard(clipn, number)
    assert missing_images(clipn) == ""
    shutil.rmtree(Path("data", gone))
    assert "imagenet" in missing_images(clipn)
    assert only(clipn, runs(clipn)).stops & Needs.TEST
    require_data(clipn, training_needs(clipn))
    clipn.DATASET.CLASSES = "present"  # what classes there are, only folders tell
    with pytest.raises(InputError, match="1 problem"):
        require_data(clipn, training_needs(clipn))
    clipn.DATASET.CLASSES, clipn.DATASET.PAIRS.SOURCE = "", "classnames"
    with pytest.raises(InputError, match="1 problem"):
        require_data(clipn, training_needs(clipn))


def test_images_that_are_there_must_be_right(clipn, tree):
    """They are tested on."""
    for number in range(3):
        shard(clipn, number)
    shutil.rmtree("data/imagenet/images/val")
    tree({"data/imagenet/images/val": 2})
    assert "flat" in only(clipn, runs(clipn)).kind
    with pytest.raises(InputError, match="flat"):
        require_data(clipn, training_needs(clipn))


def test_a_folder_without_images_is_named_with_what_it_holds(tree, world):
    tree(
        {**{folder: count for folder, count in GOOD.items() if folder != "data/SUN"}, "data/SUN": 0}
    )
    assert only(world).kind == "no images" and "data/SUN holds nothing." in only(world).what
    tree({"data/SUN/empty": 0})
    assert "data/SUN holds empty." in only(world).what


def test_an_evaluation_on_the_id_set_alone_asks_for_no_ood_set(tree, world):
    tree({folder: count for folder, count in GOOD.items() if folder != "data/SUN"})
    require_data(world, Needs.TEST)
    with pytest.raises(InputError, match=r"SUN\s+was\s+not\s+found"):
        require_data(world, EVALUATION)


def test_entry_points_list_no_class_folder(tree, world, monkeypatch):
    tree(GOOD)
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    require_data(world, EVALUATION)
    assert listed and not any(wnid in path for path in listed for wnid in (TENCH, GOLDFISH))


def test_a_root_that_is_not_there_is_all_that_is_named(tree, world, tmp_path):
    tree({**GOOD, "output": 0})
    world.DATASET.ROOT = "nowhere"
    before = sorted(os.listdir())
    problem = only(world)
    assert problem.where == ROOT and "nowhere does not exist" in problem.what
    assert "output" not in problem.what and problem.stops == BOTH
    assert sorted(os.listdir()) == before


def test_training_asks_for_no_ood_set(tree, cfg, tmp_path):
    """`train.py --id-data pets` with train/ and validation/ in it."""
    tree(
        {
            "pets/train/cat": 2,
            "pets/train/dog": 2,
            "pets/validation/cat": 1,
            "pets/validation/dog": 1,
        }
    )
    use_id_folder(cfg, str(tmp_path / "pets"))
    cfg.TRAINER.NAME = "CoOp"
    require_data(cfg, training_needs(cfg))
    assert [len(build_dataset(cfg).test), build_dataset(cfg).num_classes] == [2, 2]
    shutil.rmtree(tmp_path / "pets/train/dog")
    with pytest.raises(InputError, match="1 problem") as error:
        require_data(cfg, training_needs(cfg))
    said = " ".join(str(error.value).split())
    assert "No OOD set" not in said and "pets/train: dog" in said


def test_missing_and_foreign_classes(tree, world):
    tree(GOOD)
    world.DATASET.CLASSES = ""
    kinds = {(p.kind, p.where): p for p in check_layout(world, BOTH).problems}
    assert set(kinds) == {("classes missing", "ID val"), ("classes missing", "ID train")}
    assert kinds["classes missing", "ID val"].what.startswith("998 of 1000")
    assert kinds["classes missing", "ID train"].stops == Needs.TRAIN
    tree({"data/imagenet/images/val/zebra_crossing": 1})
    foreign = only(world)
    assert foreign.kind == "unknown classes" and "zebra_crossing" in foreign.what
    assert foreign.stops == Needs.TEST | Needs.TRAIN


def test_classes_of_an_image_folder_differ(tree, cfg, tmp_path):
    cfg.DATASET.NAME, cfg.DATASET.FOLDER = "ImageFolder", "pets"
    sets(cfg, SUN=["SUN"])
    tree({"pets/train/cat": 1, "pets/train/dog": 1, "pets/val/cat": 1, "SUN": 1})
    problem = only(cfg)
    assert problem.kind == "classes missing" and "pets/val: dog" in problem.what
    cfg.DATASET.CLASSES = "present"
    assert check_layout(cfg, BOTH).problems == []


@pytest.mark.parametrize(
    "val, sun",
    [
        ("ImageNet/val", "ImageNet_OOD_dataset/SUN"),
        ("imagenet/val", "ood_data/sun/images"),
        ("ILSVRC/Data/CLS-LOC/val", "ood_datasets/SUN"),
        ("images_largescale/imagenet_1k/val", "sun"),
    ],
)
def test_folders_of_other_projects_are_found(tree, world, val, sun):
    tree({f"data/{val}/{wnid}": 1 for wnid in (TENCH, GOLDFISH)} | {f"data/{sun}": 1})
    require_data(world, EVALUATION)
    assert len(build_dataset(world).test) == 2 and len(load_ood_sets(world)["SUN"]) == 1


def test_as_written_comes_before_any_case_of_letters(tree, tmp_path):
    tree({"SUN/a": 1, "sun/b": 1})
    assert find_folder(tmp_path, "sun") == tmp_path / "sun"
    assert find_folder(tmp_path, "Sun/B") is None  # Sun is SUN, which has no b
    assert find_folder(tmp_path, "Sun/A") == tmp_path / "SUN/a"
    assert find_folder(tmp_path, str(tmp_path / "SUN")) == tmp_path / "SUN"
