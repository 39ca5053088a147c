"""Workers that stay alive augment as new ones would; batches sent ahead are the loader's own."""

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler

import tests.dassl.upstream_style_trainer  # noqa: F401  (registers the dataset)
from dassl.data import build_data_loader
from dassl.data.ahead import batches_for, images_of, move_images, one_ahead
from dassl.data.datasets import build_dataset
from dassl.utils import get_rng_state, set_random_seed, set_rng_state


def draw(_):
    """A transform: what the worker's generators give."""
    return torch.tensor([random.random(), float(torch.rand(())), np.random.rand()])


def loader_of(make_cfg, workers=2):
    cfg = make_cfg("DATALOADER.NUM_WORKERS", workers)
    source = build_dataset(cfg).train_x
    return build_data_loader(cfg, "RandomSampler", source, batch_size=4, tfm=draw)


def epochs_of(loader, count=3):
    return [[(b["index"], b["img"]) for b in loader] for _ in range(count)]


def test_workers_stay_and_draw_as_new_ones_of_torch_do(make_cfg):
    loader = loader_of(make_cfg)
    plain = DataLoader(
        loader.dataset, 4, sampler=RandomSampler(loader.dataset), num_workers=2, drop_last=True
    )
    set_random_seed(3)
    expected = epochs_of(plain)
    state = torch.get_rng_state()
    set_random_seed(3)
    found = epochs_of(loader)
    assert torch.equal(torch.get_rng_state(), state)
    for epoch, other in zip(found, expected, strict=True):
        for (index, drawn), (other_index, other_drawn) in zip(epoch, other, strict=True):
            assert torch.equal(index, other_index)
            assert torch.equal(drawn[:, :2], other_drawn[:, :2])  # numpy is seeded otherwise
    drawn = torch.cat([drawn for epoch in found for _, drawn in epoch])
    assert len(drawn.unique(dim=0)) == 48 and len(drawn[:, 2].unique()) == 48


def test_workers_are_the_same_processes_in_all_epochs(make_cfg):
    loader = loader_of(make_cfg)
    pids = []
    for _ in range(3):
        iterator = iter(loader)
        pids.append([worker.pid for worker in iterator._workers])
        list(iterator)
    assert pids[0] == pids[1] == pids[2]


def test_a_new_loader_goes_on_where_the_generators_were(make_cfg):
    set_random_seed(1)
    loader = loader_of(make_cfg)
    first = epochs_of(loader, 1)
    state = get_rng_state()
    rest = epochs_of(loader, 2)
    set_rng_state(state)
    again = epochs_of(loader_of(make_cfg), 2)
    assert all(
        torch.equal(a, b)
        for x, y in zip(rest, again, strict=True)
        for (_, a), (_, b) in zip(x, y, strict=True)
    )
    assert not torch.equal(first[0][0][1], rest[0][0][1])


def test_an_epoch_that_was_broken_off_changes_nothing(make_cfg):
    loader = loader_of(make_cfg)
    next(iter(loader))
    set_random_seed(5)
    found = epochs_of(loader, 1)
    set_random_seed(5)
    expected = epochs_of(loader_of(make_cfg), 1)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found[0], expected[0], strict=True))


class Broken(Exception):
    pass


@given(st.integers(0, 6), st.booleans())
def test_batches_sent_ahead_keep_order_content_and_errors(count, broken):
    log, found = [], []

    def source():
        yield from range(count)
        if broken:
            raise Broken

    def send(batch):
        log.append(("send", batch))
        return batch * 10

    def receive(batch):
        log.append(("receive", batch // 10))
        return batch + 1

    def read():
        for batch in one_ahead(source(), send, receive):
            log.append(("step", (batch - 1) // 10))
            found.append(batch)

    with pytest.raises(Broken) if broken else nullcontext():
        read()
    assert found == [10 * n + 1 for n in range(count)]
    for n in range(count):  # waited for before the next is sent, which is before this one's step
        at = log.index(("step", n))
        before = [("send", n + 1)] if n + 1 < count else []
        assert log[at - len(before) - 1 : at] == [("receive", n), *before]


def test_images_move_and_the_rest_stays():
    image = torch.zeros(2, 3, 4, 4)
    batch = {"img": image, "img2": image, "label": torch.tensor([1, 2]), "bad": ["x"]}
    moved = move_images(batch, torch.device("meta"))
    assert moved["label"] is batch["label"] and moved["bad"] == ["x"]
    assert [found.device.type for found in images_of(moved).values()] == ["meta"] * 2
    assert move_images({"bad": ["x"]}, torch.device("meta")) == {"bad": ["x"]}
    assert move_images([image], torch.device("meta")) == [image] and images_of([image]) == {}


@pytest.mark.parametrize("device, workers", [("cpu", 2), ("cpu", 0), ("cuda", 0)])
def test_where_nothing_is_gained_the_loader_is_read_plainly(make_cfg, device, workers):
    loader = loader_of(make_cfg, workers)
    set_random_seed(2)
    plain = [batch["img"] for batch in loader]
    set_random_seed(2)
    ahead = [batch["img"] for batch in batches_for(loader, torch.device(device))]
    assert all(torch.equal(a, b) for a, b in zip(ahead, plain, strict=True))
