"""Fixtures: the data that tests of the commands share, and a run that is trained on them once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import eval_ood
from dassl import command
from dassl.config.defaults import EVAL
from tests.worlds import SEED1, flags, pets_world


def pytest_collection_modifyitems(items):
    """Mark tests that need the trained run as slow: a process trains it."""
    for item in items:
        if "trained" in item.fixturenames and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def world(tmp_path_factory, clip_file):
    return pets_world(tmp_path_factory.mktemp("world"), clip_file)


@pytest.fixture(scope="session")
def trained(world, forked):
    """Train a LoCoOp run outside the repository's folder."""
    output = world / "output" / "LoCoOp" / SEED1
    words = ["--shots", "2", "--seed", "1", "--output-dir", output]
    forked.run("train", *flags(world), *words, folder=world)
    return output


@pytest.fixture
def call(monkeypatch, tmp_path_factory):
    """Return a runner of entry points in this process: `call(train, "--shots", "2")`."""
    features = str(tmp_path_factory.mktemp("features"))
    monkeypatch.setitem(EVAL, "FEATURES", features)

    def run(module, *arguments) -> None:
        if module is eval_ood and "--features" not in arguments:
            arguments = ("--features", features, *arguments)  # not the folder a run was made with
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        command.run(module.main)

    return run


@pytest.fixture
def told(call):
    """Return a runner of entry points that must end in one sentence and a non-zero status."""

    def run(module, *arguments) -> str:
        with pytest.raises(SystemExit) as exit_:
            call(module, *arguments)
        assert isinstance(exit_.value.code, str) and exit_.value.code.startswith("error: ")
        return exit_.value.code

    return run
