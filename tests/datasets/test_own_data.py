"""A folder as it comes: divided if nobody has, and named by flags alone."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dassl.data.datasets import Datum
from dassl.utils.errors import InputError
from datasets.classfolders import ImageFolder
from datasets.fewshot import hold_out
from datasets.own import folder_name, use_id_folder, use_ood_folders


def items(counts, root="data"):
    return [
        Datum(f"{root}/{label}/{i}.jpg", label) for label, n in enumerate(counts) for i in range(n)
    ]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5).filter(lambda n: max(n) > 1),
    st.floats(0.01, 0.99),
)
def test_every_class_is_divided_in_proportion(counts, share):
    everything = items(counts)
    kept, held = hold_out(everything, share, "data")
    assert {x.impath for x in kept} | {x.impath for x in held} == {x.impath for x in everything}
    assert len(kept) + len(held) == len(everything)
    for label, count in enumerate(counts):
        own = sum(item.label == label for item in held)
        assert own == (0 if count == 1 else min(count - 1, max(1, round(share * count))))


def test_the_division_knows_nothing_of_order_and_place():
    one = hold_out(items([30, 7]), 0.2, "data")[1]
    other = hold_out(items([30, 7], "/elsewhere/d")[::-1], 0.2, "/elsewhere/d")[1]
    assert {x.impath.removeprefix("data") for x in one} == {
        x.impath.removeprefix("/elsewhere/d") for x in other
    }


def test_few_images_change_sides_when_one_is_added():
    before = {x.impath for x in hold_out(items([50]), 0.2, "data")[1]}
    digest = {x.impath: sha256(x.impath[5:].encode()).hexdigest() for x in items([50])}
    assert before == set(sorted(digest, key=digest.get)[:10])  # the same in every version
    after = {x.impath for x in hold_out(items([51]), 0.2, "data")[1]}
    assert len(before - after) <= 1


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_a_share_that_is_none_is_told(share):
    with pytest.raises(InputError, match=r"DATASET.VAL_PERCENT"):
        hold_out(items([4]), share, "data")
    with pytest.raises(InputError, match=r"leaves none to test on"):
        hold_out(items([1, 1]), 0.5, "data")


@pytest.mark.parametrize("prefix", ["", "train/", "images/", "images/train/"])
def test_class_folders_alone_are_an_id_set(tree, cfg, prefix):
    tree({f"pets/{prefix}cat": 10, f"pets/{prefix}dog": 5})
    cfg.DATASET.FOLDER, cfg.DATASET.VAL_PERCENT, cfg.DATASET.NUM_SHOTS = "pets", 0.2, -1
    data = ImageFolder(cfg)
    assert data.classnames == ["cat", "dog"] and data.val is None
    assert [len(data.test), len(data.held_out), len(data.train_x)] == [3, 3, 12]
    assert not {x.impath for x in data.test} & {x.impath for x in data.train_x}
    cfg.SEED = 7
    assert [x.impath for x in ImageFolder(cfg).test] == [x.impath for x in data.test]


def test_flags_fill_the_config(tree, cfg, tmp_path, monkeypatch):
    tree({"shop/cat": 2, "odd/images": 1, "a=b": 1})
    monkeypatch.chdir(tmp_path)
    cfg.DATASET.SPLIT_FILE, cfg.DATASET.IMAGES = "lists/{}.txt", "images"
    use_id_folder(cfg, "shop")
    assert cfg.DATASET.SPLIT_FILE == cfg.DATASET.IMAGES == ""
    use_ood_folders(cfg, ["odd/images", "x=shop", "a=b"])
    assert ("ImageFolder", str(tmp_path / "shop")) == (cfg.DATASET.NAME, cfg.DATASET.FOLDER)
    assert {name: list(entry.FOLDERS) for name, entry in cfg.OOD.SETS.items()} == {
        "odd": [str(tmp_path / "odd/images")],
        "x": [str(tmp_path / "shop")],
        "a-b": [str(tmp_path / "a=b")],
    }
    assert folder_name("shop/train/") == "shop"


def test_missing_folders_and_equal_names_are_refused(tree, cfg, tmp_path, monkeypatch):
    tree({"a/odd": 1, "b/odd": 1, "c/Odd": 1})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"two sets are called 'odd'.*odd1="):
        use_ood_folders(cfg, ["a/odd", "b/odd"])
    with pytest.raises(InputError, match=r"'odd' .in any case of letters.*odd1=.*Odd2="):
        use_ood_folders(cfg, ["a/odd", "c/Odd"])
    with pytest.raises(InputError, match=r"--id-data pets: .*pets does not exist. Name a folder"):
        use_id_folder(cfg, "pets")
