import pytest
from yacs.config import CfgNode as CN

from dassl.data.datasets import Datum
from dassl.utils.errors import InputError
from datasets.ood_sets import check_sets, load_ood_sets, ood_means, set_names, warn_of_shared_images


@pytest.fixture
def load(cfg):
    def run(**sets):
        cfg.OOD.SETS = CN(sets, new_allowed=True)
        return load_ood_sets(cfg)

    return run


def entry(*folders, images=0):
    return CN({"FOLDERS": list(folders), "IMAGES": images})


def test_sets_come_in_order_with_sorted_paths(tree, load):
    root = tree({"Texture/images/zigzag": 1, "Texture/images/banded": 2, "sun": 1})
    sets = load(SUN=entry("SUN397", "sun"), Texture=entry("Texture/images", "dtd/images"))
    assert list(sets) == ["SUN", "Texture"]
    assert [item.impath for item in sets["Texture"]] == [
        f"{root}/Texture/images/{name}" for name in ("banded/0.png", "banded/1.png", "zigzag/0.png")
    ]
    assert {item.label for items in sets.values() for item in items} == {-1}


def test_first_folder_that_exists_wins_and_absolute_paths_are_taken(tree, load, tmp_path):
    tree({"a": 1, "b": 2, "elsewhere/c": 3})
    assert len(load(X=entry("none", "b", "a"))["X"]) == 2
    assert len(load(X=entry(str(tmp_path / "elsewhere")))["X"]) == 3


def test_relative_root_stays_relative(tree, load, cfg, tmp_path, monkeypatch):
    tree({"data/SUN/images": 1})
    monkeypatch.chdir(tmp_path)
    cfg.DATASET.ROOT = "data"
    assert load(SUN=entry("SUN"))["SUN"][0].impath == "data/SUN/images/0.png"


def test_unexpected_counts_are_warned_of(tree, load, caplog):
    tree({"Places": 3})
    load(Places=entry("Places", images=3))
    load(Places=entry("Places"))
    assert "protocol" not in caplog.text
    load(Places=entry("Places", images=10000))
    assert "3 images in Places where the protocol has 10,000" in caplog.text
    assert "not comparable" in caplog.text


def test_a_missing_set_is_named_with_the_folders_tried(tree, load, tmp_path):
    tree({"Texture": 1})
    with pytest.raises(InputError) as error:
        load(SUN=entry("SUN", "sun"), Texture=entry("Texture"))
    message = str(error.value)
    assert f"The OOD set SUN was not found. Tried SUN, sun in {tmp_path}" in message
    assert "which holds Texture" in message and "OOD.SETS.SUN.FOLDERS" in message


def test_a_root_that_is_no_folder_is_told_first(tree, load, cfg, tmp_path):
    tree({"sun": 1})
    (tmp_path / "pets.yaml").touch()
    cfg.DATASET.ROOT = str(tmp_path / "pets.yaml")
    with pytest.raises(InputError, match=r"data root .*/pets.yaml is a file, not a folder.*--root"):
        load(SUN=entry("sun"))
    assert len(load(SUN=entry("SUN", str(tmp_path / "sun")))["SUN"]) == 1  # needs no root


def test_empty_folders_leave_a_set_out(tree, load):
    tree({"SUN": 1})
    assert list(load(SUN=entry("SUN"), Places=entry())) == ["SUN"]


def test_folder_without_images_is_refused(tree, load):
    root = tree({"SUN/images": 0})
    (root / "SUN" / "list.txt").touch()
    with pytest.raises(InputError, match=r"SUN has no images.*holds images, list.txt.*SETS.SUN"):
        load(SUN=entry("SUN"))


def test_no_set_is_refused(load):
    with pytest.raises(InputError, match=r"No OOD set is configured.*OOD.SETS"):
        load()


@pytest.mark.parametrize(
    "name, message",
    [
        ("Places/365", "Places/365.*becomes a file name"),
        ("_x", "starts with a letter or digit"),
        ("Average", "may not be called 'Average'"),
        ("average near", "may not be called 'average near'"),
        ("id", "may not be called 'id'.*Rename OOD.SETS.id in .*or .*--ood-data NAME=FOLDER"),
    ],
)
def test_names_unfit_for_the_results_are_refused_before_any_listing(load, name, message):
    with pytest.raises(InputError, match=message):
        load(SUN=entry("nowhere"), **{name: entry("nowhere")})


def test_names_of_shifted_sets_are_refused_too(cfg):
    cfg.OOD.SETS = CN({"SUN": entry("nowhere")}, new_allowed=True)
    cfg.OOD.SHIFTED = CN({"ID": entry("nowhere")}, new_allowed=True)
    with pytest.raises(InputError, match=r"may not be called 'ID'.* Rename OOD\.SHIFTED\.ID in"):
        set_names(cfg)


@pytest.mark.parametrize(
    "groups, means",
    [
        ({"a": "", "b": ""}, {"average": ["a", "b"]}),
        ({"a": "", "b": "near"}, {"average": ["a"]}),
        ({"a": "", "b": "near", "c": "near"}, {"average": ["a"], "average near": ["b", "c"]}),
        (
            {"a": "far", "b": "near", "c": "far"},
            {"average": ["a", "b", "c"], "average far": ["a", "c"]},
        ),
    ],
)
def test_groups_are_averaged_apart(cfg, groups, means):
    sets = {name: CN({"FOLDERS": [name], "GROUP": group}) for name, group in groups.items()}
    cfg.OOD.SETS = CN(sets, new_allowed=True)
    assert ood_means(cfg) == means


@pytest.mark.parametrize("value", ["SUN", 5, CN({"IMAGES": 3})])
def test_entries_without_folders_are_refused(cfg, value):
    cfg.OOD.SETS = CN({"SUN": value}, new_allowed=True)
    with pytest.raises(InputError, match=r"OOD.SETS.SUN is .*FOLDERS: "):
        check_sets(cfg)


@pytest.mark.parametrize(
    "node, key, value, message",
    [
        ("SETS", "GROUPS", "near", "unknown key 'GROUPS'.*Did you mean 'GROUP'?"),
        ("SETS", "GROUP", 1, "GROUP is 1.*text, in quotes"),
        ("SETS", "FOLDERS", "SUN", "FOLDERS is 'SUN'.*a list of paths"),
        ("SETS", "FOLDERS", [5], "FOLDERS is .*a list of paths"),
        ("SETS", "FOLDERS", [["SUN"]], "FOLDERS is .*a list of paths"),
        ("SETS", "CLASSES", 5, "CLASSES is 5.*text"),
        ("SETS", "IMAGES", "many", "IMAGES is 'many'.*a whole number, 0 if unknown"),
        ("SETS", "IMAGES", -4, "IMAGES is -4"),
        ("SETS", "IMAGES", True, "IMAGES is True"),
        ("SHIFTED", "LIST", "", "has no LIST"),
        ("SHIFTED", "LISTS", "x", "unknown key 'LISTS'.*Did you mean 'LIST'?"),
        ("ID", "IMAGES", "many", "IMAGES is 'many'"),
        ("ID", "GROUP", "near", "unknown key 'GROUP'.*IMAGES, MD5"),
    ],
)
def test_entries_with_unknown_keys_or_other_types_are_refused(cfg, node, key, value, message):
    sound = {"FOLDERS": ["SUN"], "LIST": "x"}
    content = {key: value} if node == "ID" else {"SUN": sound | {key: value}}
    cfg.OOD[node] = CN(content, new_allowed=True)
    with pytest.raises(InputError, match=rf"^OOD.{node}.*{message}"):
        check_sets(cfg)


@pytest.mark.parametrize("pair", [("a", "A"), ("Stra\u00dfe", "strasse"), ("\u212b", "\u00c5")])
def test_sets_that_would_write_one_file_are_refused(load, pair):
    with pytest.raises(InputError, match=r"are one file name on macOS and Windows"):
        load(**dict.fromkeys(pair, entry("nowhere")))
    with pytest.raises(
        InputError, match=rf"The OOD set {pair[0]} was not found"
    ):  # the other is left out
        load(**{pair[0]: entry("nowhere"), pair[1]: entry()})


def test_groups_that_differ_in_capitals_are_refused(load):
    near, far = (CN({"FOLDERS": ["x"], "GROUP": group}) for group in ("near", "Near"))
    with pytest.raises(InputError, match=r"groups 'near' and 'Near' of OOD sets differ only in"):
        load(a=near, b=near, c=far)


def test_images_in_two_sets_are_counted_in_one_warning(tree, tmp_path, caplog):
    tree({"id/cat": 3, "far": 2})
    (tmp_path / "link").symlink_to(tmp_path / "id")

    def images(folder, count):
        return [Datum(f"{tmp_path}/{folder}/{i}.png", 0) for i in range(count)]

    sets = {"ID": images("id/cat", 3), "A": images("far", 2)}
    warn_of_shared_images(sets)
    assert not caplog.records
    warn_of_shared_images({**sets, "B": images("link/cat", 2), "C": images("far", 1)})
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "2 images in both ID and B, 1 image in both A and C. They"
    )
