"""Benchmarks are run by hand; that they still fit the code is seen here."""

import importlib
from pathlib import Path

import pytest

FILES = sorted(path.stem for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", FILES)
def test_benchmarks_import_what_exists(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert name in ("common", "plain") or callable(module.main)
