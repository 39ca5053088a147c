"""The self-test on the CPU: what it finds right, what it must find wrong."""

import math

import open_clip
import pytest
import torch

from benchmarks import common, selftest
from benchmarks.common import largest_difference


@pytest.mark.slow
def test_the_cpu_computes_what_the_plain_implementation_does(monkeypatch):
    """In 2 of ViT-B/16's 12 blocks: all of them take half a minute."""
    towers = {"layers": 2, "width": 768, "patch_size": 16, "image_size": 224}
    texts = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 2}

    def shallow_vit():
        torch.manual_seed(0)
        return open_clip.CLIP(512, towers, texts, quick_gelu=True)

    monkeypatch.setattr(common, "random_vit", shallow_vit)
    report = selftest.Report()
    report.attempt("parity", selftest.parity, "cpu")
    assert not report.failed and len(report.rows) > len(selftest.PARTS), report.rows


@pytest.mark.parametrize("difference", [2e-4, math.nan])
def test_a_difference_beyond_its_limit_fails(difference):
    report = selftest.Report()
    report.check("parity", "text", difference, 1e-4)
    assert report.failed and report.rows[0][-1] == "FAILED"


def test_a_part_that_does_not_fit_says_so_and_the_rest_goes_on():
    def allocate(report):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    report = selftest.Report()
    report.attempt("step", allocate)
    report.attempt("evaluation", lambda report: report.add("evaluation", "images a second", "9"))
    assert [row[0] for row in report.rows] == ["step", "evaluation"]
    assert "does not fit" in report.rows[0] and not report.failed


def test_a_part_that_breaks_fails():
    report = selftest.Report()
    report.attempt("step", lambda report: torch.zeros(2) @ torch.zeros(3))
    assert report.failed


def test_largest_difference_is_relative_to_the_largest_value():
    assert largest_difference(torch.tensor([1.0, 8.0]), torch.tensor([2.0, 8.0])) == 0.125


def test_help_lists_every_flag(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["selftest.py", "--help"])
    with pytest.raises(SystemExit):
        selftest.parse_args()
    text = capsys.readouterr().out
    assert all(flag in text for flag in ("--device", "--classes", "--batch"))
