"""Image lists: what is read, what is refused, and the sets that are made of them."""

import hashlib

import pytest
from yacs.config import CfgNode as CN

from dassl.data.datasets import build_dataset
from dassl.utils.errors import InputError
from datasets.check.layout import check_layout
from datasets.check.survey import check
from datasets.classnames import imagenet_classnames
from datasets.lists import OOD_LABEL, absent_images, not_there, protocol_faults, read_list
from datasets.needs import EVALUATION, Needs
from datasets.ood_sets import check_sets, load_ood_sets, load_shifted_sets, ood_means

NAMES = ["ant", "bee", "tea pot"]
RUNS = {"evaluation": EVALUATION, "training": Needs.TEST | Needs.TRAIN}


@pytest.fixture
def listed(tmp_path):
    """listed(b"a/0.png 1") reads such a list of images in tmp_path."""

    def read(content: bytes, name="list.txt", names=NAMES):
        (tmp_path / name).write_bytes(content)
        return read_list(tmp_path / name, tmp_path, names)

    return read


def named(items, root):
    return [(item.impath.removeprefix(f"{root}/"), item.label, item.classname) for item in items]


@pytest.mark.parametrize(
    "name, content",
    [
        ("list.txt", b"b/1.png 2\na/0.png 0\n"),
        ("list.txt", b"\xef\xbb\xbfb/1.png tea pot\r\n\r\na/0.png ant\r\n"),
        ("list.txt", b"b/1.png  tea pot \n a/0.png   0\n"),
        ("list.csv", b"path,label\nb/1.png,2\na/0.png,0\n"),
        ("list.csv", b"path,label\nb/1.png, tea pot\n a/0.png ,0 \n"),
        ("list.CSV", b'more,label,path\r\nx,tea pot,b/1.png\r\n"x, y",ant,"a/0.png"\r\n'),
    ],
)
def test_every_form_of_a_list_says_the_same(listed, tmp_path, name, content):
    expected = [("b/1.png", 2, "tea pot"), ("a/0.png", 0, "ant")]
    assert named(listed(content, name), tmp_path) == expected


def test_ood_lists_need_no_label(listed, tmp_path):
    items = listed(b"a/0.png -1\na/1.png\na/2.png 7 8\n", names=None)
    assert named(items, tmp_path) == [(f"a/{i}.png", OOD_LABEL, "") for i in range(3)]
    assert listed(b"path\na b/0.png\n", "l.csv", None)[0].impath == f"{tmp_path}/a b/0.png"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"/etc/a.png 0\nC:\\a.png 0\n", r"2 lines with a path that is absolute .*line 1, /etc/a"),
        (b"a/0.png 0\n../a.png 1\nb/../../a.png 1\n", "2 lines with a path .*: line 2, ../a.png"),
        (b"a/0.png 3\n", "1 line with a label outside the 3 classes .*line 1, a/0.png 3"),
        (b"a/0.png -1\na/0.png 0.7\na/0.png\na/0.png tea\n", "4 lines with a label"),
        (b"a/0.png " + b"9" * 5000, "label outside"),
        (b"a/0.png \xc2\xb2\n", "label outside"),  # a digit for Python, no number
        (b"a/\xff.png 0\n", "is no UTF-8 text"),
        ("a.png 0\n".encode("utf-16-le"), r"is no UTF-8 text \(it holds zero bytes\)"),
        (b"\n \n", "lists no image"),
        (b"", "lists no image"),
    ],
)
def test_what_is_refused(listed, content, message):
    with pytest.raises(InputError, match=message):
        listed(content)


def test_what_is_refused_of_tables(listed, tmp_path):
    with pytest.raises(
        InputError, match=r"has the columns image, label\. Its first line must name"
    ):
        listed(b"image,label\na,0\n", "l.csv")
    with pytest.raises(InputError, match="has the columns none"):
        listed(b"", "l.csv")
    with pytest.raises(InputError, match="1 line with a path"):
        listed(b"label,path\n0\n", "l.csv")
    with pytest.raises(InputError, match="is no CSV: line 1"):
        listed(b'path\n"' + b"x" * 200_000, "l.csv")
    with pytest.raises(InputError, match=r"none\.txt does not exist\. Found beside it: l\."):
        read_list(tmp_path / "none.txt", tmp_path)


def test_classes_that_share_a_name_have_numbers(listed):
    names = ["crane", "ant", "crane"]
    assert [x.label for x in listed(b"a 2\nb 0\nc ant\n", names=names)] == [2, 0, 1]
    with pytest.raises(InputError, match=r"outside the 3 classes .*line 1, a crane"):
        listed(b"a crane\n", names=names)


def test_a_label_that_is_one_classs_number_and_anothers_name_is_refused(listed):
    assert [x.label for x in listed(b"a 2\nb 0\n", names=["0", "1", "2"])] == [2, 0]
    for content, names in ((b"a 0\nb 1\n", ["1", "2", "3"]), (b"a 1\n", ["7", "5", "1"])):
        with pytest.raises(InputError, match=r"1 line whose label is the number of one class and"):
            listed(content, names=names)


def test_an_image_has_one_path(listed):
    paths = {item.impath for item in listed(b"a/0.png 0\n./a/0.png 0\na//0.png 0\na/./0.png 1\n")}
    assert len(paths) == 1


def test_missing_images(listed, tree):
    root = tree({"a": 2})
    (root / "a/c.png").mkdir()
    items = listed(b"a/0.png 0\na/2.png 0\nb/0.png 0\na/1.png 1\na 1\na/c.png 2\n")
    missing = absent_images(items)
    assert missing == [f"{root}/a/2.png", f"{root}/b/0.png", f"{root}/a", f"{root}/a/c.png"]
    assert f"there: {root}/a (a folder), {root}/a/2.png. U" in str(not_there("l", missing[2::-2]))
    error = not_there("list.CSV", missing)
    assert " and 1 more. " in str(error) and "blank" not in str(error) and error.names == missing


def test_what_differs_from_the_protocol(listed, tmp_path):
    items, file = listed(b"a/0.png 0\n"), tmp_path / "list.txt"
    md5 = hashlib.md5(b"a/0.png 0\n").hexdigest()
    assert protocol_faults("X", items, {"IMAGES": 1, "MD5": md5}, file) == []
    assert protocol_faults("X", items, {"FOLDERS": ["a"]}, file) == []
    assert protocol_faults("X", items, {"MD5": md5}) == []  # of a set without a list
    count, checksum = protocol_faults("X", items, {"IMAGES": 2, "MD5": "0" * 32}, file)
    assert "1 image in X where the protocol has 2" in str(count)
    assert f"MD5 {md5}, not {'0' * 32}" in str(checksum) and checksum.kind == "checksum"


@pytest.mark.parametrize(
    "labels, warned", [("012", False), ("12", True), ("1", False), (["bee", "tea pot"], False)]
)
def test_labels_counted_from_1_are_warned_of(world, tmp_path, caplog, labels, warned):
    lines = [f"id/{i}.png {label}\n" for i, label in enumerate(labels)]
    (tmp_path / "lists/test_id.txt").write_text("".join(lines))
    build_dataset(world)
    assert ("test_id.txt has all labels but 0 (" in caplog.text) == warned


def test_images_listed_twice_are_warned_of(world, tmp_path, caplog):
    for name, row in (
        ("near", "near/x/0.png -1"),
        ("test_id", "id/0.png 2"),
        ("shifted", "id/0.png 1"),
    ):
        with open(tmp_path / f"lists/{name}.txt", "a") as file:
            file.write(f"{row}\n" * 2)
    world.OOD.ID.IMAGES = world.OOD.SETS.Near.IMAGES = world.OOD.SHIFTED.V2.IMAGES = 0
    load_shifted_sets(world, build_dataset(world).classnames)
    load_ood_sets(world)
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [text.partition(": ")[2] for text in said] == [
        f"{tmp_path}/large/{path}. Each line of it counts."
        for path in ("id/0.png", "id/0.png", "near/x/0.png")
    ]
    report = check(world, "world", RUNS, ["evaluation"])
    assert report.ready and {p.where for p in report.problems if p.kind == "listed twice"} == {
        "ID test",
        "Near",
        "V2",
    }


@pytest.fixture
def world(cfg, tree):
    """An ID set of lists with three classes, two OOD sets and a shifted ID set."""
    root = tree({"large/id": 6, "large/near/x": 2, "far": 3, "large/shift/1": 3})
    lists = root / "lists"
    lists.mkdir()
    (lists / "test_id.txt").write_text("".join(f"id/{i}.png {i % 3}\n" for i in range(6)))
    (lists / "near.txt").write_text("near/x/1.png -1\nnear/x/0.png -1\n")
    (lists / "shifted.txt").write_text("".join(f"shift/1/{i}.png {i}\n" for i in range(3)))
    cfg.DATASET.NAME, cfg.DATASET.IMAGES = "ImageList", "large"
    cfg.DATASET.SPLIT_FILE = "lists/{}_id.txt"
    cfg.DATASET.CLASSNAMES_FILE = ", ".join(NAMES)
    sets = {
        "Near": {"LIST": "lists/near.txt", "FOLDERS": ["large"], "IMAGES": 2, "GROUP": "near"},
        "Far": {"FOLDERS": ["far"], "IMAGES": 3, "GROUP": "far"},
    }
    shifted = {"V2": {"LIST": "lists/shifted.txt", "FOLDERS": ["large"], "IMAGES": 3}}
    cfg.OOD.SETS, cfg.OOD.SHIFTED = (CN(n, new_allowed=True) for n in (sets, shifted))
    cfg.OOD.ID.IMAGES = 6
    return cfg


def test_sets_of_lists(world, tmp_path, caplog):
    data = build_dataset(world)
    assert data.classnames == NAMES and data.val is None and len(data.test) == 6
    sets = load_ood_sets(world)
    assert named(sets["Near"], tmp_path)[0] == ("large/near/x/1.png", OOD_LABEL, "")
    assert {name: len(items) for name, items in sets.items()} == {"Near": 2, "Far": 3}
    shifted = load_shifted_sets(world, data.classnames)
    assert [(x.label, x.classname) for x in shifted["V2"]] == list(enumerate(NAMES))
    assert ood_means(world) == {"average": ["Near", "Far"]}
    assert not caplog.records


def test_training_and_validation_lists_are_read_when_they_are_needed(world, tmp_path, caplog):
    with pytest.raises(InputError, match=r"train_id\.txt does not exist"):
        len(build_dataset(world).train_x)
    (tmp_path / "lists/train_id.txt").write_text("id/0.png 0\nid/1.png 1\nid/9.png 2\n")
    (tmp_path / "lists/val_id.txt").write_text("id/3.png bee\n")
    data = build_dataset(world)
    assert [item.label for item in data.val] == [1]
    with pytest.raises(InputError, match=r"1 listed image not there: .*id/9\.png"):
        len(data.train_x)
    world.DATALOADER.BAD_IMAGES = "skip"  # then the loader leaves it out, as any unreadable one
    assert len(build_dataset(world).train_x) == 3
    world.DATASET.SUBSAMPLE_CLASSES = "new"
    assert build_dataset(world).classnames == NAMES[2:]
    assert load_shifted_sets(world, NAMES[2:]) == {}
    assert "need all classes: V2 left out" in caplog.text
    caplog.clear()
    world.OOD.SHIFTED = CN(new_allowed=True)
    assert load_shifted_sets(world, NAMES[2:]) == {} and not caplog.text
    (tmp_path / "large/near/x/0.png").unlink()
    assert len(load_ood_sets(world)["Near"]) == 2


@pytest.mark.parametrize("name", ["test_id.txt", "TEST.TXT"])
def test_one_list_is_a_test_set(world, tmp_path, name):
    (tmp_path / "lists/test_id.txt").rename(tmp_path / "lists" / name)
    world.DATASET.SPLIT_FILE = f"lists/{name}"
    data = build_dataset(world)
    assert len(data.test) == 6 and data.val is None
    with pytest.raises(InputError, match="lists test images only"):
        len(data.train_x)


def test_lists_may_have_any_ending(world, tmp_path):
    (tmp_path / "lists/test_id.txt").rename(tmp_path / "lists/test.lst")
    world.DATASET.SPLIT_FILE = "lists/{}.lst"
    assert len(build_dataset(world).test) == 6


@pytest.mark.parametrize("dataset", ["ImageList", "ImageNetList"])
def test_class_names_from_a_file_in_the_folder(world, tmp_path, dataset):
    (tmp_path / "data").mkdir()
    (tmp_path / "large").rename(tmp_path / "data/large")
    (tmp_path / "lists").rename(tmp_path / "data/lists")
    world.DATASET.NAME, world.DATASET.FOLDER = dataset, "data"
    world.DATASET.CLASSNAMES_FILE = "names.TXT"
    (tmp_path / "data/names.TXT").write_text("\n".join(NAMES))
    assert build_dataset(world).classnames == NAMES
    (tmp_path / "data/names.TXT").write_text("ant\n\nbee\ntea pot\n")
    with pytest.raises(InputError, match="entry 2 is blank"):  # labels would shift
        build_dataset(world)


def test_other_counts_and_lists_are_warned_of(world, caplog):
    world.OOD.ID.IMAGES, world.OOD.ID.MD5 = 7, "0" * 32
    world.OOD.SETS.Near.MD5, world.OOD.SHIFTED.V2.IMAGES = "1" * 32, 4
    build_dataset(world)
    load_ood_sets(world)
    load_shifted_sets(world, NAMES)
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert ["ID where" in said[0], "list of ID" in said[1]] == [True, True]
    assert ["list of Near" in said[2], "V2 where" in said[3]] == [True, True] and len(said) == 4


def test_what_sets_of_lists_refuse(world, tmp_path):
    with pytest.raises(InputError, match="label outside the 2 classes"):
        load_shifted_sets(world, NAMES[:2])
    (tmp_path / "large/near/x/0.png").unlink()
    with pytest.raises(InputError, match=r"1 listed image not there: .*near.txt belongs to"):
        load_ood_sets(world)
    world.OOD.SHIFTED.V2.pop("LIST")
    with pytest.raises(InputError, match=r"OOD\.SHIFTED\.V2 has no LIST"):
        check_sets(world)
    world.OOD.SHIFTED.V2.FOLDERS = []
    world.DATASET.CLASSNAMES_FILE = ""
    with pytest.raises(InputError, match=r"labels, but no class names: set DATASET\.CLASSNAMES_"):
        build_dataset(world)
    world.DATASET.SPLIT_FILE = ""
    with pytest.raises(InputError, match=r"DATASET\.SPLIT_FILE is empty: ImageList reads"):
        build_dataset(world)


def test_shifted_sets_share_the_names_of_rows(world):
    world.OOD.SHIFTED["near"] = world.OOD.SHIFTED.V2
    with pytest.raises(InputError, match="are one file name"):
        load_ood_sets(world)


def test_an_ood_set_of_some_classes(cfg, tree):
    """As ImageNet-20 is the OOD set of ImageNet-10, in the same folder."""
    tree({f"val/{name}": 2 for name in ("n1", "n2", "n3")})
    entry = {"FOLDERS": ["val"], "CLASSES": "n3, n1", "IMAGES": 4}
    cfg.OOD.SETS = CN({"Hard": entry}, new_allowed=True)
    paths = [item.impath.rpartition("val/")[2] for item in load_ood_sets(cfg)["Hard"]]
    assert paths == ["n1/0.png", "n1/1.png", "n3/0.png", "n3/1.png"]
    cfg.OOD.SETS.Hard.CLASSES = "n4"
    with pytest.raises(InputError, match="1 of 1 class folders are missing"):
        load_ood_sets(cfg)


def test_names_of_imagenets_lists_are_built_in(world, tmp_path):
    world.DATASET.NAME, world.DATASET.CLASSNAMES_FILE = "ImageNetList", ""
    assert build_dataset(world).classnames == imagenet_classnames()
    (tmp_path / "lists/test_id.txt").write_text("id/0.png 999\n")
    assert build_dataset(world).test[0].label == 999


def test_the_check_knows_lists(world, tmp_path):
    assert check_layout(world, EVALUATION).problems == []
    report = check(world, "world", RUNS, ["evaluation"])
    rows = {row.name: (row.found, row.folders, row.images, row.expected) for row in report.rows}
    assert rows == {
        "ID train": ("not found", None, None, None),
        "ID test": ("lists/test_id.txt", 3, 6, 6),
        "Near": ("lists/near.txt", 1, 2, 2),
        "Far": ("far", 1, 3, 3),
        "V2": ("lists/shifted.txt", 1, 3, 3),
    }
    assert report.ready and [problem.kind for problem in report.problems] == ["missing"]
    (tmp_path / "large/near/x/0.png").write_bytes(b"")
    (tmp_path / "large/id/5.png").unlink()
    (tmp_path / "lists/shifted.txt").write_text("shift/1/0.png 1\nshift/1/1.png 3\n")
    world.OOD.SETS.Near.MD5 = "0" * 32
    report = check(world, "world", RUNS, ["evaluation"], full=True)
    kinds = {
        (p.where, p.kind) for p in report.problems if p.stops & EVALUATION or p.kind != "missing"
    }
    assert kinds >= {("Near", "empty files"), ("Near", "checksum"), ("ID test", "missing")}
    assert ("V2", "count") in kinds and not report.ready
    (tmp_path / "large/id/5.png").write_bytes((tmp_path / "large/id/4.png").read_bytes())
    (tmp_path / "large/near/x/0.png").write_bytes((tmp_path / "large/id/4.png").read_bytes())
    report = check(world, "world", RUNS, ["evaluation"])
    (problem,) = (p for p in report.problems if p.where == "V2" and p.stops)
    assert "label outside the 3 classes" in problem.what and problem.stops == Needs.OOD
    (row,) = (row for row in report.record()["sets"] if row["name"] == "V2")
    assert row["verdict"] == "refused, count"  # the table's, which said ok
    world.DATASET.SUBSAMPLE_CLASSES = "base"  # then no evaluation reads it
    assert check(world, "world", RUNS, ["evaluation"]).ready
    world.DATASET.SUBSAMPLE_CLASSES = "all"
    (tmp_path / "lists/near.txt").write_text("/near/x/0.png -1\n")
    (problem,) = check_layout(world, EVALUATION).problems
    assert problem.where == "Near" and "a path that is absolute" in problem.what
