"""Steps as CUDA graphs, as far as the CPU shows it; on a GPU: test_steps."""

from __future__ import annotations

import logging

import pytest
import torch

from trainers.step import StepGraph

CPU = torch.device("cpu")


@pytest.fixture
def recorded(monkeypatch):
    """Replays by calling the function again on the tensors that were recorded."""
    calls = []

    def make(function, inputs):
        def replay(*given):
            for kept, new in zip(inputs, given, strict=True):
                kept.data.copy_(new)
            calls.append(len(given))
            return function(*inputs)

        return replay

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    return calls


def graph_of(weight):
    def step(batch):
        loss = (batch["img"] * weight).sum() + batch["label"].sum()
        return {"loss": loss, "acc": loss * 2}

    return StepGraph(step, [weight], CPU)


def batch_of(size, value):
    label = torch.arange(size)
    return {"img": torch.full((size, 2), value), "label": label, "impath": ["a"] * size, "no": None}


def test_a_replay_is_the_step(recorded):
    weight = torch.nn.Parameter(torch.ones(2))
    graph = graph_of(weight)
    graph(batch_of(3, 2.0))
    batches = [batch_of(3, 1.0), batch_of(3, 4.0)]
    found = [graph(batch) for batch in batches]
    assert recorded == [3, 3]  # two tensors of the batch, and the weight
    assert [f["loss"].item() for f in found] == [9.0, 27.0]
    assert (batches[0]["img"] == 1).all()  # the caller's tensors are nobody's buffers
    assert found[1]["loss"].requires_grad and not found[1]["acc"].requires_grad
    found[1]["loss"].backward()
    assert weight.grad.tolist() == [12.0, 12.0]


def test_entries_are_known_by_name(recorded):
    graph = graph_of(torch.nn.Parameter(torch.ones(2)))
    graph(batch_of(3, 1.0))
    graph(batch_of(3, 1.0))
    assert graph(dict(reversed(batch_of(3, 4.0).items())))["loss"].item() == 27.0
    assert recorded == [3, 3]


def test_a_batch_of_another_size_is_computed_as_ever(recorded):
    graph = graph_of(torch.nn.Parameter(torch.ones(2)))
    graph(batch_of(3, 1.0))
    graph(batch_of(3, 1.0))
    assert graph(batch_of(2, 1.0))["loss"].item() == 5.0
    assert recorded == [3]


@pytest.mark.parametrize(
    "sizes, replayed", [((2, 3, 3, 3, 2, 3), 3), ((3, 3, 2, 2, 3), 2), ((3, 2, 3, 2), 0)]
)
def test_the_shapes_recorded_are_those_of_two_batches_in_a_row(recorded, sizes, replayed):
    """The first batch may be short, because images in it could not be read."""
    graph = graph_of(torch.nn.Parameter(torch.ones(2)))
    losses = [graph(batch_of(size, 1.0))["loss"].item() for size in sizes]
    assert losses == [2.0 * size + sum(range(size)) for size in sizes]
    assert len(recorded) == replayed


def test_another_threads_calls_do_not_break_a_recording(monkeypatch):
    """The loader's thread allocates pinned memory at any time."""
    modes = []

    def make(function, inputs, capture_error_mode="global"):
        modes.append(capture_error_mode)
        return function

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    graph = graph_of(torch.nn.Parameter(torch.ones(2)))
    for _ in range(3):
        graph(batch_of(3, 1.0))
    assert modes == ["thread_local"]


def test_a_step_that_cannot_be_recorded_is_taken_as_ever(monkeypatch, caplog):
    def refuse(function, inputs):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    graph = graph_of(torch.nn.Parameter(torch.ones(2)))
    with caplog.at_level(logging.WARNING):
        assert [graph(batch_of(3, 1.0))["loss"].item() for _ in range(4)] == [9.0] * 4
    assert caplog.text.count("not permitted") == 1


def test_memory_that_is_full_stays_an_error(monkeypatch):
    def fill(function, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fill)
    graph = graph_of(torch.nn.Parameter(torch.ones(2)))
    graph(batch_of(3, 1.0))
    with pytest.raises(torch.OutOfMemoryError):
        graph(batch_of(3, 1.0))
