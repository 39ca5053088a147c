import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dassl.data.datasets import Datum
from dassl.utils.errors import InputError
from datasets.fewshot import few_shot, part_of_classes, split_record

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "fewshot.json").read_text())


def items_of(sizes):
    """Items numbered class by class: impath is the index, label the class."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    return [Datum(str(i), label, classname=f"c{label}") for i, label in enumerate(labels)]


def indices(items):
    return [int(item.impath) for item in items]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("suffix", ["", "_short"])
def test_selection_is_upstreams(seed, shots, suffix):
    items = items_of(GOLDEN["sizes" + suffix])
    golden = GOLDEN["selected" + suffix][f"seed{seed}_shots{shots}"]
    assert indices(few_shot(items, shots, seed)) == golden


sizes_shots_seed = st.tuples(
    st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 8), st.integers(0, 2**40)
)


@given(sizes_shots_seed)
def test_each_class_gives_its_shots_once(case):
    sizes, shots, seed = case
    chosen = few_shot(items_of(sizes), shots, seed)
    assert len(set(indices(chosen))) == len(chosen)
    counts = Counter(item.label for item in chosen)
    assert [counts[label] for label in range(len(sizes))] == [min(size, shots) for size in sizes]
    assert [item.label for item in chosen] == sorted(item.label for item in chosen)


@given(sizes_shots_seed, st.randoms(use_true_random=False))
def test_selection_depends_on_the_order_within_a_class_only(case, rng):
    sizes, shots, seed = case
    items = items_of(sizes)
    by_class = {label: [i for i in items if i.label == label] for label in range(len(sizes))}
    shuffled_labels = [item.label for item in items]
    rng.shuffle(shuffled_labels)
    interleaved = [by_class[label].pop(0) for label in shuffled_labels]
    assert indices(few_shot(interleaved, shots, seed)) == indices(few_shot(items, shots, seed))


@given(sizes_shots_seed)
def test_selection_is_repeatable_and_leaves_the_global_generator_alone(case):
    sizes, shots, seed = case
    items = items_of(sizes)
    state = random.getstate()
    first = few_shot(items, shots, seed)
    assert random.getstate() == state
    random.random()
    assert indices(few_shot(items, shots, seed)) == indices(first)
    random.setstate(state)


def test_seed_zero_is_a_value():
    items = items_of([40] * 8)
    assert indices(few_shot(items, 4, 0)) == indices(few_shot(items, 4, 0))
    assert indices(few_shot(items, 4, 0)) != indices(few_shot(items, 4, 1))


def test_no_items_give_none():
    assert few_shot([], 4, 1) == []


def test_minus_one_takes_all_and_needs_no_seed():
    items = items_of([3, 5])[::-1]  # in the order they are listed
    assert few_shot(items, -1, seed=-1) == items


def test_classes_with_too_few_images_are_warned_of(caplog):
    few_shot(items_of([4, 3, 5, 1]), 4, 1)
    assert "2 of 4 classes have fewer than 4 training images" in caplog.text
    assert "such as 1 (c1) with 3" in caplog.text
    caplog.clear()
    few_shot(items_of([4, 5]), 4, 1)
    assert not caplog.text


@pytest.mark.parametrize("shots", [0, -2])
def test_other_shots_are_refused(shots):
    with pytest.raises(InputError, match=rf"NUM_SHOTS is {shots}.*1 or more.*-1"):
        few_shot(items_of([3]), shots, 1)


@pytest.mark.parametrize("count, half", [(2, 1), (3, 2), (10, 5), (101, 51), (1000, 500)])
def test_base_classes_are_half_rounded_up_and_new_ones_the_rest(count, half):
    assert part_of_classes(count, "base") == range(half)
    assert part_of_classes(count, "new") == range(half, count)
    assert part_of_classes(count, "all") == range(count)


def test_negative_seed_is_refused():
    with pytest.raises(InputError, match="--seed 0 or more; SEED is -1"):
        few_shot(items_of([3]), 1, -1)


def test_record_has_relative_posix_paths(tmp_path):
    root = tmp_path / "data"
    items = [
        Datum(str(root / "pets" / "train" / "dog" / "b.png"), 1, classname="dog"),
        Datum(str(root / "pets" / "train" / "cat" / "ä.png"), 0, classname="cat"),
    ]
    record = split_record(items, root, num_shots=1, seed=0)
    assert record == {
        "seed": 0,
        "num_shots": 1,
        "classnames": ["cat", "dog"],
        "train": [["pets/train/dog/b.png", 1, "dog"], ["pets/train/cat/ä.png", 0, "cat"]],
    }
    assert json.loads(json.dumps(record)) == record
    held_out = {"held_out": [["pets/train/cat/ä.png", 0, "cat"]]}
    assert split_record(items, root, 1, 0, items[1:]) == record | held_out


def test_record_of_a_relative_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = split_record([Datum("data/train/cat/a.png", 0)], "data", 1, 1)
    assert record["train"] == [["train/cat/a.png", 0, ""]]


def test_record_names_images_outside_the_root_absolutely(tmp_path):
    inside, outside = tmp_path / "data/a.jpg", tmp_path / "elsewhere/b.jpg"
    items = [Datum(str(path), 0, classname="cat") for path in (inside, outside)]
    record = split_record(items, tmp_path / "data", 2, 1)
    assert [row[0] for row in record["train"]] == ["a.jpg", outside.as_posix()]
