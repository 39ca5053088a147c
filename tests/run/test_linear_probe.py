"""The linear probe, as it is called, and its search over C."""

import json
import math

import pytest

from dassl.data.datasets import Datum
from dassl.utils.errors import InputError
from run import linear_probe
from run.linear_probe import check_data, divide, search_c
from tests.worlds import ROOT, write


@pytest.mark.parametrize("best", [1e-6, 3e-3, 0.5, 40.0, 1e6])
def test_the_search_finds_the_peak(best):
    """Of one peak on a logarithmic scale, to the last step's width."""
    found = search_c(lambda c: -abs(math.log10(c / best)))
    assert abs(math.log10(found / best)) < 2 / 2**7


def test_of_equal_accuracies_the_largest_c_of_the_grid_is_the_start():
    asked = []
    search_c(lambda c: asked.append(c) or 1.0)
    assert asked[:7] == list(linear_probe.GRID) and asked[7:9] == [1e5, 1e7]


def test_validation_images_are_taken_from_the_end_of_each_class():
    items = [
        Datum(f"{label}/{i}", label) for label, n in ((0, 9), (1, 3), (2, 1)) for i in range(n)
    ]
    train, val = divide(items)
    assert [x.impath for x in val] == ["0/5", "0/6", "0/7", "0/8", "1/2"]
    assert [x.impath for x in train] == [x.impath for x in items if x not in val]


def test_one_class_and_no_validation_images_are_refused():
    _, val = divide([Datum("0/0", 0), Datum("1/0", 1)])  # an image a class: none for validation
    for classes, items in ((1, [Datum("0/0", 0)]), (2, val)):
        with pytest.raises(InputError, match=rf"found {classes} and {len(items)}\. .*2 or more"):
            check_data(classes, items)


def test_the_command(world, call, tmp_path, clip_file, capsys):
    write(
        world / "Zeroshot" / "run.yaml",
        {
            "_BASE_": str(ROOT / "configs/trainers/ZeroshotCLIP/vit_b16.yaml"),
            "INPUT": {"SIZE": [64, 64]},
            "DATALOADER": {"NUM_WORKERS": 0},
            "MODEL": {"BACKBONE": {"NAME": clip_file("tiny-vit")}},
        },
    )
    flags = ["--root", f"{world}/data", "--dataset-config-file", f"{world}/pets.yaml"]
    flags += ["--config-file", f"{world}/Zeroshot/run.yaml", "--output-dir", tmp_path]
    call(linear_probe, *flags, "--shots", 2)
    rows = json.loads((tmp_path / "probe.json").read_text())["probe"]
    assert [row["shots"] for row in rows] == [1, 2]
    assert all(0 <= row["accuracy"] <= 1 and row["C"] > 0 for row in rows)
    assert "accuracy" in capsys.readouterr().out


def test_a_trainer_is_refused(told):
    assert "the same for every trainer; leave the flag out" in told(
        linear_probe, "--trainer", "CoOp"
    )
