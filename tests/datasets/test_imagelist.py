"""CoOp's listed data sets and the shifted ImageNets, on trees made on the spot."""

import json
import random
from pathlib import Path

import pytest

from dassl.data.datasets import build_dataset
from dassl.utils.errors import InputError
from datasets.check.layout import check_layout
from datasets.check.survey import check
from datasets.imagelist import ImageList
from datasets.needs import Needs
from tests.datasets.test_datasets_config import YAMLS, merge

NAMES = ["zebra crossing", "ant", "Boeing 707"]
LISTED = [path for path in YAMLS if "NAME: ImageList\n" in path.read_text(encoding="utf-8")]
LISTED = [path for path in LISTED if "openood" not in path.stem]  # CoOp's
SHIFTED = [path for path in YAMLS if "NAME: ShiftedImageNet" in path.read_text(encoding="utf-8")]


def rows(count, first):
    """Rows of a split, class by class; label 1 comes first."""
    return [
        [f"{label}/{first + i}.png", label, NAMES[label]]
        for label in (1, 0, 2)
        for i in range(count)
    ]


@pytest.fixture
def listed(cfg, tree):
    """A data set in CoOp's form: 8 images a class to train on, 5 to validate, 2 to test."""
    root = tree({f"things/pictures/{label}": 15 for label in range(3)})
    content = {"train": rows(8, 0), "val": rows(5, 8), "test": rows(2, 13)}
    (root / "things/split.json").write_text(json.dumps(content), encoding="utf-8")
    cfg.DATASET.NAME, cfg.DATASET.FOLDER, cfg.DATASET.IMAGES = "ImageList", "things", "pictures"
    cfg.DATASET.SPLIT_FILE = "split.json"
    return cfg


def test_the_file_divides_the_images(listed):
    data = build_dataset(listed)
    assert data.classnames == NAMES
    assert [len(part) for part in (data.train_x, data.val, data.test)] == [24, 15, 6]
    for item in (*data.train_x, *data.val, *data.test):
        assert Path(item.impath).is_file() and item.classname == NAMES[item.label]


def test_the_draw_is_coops(listed):
    """From Python's generator, class by class as they first appear, train before val."""
    listed.DATASET.NUM_SHOTS = 5
    data, rng = build_dataset(listed), random.Random(listed.SEED)
    expected = [rng.sample([r for r in rows(8, 0) if r[1] == c], 5) for c in (1, 0, 2)]
    expected += [rng.sample([r for r in rows(5, 8) if r[1] == c], 4) for c in (1, 0, 2)]
    drawn = [
        Path(item.impath).relative_to(Path(data.dataset_dir, "pictures"))
        for item in (*data.train_x, *data.val)
    ]
    assert [str(path) for path in drawn] == [row[0] for part in expected for row in part]


@pytest.mark.parametrize("part, names", [("base", NAMES[:2]), ("new", NAMES[2:])])
def test_base_and_new_classes(listed, part, names):
    listed.DATASET.SUBSAMPLE_CLASSES = part
    data = build_dataset(listed)
    assert data.classnames == names
    assert {item.label for item in data.test} == set(range(len(names)))


def test_a_file_of_the_users_elsewhere(listed, tmp_path):
    moved = tmp_path / "my.json"
    (tmp_path / "things/split.json").rename(moved)
    listed.DATASET.SPLIT_FILE = str(moved)
    assert len(build_dataset(listed).test) == 6


def test_a_file_is_found_in_the_home_and_in_the_working_folder(listed, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "things/split.json").rename(tmp_path / "home/my.json")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("~/my.json", "home/my.json"):
        listed.DATASET.SPLIT_FILE = name
        assert len(build_dataset(listed).test) == 6


def test_folders_are_found_in_any_case(listed):
    listed.DATASET.FOLDER, listed.DATASET.IMAGES = "Things", "Pictures"
    assert len(build_dataset(listed).test) == 6
    listed.DATASET.FOLDER = "nothing"
    with pytest.raises(InputError, match=r"images' folder .*nothing/Pictures does not exist"):
        build_dataset(listed)


def test_aircrafts_own_lists(cfg, tmp_path):
    folder = tmp_path / "planes"
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("Boeing 707-320\nA300\n")
    for i, split in enumerate(("train", "val", "test")):
        lines = [f"{i}1 Boeing 707-320", f"{i}2 A300"]
        (folder / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            (folder / "images" / f"{line.split()[0]}.jpg").write_bytes(b"")
    cfg.DATASET.NAME, cfg.DATASET.FOLDER, cfg.DATASET.IMAGES = "ImageList", "planes", "images"
    cfg.DATASET.SPLIT_FILE = "images_variant_{}.txt"
    data = build_dataset(cfg)
    assert data.classnames == ["Boeing 707-320", "A300"]
    assert [(Path(x.impath).name, x.label) for x in data.test] == [("21.jpg", 0), ("22.jpg", 1)]
    (folder / "images/13.jpg").write_bytes(b"")
    (folder / "images_variant_val.txt").write_text("11 Boeing 707-320\n12 A300\n13 A300\n")
    cfg.DATASET.NUM_SHOTS = 1  # of val too, as CoOp draws it
    assert len(build_dataset(cfg).val) == 2
    for line in ("12 A400", "A300"):  # of no such class, of no image
        (folder / "images_variant_val.txt").write_text(f"{line}\n")
        with pytest.raises(InputError, match=rf"outside the 2 classes .*: line 1, {line}\."):
            build_dataset(cfg)
    (folder / "images_variant_val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"images_variant_val\.txt is no UTF-8 text"):
        build_dataset(cfg)


def damage(root, content):
    (root / "things/split.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda root: (root / "things/split.json").unlink(),
            "The list .*split.json does not exist",
        ),
        (lambda root: damage(root, {"train": []}), "is not a split file of CoOp's kind"),
        (
            lambda root: damage(root, {s: [["no.png", 0, "x"]] for s in ("train", "val", "test")}),
            "1 listed image not there: .*no.png",
        ),
        (
            lambda root: damage(root, {"train": [], "val": [], "test": []}),
            "lists no images to train on",
        ),
        (
            lambda root: damage(root, {s: [["1/0.png", 4, "x"]] for s in ("train", "val", "test")}),
            r"labels must run from 0, .* labels from 4 to 4; labels with several names: none\.",
        ),
        (
            lambda root: damage(root, {s: [["1/0.png", 0, s]] for s in ("train", "val", "test")}),
            r"labels from 0 to 0; labels with several names: \[0\]\.",
        ),
        (
            lambda root: damage(root, {s: [["../a", 0, "x"]] for s in ("train", "val", "test")}),
            r"split\.json has images with a path that .* leads out of .*pictures: \.\./a, ",
        ),
        (
            lambda root: (root / "things/pictures").rename(root / "things/other"),
            "images' folder .*pictures does not exist. Found beside it: other",
        ),
    ],
)
def test_what_cannot_be_read(listed, tmp_path, change, message):
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        build_dataset(listed)


def test_the_check_says_where_it_can_be_had(listed, tmp_path):
    assert check_layout(listed, Needs.TEST).problems == []
    (tmp_path / "things/split.json").unlink()
    listed.DATASET.DOWNLOAD = "https://example.org, unpacked in {root}"
    (problem,) = check_layout(listed, Needs.TEST).problems
    assert f"Get it: https://example.org, unpacked in {tmp_path}" in str(problem)


def test_the_whole_check_counts_the_lists(listed, tmp_path):
    runs = {"evaluation": Needs.TEST, "training": Needs.TEST | Needs.TRAIN}
    (tmp_path / "things/pictures/2/14.png").unlink()
    report = check(listed, "things", runs, ["evaluation"])
    rows = {row.name: (row.folders, row.images) for row in report.rows}
    assert rows == {"ID train": (3, 24), "ID val": (3, 15), "ID test": (3, 6)}
    (problem,) = report.problems
    assert problem.what.startswith("1 listed image not there: ") and problem.stops == Needs.TEST


@pytest.mark.parametrize("path", LISTED, ids=lambda path: path.stem)
def test_every_listed_yaml_builds(cfg, tree, path):
    """Of the layout that it describes."""
    assert len(LISTED) == 10
    merge(cfg, path)
    given, folder = cfg.DATASET, f"{cfg.DATASET.FOLDER}/{cfg.DATASET.IMAGES}".rstrip("/")
    root = tree({folder: 1})
    images = root / folder
    if "{}" in given.SPLIT_FILE:
        (images / "0.png").rename(images / "0.jpg")
        (root / given.FOLDER / "variants.txt").write_text("x\n")
        for split in ("train", "val", "test"):
            (root / given.FOLDER / given.SPLIT_FILE.replace("{}", split)).write_text("0 x\n")
    else:
        content = {split: [["0.png", 0, "x"]] for split in ("train", "val", "test")}
        (root / given.FOLDER / given.SPLIT_FILE).write_text(json.dumps(content))
    assert build_dataset(cfg).classnames == ["x"]
    assert given.TEMPLATE.count("{}") == 1
    assert any(entry.FOLDERS for entry in cfg.OOD.SETS.values())


def test_listed_data_need_a_file(cfg):
    with pytest.raises(InputError):
        ImageList(cfg)


@pytest.mark.parametrize("path", SHIFTED, ids=lambda path: path.stem)
def test_shifted_imagenets(cfg, tree, path):
    assert len(SHIFTED) == 4
    merge(cfg, path)
    cfg.DATASET.CLASSES = "present"
    by_number = path.stem == "imagenetv2"
    folders = ["10", "2"] if by_number else ["n01532829", "n01484850"]
    tree({f"{cfg.DATASET.FOLDER}/{name}": 2 for name in folders})
    data = build_dataset(cfg)
    assert data.classnames[0] == "great white shark" and len(data.test) == 4
    assert data.class_folders[0] == ("2" if by_number else "n01484850")
    if by_number:
        assert data.classnames[1] == "brambling"
    assert check_layout(cfg, Needs.TEST).problems == []
    (problem,) = check_layout(cfg, Needs.TRAIN).problems
    assert "nothing can be trained on this set" in str(problem)
