import pytest

import datasets.splits as splits
from dassl.data import DataManager
from dassl.data.datasets import build_dataset
from dassl.utils.errors import InputError
from datasets.check.layout import require_data
from datasets.classnames import imagenet_classnames, imagenet_wnids
from datasets.imagenet import ImageNet
from datasets.needs import Needs, names_known

TENCH, GOLDFISH, SHARK = "n01440764", "n01443537", "n01484850"


def images(split, wnids, count=1):
    return {f"imagenet/images/{split}/{wnid}": count for wnid in wnids}


@pytest.fixture
def build(cfg):
    def make(**keys):
        cfg.DATASET.NAME = "ImageNet"
        for key, value in keys.items():
            setattr(cfg.DATASET, key, value)
        return build_dataset(cfg)

    return make


def test_all_1000_classes(tree, build, caplog):
    tree(images("val", imagenet_wnids()))
    dataset = build()
    assert dataset.classnames == imagenet_classnames()
    assert dataset.class_folders == list(imagenet_wnids())
    assert [item.label for item in dataset.test] == list(range(1000))
    assert dataset.val is None  # it is the test set
    assert f"/val/{TENCH}/" in dataset.test[0].impath
    # Two names in CLIP's list stand for two classes each.
    assert (
        "more than one class each" in caplog.text
        and "missile = missile, sunglasses = sunglasses" in caplog.text
    )


def test_subset_follows_the_order_of_the_ids(tree, build, tmp_path):
    tree(images("val", [TENCH, GOLDFISH, SHARK]) | images("train", [SHARK, TENCH], 5))
    inline = build(CLASSES=f"{SHARK}, {TENCH}", NUM_SHOTS=2)
    assert inline.classnames == ["tench", "great white shark"]
    assert [item.label for item in inline.train_x] == [0, 0, 1, 1]
    (tmp_path / "two.txt").write_text(f"{SHARK}  # shark\n{TENCH}\n")
    assert build(CLASSES=str(tmp_path / "two.txt")).class_folders == inline.class_folders


def test_present_takes_the_folders_there_are(tree, build, caplog):
    tree(images("val", [GOLDFISH, TENCH]))
    assert build(CLASSES="present").classnames == ["tench", "goldfish"]
    assert "2 images in ImageNet's val where the protocol has 100" in caplog.text
    tree(images("train", [TENCH]))  # all splits must have them
    assert build(CLASSES="present").classnames == ["tench"]


@pytest.mark.parametrize(
    "split, classes, count",
    [("train", 1000, 1_281_167), ("train", 10, None), ("val", 10, 500), ("val", 1000, 50_000)],
)
def test_the_protocols_numbers_of_images(split, classes, count):
    assert ImageNet.expected_images(split, classes) == count


@pytest.mark.parametrize("test", ["ILSVRC2012_test_1.JPEG", ""])
def test_kaggles_test_images_have_no_labels(tree, build, tmp_path, test):
    tree(images("val", [TENCH]))
    (tmp_path / "imagenet/images/test").mkdir()
    (tmp_path / "imagenet/images/test" / (test or "readme")).touch()
    data = build(CLASSES=TENCH)
    assert data.val is None and f"/val/{TENCH}/" in data.test[0].impath
    tree(images("test", [TENCH]))
    assert f"/test/{TENCH}/" in build(CLASSES=TENCH).test[0].impath


def test_whole_protocol_is_not_warned_of(tree, build, caplog):
    tree(images("val", [TENCH], 50))
    build(CLASSES=TENCH)
    assert "protocol" not in caplog.text


def test_missing_classes_are_counted_and_named(tree, build):
    tree(images("val", imagenet_wnids()[:3]))
    with pytest.raises(
        InputError,
        match=r"997 of 1000 class folders are missing.*val: n01491361.*"
        r'Found: 3 .*CLASSES to "present"',
    ):
        build()


def test_unknown_folders_are_named(tree, build):
    tree(images("val", [TENCH, "n99999999"]))
    for classes in ("", "present"):
        with pytest.raises(InputError, match=r"1 classes in .*val are not among .*n99999999"):
            build(CLASSES=classes)
    assert build(CLASSES=TENCH).classnames == ["tench"]


def test_unknown_ids_asked_for_are_named(tree, build):
    tree(images("val", [TENCH]))
    with pytest.raises(InputError, match=r"DATASET.CLASSES are not among the 1000.*n00000001"):
        build(CLASSES=f"{TENCH},n00000001")


def test_flat_val_is_explained(tree, build):
    root = tree({"imagenet/images/val": 0})
    (root / "imagenet/images/val/ILSVRC2012_val_00000001.JPEG").touch()
    with pytest.raises(
        InputError,
        match=r"val is flat: 1 images such as ILSVRC2012_val_00000001.JPEG.*Sort them.*valprep.sh",
    ):
        build()


def test_missing_folder_is_explained(build):
    with pytest.raises(InputError, match=r"imagenet does not exist.*DATASET.ROOT"):
        build()


def test_training_needs_the_training_folders(tree, build):
    tree(images("val", [TENCH, SHARK]) | images("train", [TENCH]))
    dataset = build(CLASSES=f"{TENCH},{SHARK}")
    with pytest.raises(InputError, match=f"1 of 2 class folders are missing in .*train: {SHARK}"):
        dataset.train_x  # noqa: B018


def test_evaluation_lists_no_training_images(tree, build, monkeypatch):
    tree(images("val", [TENCH]) | images("train", [TENCH], 3))
    listed = []
    original = splits.walk_images
    monkeypatch.setattr(
        splits, "walk_images", lambda folder, *a: listed.append(str(folder)) or original(folder)
    )
    dataset = build(CLASSES=TENCH)
    assert len(dataset.test) == 1 and not any("/train/" in folder for folder in listed)
    assert len(dataset.train_x) == 3


def test_users_class_names_win(tree, build, tmp_path, caplog):
    caplog.set_level("INFO")
    root = tree(images("val", [TENCH, GOLDFISH]))
    assert build(CLASSES="present").classnames == ["tench", "goldfish"]
    assert "open_clip (built in)" in caplog.text

    (root / "imagenet/classnames.txt").write_text(f"{TENCH} a fish\n{GOLDFISH} gold\n{SHARK} x\n")
    assert build().classnames == ["a fish", "gold"]
    assert "imagenet/classnames.txt, hash" in caplog.text

    (tmp_path / "mine.txt").write_text(f"{GOLDFISH} mine\n{TENCH} fish\n")
    assert build(CLASSNAMES_FILE=str(tmp_path / "mine.txt")).classnames == ["fish", "mine"]


def test_incomplete_class_names_are_refused(tree, build, tmp_path):
    root = tree(images("val", [TENCH, GOLDFISH]))
    (root / "imagenet/classnames.txt").write_text(f"{TENCH} tench\n")
    with pytest.raises(InputError, match=f"lack 1 of the 2 classes: {GOLDFISH}"):
        build(CLASSES="present")


@pytest.mark.parametrize("classes", ["", f"{SHARK},{TENCH}"])
def test_class_names_alone_are_those_with_images(tree, build, cfg, classes):
    root = tree(images("val", imagenet_wnids()))
    whole = build(CLASSES=classes)
    cfg.DATASET.ROOT, cfg.INPUT.TRANSFORMS = str(root / "nowhere"), ["normalize"]
    manager = DataManager(cfg, images=False)
    assert (
        manager.dataset.classnames == whole.classnames and manager.num_classes == whole.num_classes
    )
    assert manager.dataset.class_folders == whole.class_folders
    assert manager.dataset.test is None and manager.dataset.train_x is None
    assert manager.tfm_test is not None


def test_class_names_alone_follow_the_users_file(cfg, tmp_path):
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet/classnames.txt").write_text(f"{TENCH} a fish\n", encoding="utf-8")
    cfg.DATASET.NAME, cfg.DATASET.CLASSES = "ImageNet", TENCH
    assert build_dataset(cfg, images=False).classnames == ["a fish"]


def test_classes_that_only_folders_tell_are_refused_without_them(cfg):
    cfg.DATASET.NAME, cfg.DATASET.CLASSES = "ImageNet", "present"
    assert not names_known(cfg)
    cfg.DATASET.CLASSES = "n00000001"
    with pytest.raises(InputError, match="not among the 1000"):
        build_dataset(cfg, images=False)


def test_folder_may_be_renamed(tree, build):
    tree({f"ILSVRC2012/val/{TENCH}": 1})
    assert build(FOLDER="ILSVRC2012", CLASSES=TENCH).classnames == ["tench"]


def test_a_list_of_just_the_folders_is_the_class_list(tree, build, cfg, tmp_path):
    root = tree(images("val", [SHARK, TENCH]) | images("train", [TENCH, GOLDFISH, SHARK], 2))
    (root / "imagenet/classnames.txt").write_text(f"{SHARK} shark\n{TENCH} a fish\n")
    data = build()
    assert data.classnames == ["a fish", "shark"] and data.class_folders == [TENCH, SHARK]
    assert [item.label for item in data.train_x] == [0, 0, 1, 1]
    assert build_dataset(cfg, images=False).classnames == data.classnames
    cfg.TRAINER.NAME = "CoOp"
    require_data(cfg, Needs.TEST | Needs.TRAIN)


@pytest.mark.parametrize("listed", [(TENCH,), (TENCH, SHARK, GOLDFISH)])
def test_another_list_is_none(tree, build, listed):
    root = tree(images("val", [TENCH, SHARK]))
    lines = [f"{wnid} x{wnid}" for wnid in listed]
    (root / "imagenet/classnames.txt").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"998 of 1000 class folders are missing"):
        build()


@pytest.mark.parametrize("part, kept", [("all", [0, 1, 2]), ("base", [0, 1]), ("new", [2])])
def test_a_part_of_the_classes_as_coop_divides_them(tree, build, part, kept):
    wnids = [TENCH, GOLDFISH, SHARK]
    tree(images("val", wnids, 2) | images("train", wnids, 9))
    everything = build(CLASSES=",".join(wnids), NUM_SHOTS=3)
    data = build(SUBSAMPLE_CLASSES=part)
    assert data.classnames == [everything.classnames[label] for label in kept]
    assert data.class_folders == [wnids[label] for label in kept]
    for name in ("train_x", "test"):  # the draw is that of all classes
        own = [(i.impath, kept[i.label], i.classname) for i in getattr(data, name)]
        all_ = getattr(everything, name)
        assert own == [(i.impath, i.label, i.classname) for i in all_ if i.label in kept]
