"""The YAML files, the keys, and every registered data set."""

import subprocess
import sys
from pathlib import Path

import pytest
from yacs.config import CfgNode

import datasets  # noqa: F401  registers the data sets
from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from datasets.classnames import imagenet_wnids, read_class_list
from run.settings import read_config_file

ROOT = Path(__file__).parents[2]
YAMLS = sorted((ROOT / "configs" / "datasets").glob("*.yaml"))
SUBSETS = {"imagenet10": 10, "imagenet20": 20, "imagenet100": 100}


def merge(cfg, path):
    """As the entry points read a YAML: over the one that it names as `_BASE_`."""
    cfg.merge_from_other_cfg(CfgNode(read_config_file(path)))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_names_a_registered_data_set_and_ood_sets(cfg, path):
    merge(cfg, path)
    assert cfg.DATASET.NAME in DATASET_REGISTRY.registered_names()
    assert any(entry.FOLDERS for entry in cfg.OOD.SETS.values())
    assert all(entry.IMAGES >= 0 for entry in cfg.OOD.SETS.values())


def test_imagenet_has_the_four_sets_in_the_papers_order(cfg):
    merge(cfg, ROOT / "configs/datasets/imagenet.yaml")
    counts = {name: entry.IMAGES for name, entry in cfg.OOD.SETS.items()}
    assert counts == {"iNaturalist": 10000, "SUN": 10000, "Places": 10000, "Texture": 5640}
    assert list(counts) == ["iNaturalist", "SUN", "Places", "Texture"]


@pytest.mark.parametrize("name, count", SUBSETS.items())
def test_subset_lists_are_imagenet_ids(cfg, name, count):
    sets = cfg.clone()
    merge(sets, ROOT / "configs/datasets/imagenet.yaml")
    merge(cfg, ROOT / f"configs/datasets/{name}.yaml")
    assert cfg.OOD == sets.OOD and list(cfg.OOD.SETS) == list(sets.OOD.SETS)
    classes = read_class_list(cfg.DATASET.CLASSES)
    assert len(classes) == count
    assert set(classes) <= set(imagenet_wnids())


def test_a_set_can_be_moved_or_left_out_on_the_command_line(cfg):
    merge(cfg, ROOT / "configs/datasets/imagenet.yaml")
    cfg.merge_from_list(["OOD.SETS.SUN.FOLDERS", "['/data/sun']", "OOD.SETS.Places.FOLDERS", "[]"])
    assert cfg.OOD.SETS.SUN.FOLDERS == ["/data/sun"]
    assert cfg.OOD.SETS.Places.FOLDERS == []


# Other rooms' tests register data sets of their own.
OURS = [
    name
    for name in DATASET_REGISTRY.registered_names()
    if DATASET_REGISTRY.get(name).__module__.startswith("datasets.")
    and name in ("ImageFolder", "ImageNet")  # of class folders that are divided
]


@pytest.mark.parametrize("name", OURS)
def test_every_registered_data_set_builds_from_a_tiny_tree(cfg, tree, name):
    classes = ["n01440764", "n01443537"]
    tree({f"tiny/images/{split}/{c}": 3 for split in ("train", "val") for c in classes})
    cfg.DATASET.NAME, cfg.DATASET.FOLDER, cfg.DATASET.CLASSES = name, "tiny", "present"
    cfg.DATASET.NUM_SHOTS = 2
    dataset = build_dataset(cfg)
    assert len(dataset.classnames) == dataset.num_classes == 2
    assert dataset.lab2cname == dict(enumerate(dataset.classnames))
    assert len(dataset.test) == 6
    assert len(dataset.train_x) == 4
    assert Path(dataset.dataset_dir) == Path(cfg.DATASET.ROOT) / "tiny"
    for item in dataset.train_x + dataset.test:
        assert Path(item.impath).is_file()
        assert item.classname == dataset.classnames[item.label]


@pytest.mark.slow
def test_importing_the_package_imports_no_model_library():
    code = (
        "import sys, datasets, datasets.ood_sets\n"
        "sys.exit(', '.join(m for m in ('open_clip', 'timm') if m in sys.modules) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
