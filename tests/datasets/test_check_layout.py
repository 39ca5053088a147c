"""Folders in the wrong place: what is said, and that the lines which are printed mend it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from yacs.config import CfgNode as CN

import trainers  # noqa: F401  (registers them)
from dassl.data.datasets import build_dataset
from dassl.utils.errors import InputError
from datasets import needs
from datasets.check import id_layout, layout, near
from datasets.check.findings import EVALUATION, TRAINING
from datasets.check.layout import look, require_data
from datasets.check.sources import unpack_class_tars
from datasets.classnames import imagenet_classnames, imagenet_wnids
from datasets.folders import find_folder
from datasets.ood_sets import load_ood_sets

TENCH, GOLDFISH = "n01440764", "n01443537"
BOTH = (EVALUATION, TRAINING)


@pytest.fixture
def world(cfg, monkeypatch, tmp_path):
    """An ImageNet of two classes (DATASET.CLASSES) and the OOD set SUN, under `data`."""
    monkeypatch.chdir(tmp_path)
    cfg.DATASET.ROOT = "data"
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


def only(cfg, runs=BOTH):
    problems = look(cfg, runs).problems
    assert len(problems) == 1, [problem.what for problem in problems]
    return problems[0]


def mend(problem):
    """Runs the printed lines, as a user who copies them."""
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(problem.mend)], check=True, capture_output=True
    )


MENDED = {
    "val called validation": (moved("images/val", "images/validation"), "misnamed"),
    "Val, in capitals": (moved("images/val", "images/Val"), "misnamed"),
    "train called training": (moved("images/train", "images/training"), "misnamed"),
    "train beside images": (moved("images/train", "train"), "misnamed"),
    "imagenet in imagenet": (moved("imagenet/images", "imagenet/imagenet"), "nested"),
    "imagenet/images in imagenet": (moved("imagenet/images", "imagenet/imagenet/images"), "nested"),
    "val in val": (moved("images/val", "images/val/ILSVRC2012_img_val"), "nested"),
    "in capitals": (moved("imagenet/images", "imagenet/Images"), "nested"),
    "another name": (moved("imagenet/images", "imagnet/images"), "missing"),
    "class folders alone": (
        {f"data/imagenet/{wnid}": 1 for wnid in (TENCH, GOLDFISH)} | {"data/SUN": 1},
        "no splits",
    ),
    "class names": (moved(f"val/{GOLDFISH}", "val/Goldfish"), "class names"),
    "labels": (moved(f"val/{GOLDFISH}", "val/0001"), "class names"),
    "SUN elsewhere": (moved("data/SUN", "data/more/sun_images"), "misnamed"),
}


@pytest.mark.parametrize("case", MENDED)
def test_the_lines_that_are_printed_mend_it(tree, world, case):
    folders, kind = MENDED[case]
    tree(folders)
    problem = only(world)
    assert problem.kind == kind
    mend(problem)
    left = look(world, BOTH).problems
    assert [problem.kind for problem in left] in ([], ["missing"])  # no train: it never was there
    assert len(build_dataset(world).test) == 2 and len(load_ood_sets(world)["SUN"]) == 1


def test_a_good_layout_has_no_problem(tree, world):
    tree(GOOD)
    found = look(world, BOTH)
    assert found.problems == []
    assert list(found.splits) == ["train", "val"] and list(found.ood) == ["SUN"]
    require_data(world, EVALUATION)
    require_data(world, TRAINING)


def flat_val(tree):
    root = tree({"data/imagenet/images/val": 2, "data/SUN": 1})
    val = root / "data/imagenet/images/val"
    for index in range(2):
        (val / f"{index}.png").rename(val / f"ILSVRC2012_val_0000000{index}.JPEG")
    return root


def test_a_flat_val_is_sorted_with_kaggles_list(tree, world):
    root = flat_val(tree)
    lines = [
        "ImageId,PredictionString",
        f"ILSVRC2012_val_00000000,{GOLDFISH} 1 2 3 4 ",
        f"ILSVRC2012_val_00000001,{TENCH} 1 2 3 4 {TENCH} 5 6 7 8 ",
    ]
    (root / "data/LOC_val_solution.csv").write_text("\r\n".join(lines) + "\r\n")
    flat = look(world, [EVALUATION]).problems[0]
    assert flat.kind == "flat" and "2 images, such as ILSVRC2012_val_00000000.JPEG" in flat.what
    mend(flat)
    found = {os.path.basename(item.impath): item.classname for item in build_dataset(world).test}
    assert found == {
        "ILSVRC2012_val_00000001.JPEG": "tench",
        "ILSVRC2012_val_00000000.JPEG": "goldfish",
    }


def test_without_it_the_usual_script_is_named(tree, world):
    flat_val(tree)
    assert "valprep.sh | bash" in look(world, BOTH).problems[0].mend[1]


def test_a_flat_training_set_is_sorted_by_its_names(tree, world):
    root = tree(GOOD)
    train = root / "data/imagenet/images/train"
    for wnid in (TENCH, GOLDFISH):
        (train / wnid / "0.png").rename(train / f"{wnid}_10.JPEG")
        (train / wnid).rmdir()
    problem = only(world)
    assert problem.kind == "flat" and problem.stops == (TRAINING,)
    mend(problem)
    assert (train / TENCH / f"{TENCH}_10.JPEG").exists() and not look(world, BOTH).problems


def test_archives_are_unpacked(tree, world):
    root = tree({**GOOD, "packed": 1})
    tar = ["tar", "cf", str(root / "data/SUN.tar"), "-C", str(root / "data"), "SUN"]
    subprocess.run(tar, check=True)
    (root / "data/SUN/0.png").unlink()
    (root / "data/SUN").rmdir()
    problem = only(world)
    assert problem.kind == "packed" and "SUN.tar may be it" in problem.what
    mend(problem)
    assert not look(world, BOTH).problems


def test_class_tars_are_unpacked(tree, tmp_path):
    tree({"made": 2})
    (tmp_path / "train").mkdir()
    subprocess.run(["tar", "cf", "train/n1.tar", "-C", "made", "."], check=True, cwd=tmp_path)
    subprocess.run(["bash", "-c", unpack_class_tars(tmp_path / "train")], check=True)
    assert (tmp_path / "train/n1/1.png").exists()


def test_all_that_is_wrong_is_told_at_once(tree, world):
    tree({"data/imagenet/images/validation": 1})
    sets(world, SUN=["SUN"], Texture=["dtd/images"])
    with pytest.raises(InputError) as error:
        require_data(world, EVALUATION)
    for words in (
        "3 problems",
        "1. ID: ",
        "2. SUN: not found",
        "SUN.tar.gz",
        "dtd-r1.0.1.tar.gz",
        "mv data/imagenet/images/validation data/imagenet/images/val",
        "check.sh",
    ):
        assert words in str(error.value)


def test_an_evaluation_needs_no_training_folder_and_training_no_ood_set(tree, world):
    tree({folder: count for folder, count in GOOD.items() if "train" not in folder})
    require_data(world, EVALUATION)
    with pytest.raises(InputError, match="nothing can be trained on this set"):
        require_data(world, TRAINING)
    tree({folder: count for folder, count in GOOD.items() if "train" in folder})
    sets(world, SUN=["nowhere"])
    require_data(world, TRAINING)


@pytest.fixture
def clipn(tree, world):
    """The world without training images, and a trainer that learns from three shards instead."""
    tree({folder: count for folder, count in GOOD.items() if "train" not in folder})
    world.TRAINER.NAME = "CLIPN"
    world.DATASET.PAIRS.SOURCE, world.DATASET.PAIRS.PATH = "shards", "cc3m/{00000..00002}.tar"
    return world


def shard(cfg, number, content=b"x"):
    path = Path(cfg.DATASET.ROOT, f"cc3m/0000{number}.tar")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def test_a_trainer_of_pairs_needs_them_and_no_training_images(clipn):
    problem = only(clipn)
    assert (problem.where, problem.kind, problem.stops) == ("DATASET.PAIRS", "missing", (TRAINING,))
    assert "3 of 3 shards do not exist" in problem.what
    assert any(line.startswith("img2dataset") and "data/cc3m" in line for line in problem.mend)
    require_data(clipn, EVALUATION)
    with pytest.raises(InputError, match="not ready for training: 1 problem"):
        require_data(clipn, TRAINING)
    for number in range(3):
        shard(clipn, number)
    assert look(clipn, BOTH).problems == []
    clipn.TRAINER.NAME = "CoOp"  # which reads no pairs, whatever is set
    assert only(clipn).where == "ID train"


@pytest.mark.parametrize("gone, kind", [("images/val", "no splits"), ("", "missing")])
def test_only_what_is_read_is_to_be_fetched(clipn, gone, kind):
    shutil.rmtree(Path("data/imagenet", gone))
    for trainer, read in (("CLIPN", False), ("CoOp", True)):
        clipn.TRAINER.NAME = trainer
        problem = next(p for p in look(clipn, BOTH).problems if p.where == "ID")
        lines = "\n".join(problem.mend)
        assert problem.kind == kind and "val.tar" in lines and ("train.tar" in lines) is read


def test_shards_that_are_lost_or_empty(clipn):
    shard(clipn, 0)
    shard(clipn, 2, b"")
    lost = only(clipn)
    assert "1 of 3 shards do not exist" in lost.what and "00001.tar" in lost.what
    assert "DATASET.PAIRS.PATH " in lost.mend[1]
    shard(clipn, 1)
    empty = only(clipn)
    assert empty.kind == "empty shards" and len(empty.files) == 1 and "1 of 3" in empty.what
    mend(empty)
    assert "1 of 3 shards do not exist" in only(clipn).what
    clipn.DATASET.PAIRS.PATH = "cc3m"
    assert look(clipn, BOTH).problems == []


@pytest.mark.parametrize(
    "source, place, words, mends",
    [
        ("csv", "web/pairs.csv", "web/pairs.csv .* does not exist", "header line"),
        ("csv", "generated/pairs.csv", "does not exist", "python -m generated --root data"),
        ("folder", "web", "holds no images", "x.txt beside it"),
        ("shards", "web/{0..1}.tar", "2 of 2 shards", "put webdataset shards there"),
    ],
)
def test_other_places_of_pairs(clipn, tree, source, place, words, mends):
    clipn.DATASET.PAIRS.SOURCE, clipn.DATASET.PAIRS.PATH = source, place
    problem = only(clipn)
    assert re.search(words, problem.what) and mends in "\n".join(problem.mend)
    tree({"data/web": 1, "data/generated": 0})
    for name in ("web/pairs.csv", "generated/pairs.csv", "web/0.tar", "web/1.tar"):
        Path("data", name).write_bytes(b"x")
    assert look(clipn, BOTH).problems == []


def test_captions_of_class_names_need_the_training_images(clipn):
    clipn.DATASET.PAIRS.SOURCE = "classnames"
    problem = only(clipn)
    assert (problem.where, problem.stops) == ("ID train", (TRAINING,))


def test_pairs_of_no_source_are_refused(clipn):
    clipn.DATASET.PAIRS.SOURCE = "shard"
    with pytest.raises(InputError, match="Did you mean 'shards'"):
        look(clipn, BOTH)
    require_data(clipn, EVALUATION)


def test_pairs_of_their_own_root_need_no_data_root(clipn, tmp_path):
    for number in range(3):
        shard(clipn, number)
    clipn.DATASET.PAIRS.PATH = str(tmp_path / "data/cc3m")
    clipn.DATASET.FOLDER = str(tmp_path / "data/imagenet")
    clipn.DATASET.ROOT = "nowhere"
    require_data(clipn, TRAINING)
    assert only(clipn).stops == [EVALUATION]  # SUN is looked for there


@pytest.mark.parametrize("gone", ["imagenet", "imagenet/images/val"])
def test_class_names_that_are_known_need_no_images(clipn, gone):
    for number in range(3):
        shard(clipn, number)
    assert needs.missing_images(clipn) == ""
    shutil.rmtree(Path("data", gone))
    assert "imagenet" in needs.missing_images(clipn)
    assert only(clipn).stops == (EVALUATION,)
    require_data(clipn, TRAINING)
    clipn.DATASET.CLASSES = "present"  # what classes there are, only folders tell
    with pytest.raises(InputError, match="1 problem"):
        require_data(clipn, TRAINING)
    clipn.DATASET.CLASSES, clipn.DATASET.PAIRS.SOURCE = "", "classnames"
    with pytest.raises(InputError, match="1 problem"):
        require_data(clipn, TRAINING)


def test_images_that_are_there_must_be_right(clipn, tree):
    """They are tested on."""
    for number in range(3):
        shard(clipn, number)
    shutil.rmtree("data/imagenet/images/val")
    tree({"data/imagenet/images/val": 2})
    assert "flat" in only(clipn).kind
    with pytest.raises(InputError, match="flat"):
        require_data(clipn, TRAINING)


def test_an_evaluation_on_the_id_set_alone_asks_for_no_ood_set(tree, world):
    tree({folder: count for folder, count in GOOD.items() if folder != "data/SUN"})
    require_data(world, EVALUATION, ood=False)
    with pytest.raises(InputError, match="SUN: not found"):
        require_data(world, EVALUATION)


def test_entry_points_list_no_class_folder(tree, world, monkeypatch):
    tree(GOOD)
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    require_data(world, EVALUATION)
    assert listed and not any(wnid in path for path in listed for wnid in (TENCH, GOLDFISH))


@pytest.mark.parametrize(
    "root, words",
    [("data/imagenet", "data does"), ("nowhere", "does not exist"), (".", "data does")],
)
def test_a_wrong_root_is_all_that_is_told(tree, world, root, words, tmp_path):
    tree(GOOD)
    world.DATASET.ROOT = root
    problem = only(world)
    assert problem.where == layout.DATA_ROOT and words in problem.what
    found = problem.mend[0].removeprefix("# use   --root ")
    assert os.path.samefile(found, tmp_path / "data")


def test_missing_and_foreign_classes(tree, world):
    tree(GOOD)
    world.DATASET.CLASSES = ""
    kinds = {(p.kind, p.where): p for p in look(world, BOTH).problems}
    assert set(kinds) == {("classes missing", "ID val"), ("classes missing", "ID train")}
    assert kinds["classes missing", "ID val"].what.startswith("998 of 1000")
    assert kinds["classes missing", "ID train"].stops == (TRAINING,)
    tree({"data/imagenet/images/val/zebra_crossing": 1})
    foreign = next(p for p in look(world, BOTH).problems if p.kind == "unknown classes")
    assert foreign.stops == BOTH and "zebra_crossing" in foreign.what
    mend(foreign)
    assert not any(p.kind == "unknown classes" for p in look(world, BOTH).problems)


def test_classes_of_an_image_folder_differ(tree, cfg, tmp_path):
    cfg.DATASET.NAME, cfg.DATASET.FOLDER = "ImageFolder", "pets"
    sets(cfg, SUN=["SUN"])
    tree({"pets/train/cat": 1, "pets/train/dog": 1, "pets/val/cat": 1, "SUN": 1})
    problem = only(cfg)
    assert problem.kind == "classes differ" and "Not in val/: dog" in problem.what
    cfg.DATASET.CLASSES = "present"
    assert look(cfg, BOTH).problems == []


def test_two_folders_that_may_be_meant_and_two_sets_in_one_folder(tree, world):
    tree({**GOOD, "data/sun397": 1})
    sets(world, SUN=["SUN", "SUN397"], Sky=["SUN"])
    kinds = {p.kind: p for p in look(world, BOTH).problems}
    assert set(kinds) == {"two folders", "same folder"}
    assert all(not p.stops for p in kinds.values())


def test_every_class_name_leads_back_to_its_id():
    names = dict(zip(imagenet_classnames(), imagenet_wnids(), strict=True))
    found = id_layout._wnids_meant([name.replace(" ", "_") for name in names])
    assert list(found.values()) == list(names.values())


@pytest.mark.parametrize(
    "name, wanted, expected",
    [
        ("sun", "SUN", True),
        ("SUN_dataset", "SUN", True),
        ("inaturalist", "iNaturalist", True),
        ("cifar100", "cifar10", False),
        ("imagnet", "imagenet", True),
        ("scores", "SUN", False),
        ("iNaturalist2021", "iNaturalist", False),
    ],
)
def test_names_that_are_alike(name, wanted, expected):
    assert near.alike(name, [wanted]) is expected


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
