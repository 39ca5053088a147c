"""The benchmarks in configs/datasets: their sets, groups and counts, on one image a set."""

import pytest

from dassl.data.datasets import build_dataset
from datasets.classnames import read_class_list
from datasets.ood_sets import load_ood_sets, load_shifted_sets, ood_means
from run.settings import read_config_file
from tests.datasets.test_datasets_config import ROOT, merge

NEAR, FAR = ["SSB-hard", "NINCO"], ["iNaturalist", "Textures", "OpenImage-O"]
CIFAR_FAR = ["MNIST", "SVHN", "Textures", "Places365"]
OPENOOD = {  # classes, ID images, OOD images of near and far, shifted ID images
    "openood_imagenet1k": (1000, 45_000, (NEAR, 54_879), (FAR, 31_029), 50_000),
    "openood_cifar10": (10, 9_000, (["CIFAR-100", "TIN"], 16_793), (CIFAR_FAR, 136_867), 0),
    "openood_cifar100": (100, 9_000, (["CIFAR-10", "TIN"], 15_526), (CIFAR_FAR, 135_445), 0),
}


def write_lists(cfg, tree):
    """One image and one line for every list that the config names."""
    given, root = cfg.DATASET, tree({})
    entries = {name: node[name] for node in (cfg.OOD.SETS, cfg.OOD.SHIFTED) for name in node}
    lists = {given.SPLIT_FILE.replace("{}", "test"): given.IMAGES}
    lists |= {entry.LIST: entry.FOLDERS[0] for entry in entries.values() if entry.FOLDERS}
    for number, (file, folder) in enumerate(lists.items()):
        tree({f"{folder}/{number}": 1})
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(f"{number}/0.png 0\n", encoding="utf-8")


@pytest.mark.parametrize("name, facts", OPENOOD.items(), ids=OPENOOD)
def test_openoods(cfg, tree, name, facts, caplog):
    merge(cfg, ROOT / f"configs/datasets/{name}.yaml")
    write_lists(cfg, tree)
    classes, id_images, near, far, shifted_images = facts
    data, sets = build_dataset(cfg), load_ood_sets(cfg)
    shifted = load_shifted_sets(cfg, data.classnames)
    assert len(data.classnames) == len(set(data.classnames)) + 2 * (classes == 1000) == classes
    assert all(len(items) == 1 for items in (*sets.values(), *shifted.values()))
    means = ood_means(cfg)
    for group, (own, count) in (("near", near), ("far", far)):
        assert set(means[f"average {group}"]) == set(own)
        assert sum(cfg.OOD.SETS[name].IMAGES for name in own) == count
    assert set(means["average"]) == {*near[0], *far[0]} == set(sets)
    assert sum(cfg.OOD.SHIFTED[name].IMAGES for name in shifted) == shifted_images
    assert id_images == cfg.OOD.ID.IMAGES and cfg.OOD.FPR95 == "fpr95_ood_first"
    expected = (1 + len(sets) + len(shifted)) * (1 + (classes == 1000))  # counts, and checksums
    assert caplog.text.count("the protocol") == expected


def test_imagenet_es_is_a_setting_away(cfg, tree):
    merge(cfg, ROOT / "configs/datasets/openood_imagenet1k.yaml")
    cfg.merge_from_list(["OOD.SHIFTED.ImageNet-ES.FOLDERS", "['images_largescale']"])
    write_lists(cfg, tree)
    assert list(load_shifted_sets(cfg, ["tench"]))[-1] == "ImageNet-ES"


@pytest.mark.parametrize("one, other", [(10, 20), (20, 10)])
def test_each_is_the_ood_set_of_the_other(cfg, tree, one, other):
    merge(cfg, ROOT / f"configs/datasets/imagenet{one}_imagenet{other}.yaml")
    theirs = read_config_file(f"configs/datasets/imagenet{other}.yaml")["DATASET"]["CLASSES"]
    theirs, ours = read_class_list(theirs), read_class_list(cfg.DATASET.CLASSES)
    assert len(ours) == one and len(theirs) == other and set(ours).isdisjoint(theirs)
    tree({f"imagenet/images/val/{wnid}": 1 for wnid in (*ours, *theirs)})
    (items,) = load_ood_sets(cfg).values()
    assert {item.impath.split("/")[-2] for item in items} == set(theirs)
    assert len(build_dataset(cfg).test) == one
    assert 50 * other == cfg.OOD.SETS[f"ImageNet-{other}"].IMAGES


def test_sets_of_other_protocols_are_in_no_average(cfg):
    merge(cfg, ROOT / "configs/datasets/imagenet_further.yaml")
    mcm = ["iNaturalist", "SUN", "Places", "Texture"]
    assert ood_means(cfg) == {"average": mcm, "average near": NEAR}
    assert len(cfg.OOD.SETS) == 9
