import os

import pytest

import datasets.splits as splits
from dassl.data import DataManager
from dassl.data.datasets import build_dataset
from dassl.utils.errors import InputError
from datasets.needs import names_known

PETS = {"train/cat": 3, "train/polar_bear": 2, "val/cat": 1, "val/polar_bear": 2}


def under(prefix, counts):
    return {f"{prefix}/{folder}": count for folder, count in counts.items()}


@pytest.fixture
def build(cfg):
    def make(**keys):
        cfg.DATASET.NAME = "ImageFolder"
        for key, value in keys.items():
            setattr(cfg.DATASET, key, value)
        return build_dataset(cfg)

    return make


def paths(items, root):
    return [os.path.relpath(item.impath, root) for item in items]


@pytest.mark.parametrize("folder, prefix", [("pets", "pets"), ("pets", "pets/images"), ("", ".")])
def test_layouts(tree, build, folder, prefix):
    root = tree(under(prefix, PETS))
    dataset = build(FOLDER=folder)
    assert dataset.classnames == ["cat", "polar bear"]
    assert dataset.class_folders == ["cat", "polar_bear"]
    assert dataset.num_classes == 2
    base = "" if prefix == "." else prefix + "/"
    assert paths(dataset.test, root) == [
        f"{base}val/{name}" for name in ("cat/0.png", "polar_bear/0.png", "polar_bear/1.png")
    ]
    assert [item.label for item in dataset.train_x] == [0, 0, 0, 1, 1]
    assert dataset.train_x[-1].classname == "polar bear"


def test_val_and_test_are_kept_apart(tree, build):
    tree(PETS | {"test/cat": 4, "test/polar_bear": 1})
    dataset = build()
    assert len(dataset.val) == 3 and len(dataset.test) == 5


def test_an_evaluation_split_is_looked_at_once(tree, build, caplog):
    tree(PETS | {"val": 2, "test/cat": 1, "test/polar_bear": 1})
    assert len(build().val) == 3 and caplog.text.count("2 images lie directly in") == 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_single_evaluation_split_is_the_test_set_and_selects_no_model(tree, cfg, split, caplog):
    tree({"train/cat": 1, f"{split}/cat": 2})
    caplog.set_level("INFO")
    cfg.DATASET.NAME, cfg.DATALOADER.NUM_WORKERS = "ImageFolder", 0
    manager = DataManager(cfg)
    assert len(manager.dataset.test) == len(manager.test_loader.dataset) == 2
    assert manager.dataset.val is None and manager.val_loader is None
    assert "# test" in caplog.text and "# val" not in caplog.text


def test_relative_root_stays_relative(tree, build, tmp_path, monkeypatch):
    tree(under("data", PETS))
    monkeypatch.chdir(tmp_path)
    assert build(ROOT="data").test[0].impath == "data/val/cat/0.png"


def test_images_below_a_class_folder_count(tree, build):
    tree({"train/cat/images": 2, "val/cat": 1})
    assert len(build().train_x) == 2


def test_few_shots_of_the_config(tree, build, cfg):
    tree({"train/a": 9, "train/b": 9, "val/a": 1, "val/b": 1})
    cfg.SEED = 0
    first = build(NUM_SHOTS=2).train_x
    assert [item.label for item in first] == [0, 0, 1, 1]
    assert [item.impath for item in first] == [item.impath for item in build().train_x]


def test_evaluation_lists_no_training_images(tree, build, monkeypatch):
    tree(PETS)
    listed = []
    original = splits.walk_images
    monkeypatch.setattr(
        splits, "walk_images", lambda folder, *a: listed.append(str(folder)) or original(folder)
    )
    dataset = build()
    assert dataset.num_classes == 2 and dataset.lab2cname == {0: "cat", 1: "polar bear"}
    assert listed and not any("/train/" in folder for folder in listed)
    assert len(dataset.train_x) == 5
    assert any("/train/" in folder for folder in listed)


def test_evaluation_needs_no_training_folder(tree, build):
    tree({"val/cat": 1, "val/dog": 1})
    dataset = build()
    assert len(dataset.test) == 2
    with pytest.raises(InputError, match=r"train does not exist.*one folder of images"):
        dataset.train_x  # noqa: B018


def test_class_names_from_a_file(tree, build, tmp_path):
    tree(PETS)
    (tmp_path / "names.txt").write_text("polar_bear white bear\ncat tabby\nextra one\n")
    dataset = build(CLASSNAMES_FILE=str(tmp_path / "names.txt"))
    assert dataset.classnames == ["tabby", "white bear"]


def test_classes_choose_a_subset_in_sorted_order(tree, build):
    tree({f"{split}/{name}": 1 for split in ("train", "val") for name in "abcd"})
    dataset = build(CLASSES="d, b")
    assert dataset.classnames == ["b", "d"]
    assert [item.label for item in dataset.train_x] == [0, 1]


def test_present_takes_what_all_splits_have(tree, build):
    tree({"train/a": 1, "train/b": 1, "val/b": 1, "val/c": 1})
    assert build(CLASSES="present").classnames == ["b"]


def test_names_shared_by_folders_are_warned_of(tree, build, caplog):
    tree({"val/polar_bear": 1, "val/polar bear": 1})
    build()
    assert "more than one class each" in caplog.text


BAD_TREES = {
    "missing": ({"other": 1}, "pets does not exist.*Found beside it: other.*DATASET.FOLDER"),
    "empty": ({"pets": 0}, "pets holds no class folders. Found in it: nothing"),
    "one image": ({"pets/train/cat": 1}, "has one image, which leaves none to test on"),
    "flat": (
        {"pets/train/cat": 1, "pets/val": 3},
        "pets/val is flat: 3 images such as 0.png.*Sort them into val/<class>/.*valprep.sh",
    ),
    "no class folders": ({"pets/val": 0}, "pets/val holds no class folders. Found in it: nothing"),
    "only in val": (
        {"pets/train/cat": 1, "pets/val/cat": 1, "pets/val/dog": 1},
        "1 of 2 class folders are missing in .*train: dog.*DATASET.CLASSES",
    ),
    "only in train": (
        {"pets/train/cat": 1, "pets/train/dog": 1, "pets/val/cat": 1},
        "1 of 2 class folders are missing in .*val: dog",
    ),
    "class without images": (
        {"pets/val/cat": 1, "pets/val/dog": 0},
        r"1 of 2 class folders in .*pets/val hold no images: dog. .*\.jpg, \.png",
    ),
}


@pytest.mark.parametrize("name, why", [("no", "does not exist"), ("file", "is a file, not a fo")])
@pytest.mark.parametrize("folder", ["", "pets"])
def test_a_root_that_is_no_folder_is_told_first(tree, build, tmp_path, name, why, folder):
    tree({"elsewhere/val/cat": 1})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"The data root .*/{name} {why}.*--root"):
        build(ROOT=str(tmp_path / name), FOLDER=folder)
    # A folder named in full needs no root.
    assert build(ROOT=str(tmp_path / name), FOLDER=str(tmp_path / "elsewhere")).num_classes == 1


def test_a_data_set_that_is_a_file_is_told(tree, build, tmp_path):
    (tmp_path / "pets").touch()
    with pytest.raises(InputError, match=r"pets is a file, not a folder.*Found beside it: pets"):
        build(FOLDER="pets")


@pytest.mark.parametrize("case", BAD_TREES)
def test_bad_trees_are_refused(tree, build, case):
    counts, message = BAD_TREES[case]
    tree(counts)
    with pytest.raises(InputError, match=message):
        build(FOLDER="pets")


@pytest.mark.parametrize("name", ["Validation", "valid", "VAL", "test", "Testing"])
def test_a_split_under_a_usual_name_is_taken(tree, build, name):
    tree({"pets/train/cat": 3, f"pets/{name}/cat": 2})
    data = build(FOLDER="pets")
    assert len(data.test) == 2 and len(data.train_x) == 3


def test_a_splits_own_name_comes_before_its_others(tree, build):
    tree({"train/cat": 3, "training/cat": 4, "val/cat": 2, "valid/cat": 5})
    data = build()
    assert len(data.test) == 2 and len(data.train_x) == 3


@pytest.mark.parametrize(
    "folders, words",
    [
        ({"train/cat": 2, "valid/cat": 1, "validation/cat": 1}, "valid and validation may be"),
        ({"training/1": 2, "walking/1": 2}, "training may be the train images or a class"),
        ({"dev/1": 2, "walking/1": 2}, "dev may be the val images or a class"),
    ],
)
def test_a_split_that_may_be_a_class_or_another_is_refused(tree, build, folders, words):
    tree(under("pets", folders))
    with pytest.raises(InputError, match=words):
        build(FOLDER="pets")


def test_training_class_without_images_is_refused(tree, build):
    tree({"train/cat": 0, "val/cat": 1})
    with pytest.raises(InputError, match=r"hold no images: cat"):
        build().train_x  # noqa: B018


def test_unknown_class_is_refused(tree, build):
    tree(PETS)
    with pytest.raises(InputError, match=r"1 of 2 class folders are missing in .*train: dog"):
        build(CLASSES="cat,dog")


def test_nothing_in_common_is_refused(tree, build):
    tree({"train/a": 1, "val/b": 1})
    with pytest.raises(InputError, match=r"train, val have no class folder in common"):
        build(CLASSES="present")


def test_unreadable_folder_is_refused(tree, build, monkeypatch):
    tree(PETS)
    scandir = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith("val/cat"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"val/cat cannot be listed: Permission denied"):
        build()


def test_named_classes_need_no_folders(cfg):
    cfg.DATASET.NAME, cfg.DATASET.CLASSES = "ImageFolder", "polar_bear,cat"
    dataset = build_dataset(cfg, images=False)
    assert dataset.classnames == ["cat", "polar bear"] and dataset.test is None
    assert names_known(cfg)
    cfg.DATASET.CLASSES = ""
    assert not names_known(cfg)


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "test"), ("train",)])
@pytest.mark.parametrize("part, kept", [("base", "abc"), ("new", "de")])
def test_a_part_of_the_classes(tree, build, splits, part, kept):
    root = tree({f"{split}/{name}": 4 for split in splits for name in "abcde"})
    data = build(SUBSAMPLE_CLASSES=part)
    assert data.classnames == list(kept) and data.num_classes == len(kept)
    lists = [data.train_x, data.test] + ([data.val] if "val" in splits else [])
    lists += [data.held_out] if splits == ("train",) else []
    for items in lists:
        assert {(item.label, item.classname) for item in items} == set(enumerate(kept))
        assert all(path.split("/")[1] in kept for path in paths(items, root))


@pytest.mark.parametrize("part", ["Base", "old", "", "half"])
def test_other_parts_are_refused(tree, build, part):
    tree(PETS)
    with pytest.raises(InputError, match=r"SUBSAMPLE_CLASSES is .* Allowed: all, base"):
        build(SUBSAMPLE_CLASSES=part)


def test_one_class_has_no_new_ones(tree, build):
    tree({"val/cat": 1})
    assert build(SUBSAMPLE_CLASSES="base").classnames == ["cat"]
    with pytest.raises(InputError, match=r"'new' of 1 classes"):
        build(SUBSAMPLE_CLASSES="new")
