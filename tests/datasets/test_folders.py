import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dassl.utils.errors import InputError
from datasets.folders import contents, first_few, is_image, walk_images
from datasets.splits import class_folders


def test_listing_is_sorted_recursive_and_skips_what_is_no_image(tree):
    root = tree({"b": 2, "a/deep": 1, ".hidden": 1})
    for name in ("a/Z.JPEG", "a/notes.txt", "a/.b.png", "c.Tif"):
        (root / name).write_bytes(b"")
    names = ["a/Z.JPEG", "a/deep/0.png", "b/0.png", "b/1.png", "c.Tif"]
    assert sorted(walk_images(root)) == names


@given(st.lists(st.text("ab_-", min_size=1, max_size=3), min_size=1, max_size=4))
def test_listing_agrees_with_glob(tmp_path_factory, folders):
    root = tmp_path_factory.mktemp("listing")
    for folder in folders:
        (root / folder).mkdir(exist_ok=True)
        (root / folder / f"{folder}.png").touch()
    oracle = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    assert sorted(walk_images(root)) == oracle


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "a.JPG",
        "a.jpeg",
        "a.PNG",
        "a.bmp",
        "a.webp",
        "a.TIF",
        "a.tiff",
        "a.gif",
        "a.ppm",
        "a.b.Jpg",
    ],
)
def test_image_extensions(name):
    assert is_image(name)


@pytest.mark.parametrize("name", ["jpg", "a.txt", "a.jpg.tar", "a.npy", "a"])
def test_not_image_extensions(name):
    assert not is_image(name)


def test_symbolic_links_to_folders_are_followed(tree, tmp_path):
    tree({"elsewhere": 2})
    (tmp_path / "set").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "set" / "link")
    assert sorted(walk_images(tmp_path / "set")) == ["link/0.png", "link/1.png"]


def test_links_in_circles_are_left_at_once(tree, tmp_path):
    root = tree({"set/a": 1, "set/b": 1})
    os.symlink(root / "set", root / "set/a/top")
    os.symlink(root / "set/b", root / "set/a/b")
    os.symlink(root / "set/a", root / "set/b/a")
    assert sorted(walk_images(root / "set")) == ["a/0.png", "b/0.png"]


@pytest.mark.parametrize("target", ["1.png", "nowhere.png", "0.png/x"])
def test_a_link_that_leads_nowhere_is_listed_as_a_file(tree, target):
    root = tree({"set/cat": 1})
    os.symlink(target, root / "set/cat/1.png")
    assert sorted(walk_images(root / "set")) == ["cat/0.png", "cat/1.png"]
    assert class_folders(root / "set") == ["cat"] and contents(root / "set/cat") == "0.png, 1.png"


def test_only_files_are_images(tree, monkeypatch):
    root = tree({"set": 1})
    os.mkfifo(root / "set/1.png")
    os.symlink("1.png", root / "set/2.png")
    os.symlink(os.devnull, root / "set/3.png")
    monkeypatch.chdir(root / "set")  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("4.png")
        assert list(walk_images(root / "set")) == ["0.png"]


def test_missing_folder_cannot_be_listed(tmp_path):
    with pytest.raises(InputError, match="nowhere cannot be listed: No such file"):
        list(walk_images(tmp_path / "nowhere"))


def test_loose_images_beside_class_folders_are_warned_of(tree, caplog):
    root = tree({"val": 2, "val/cat": 1, "val/dog.png": 1})
    (root / "val/README.txt").write_text("no image")
    assert class_folders(root / "val") == ["cat", "dog.png"]
    assert "2 images lie directly in" in caplog.text and "such as 0.png" in caplog.text


def test_some_says_how_many_more():
    assert first_few(["a", "b", "c"], limit=2) == "a, b and 1 more"
    assert first_few(["a", "b"], limit=2) == "a, b"
