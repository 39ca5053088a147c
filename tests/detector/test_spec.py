"""What a detector holds, its thresholds and what a verdict says of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dassl.data.transforms import Preprocess
from dassl.utils.errors import InputError
from detector.spec import DetectorSpec, fingerprint, read_spec, write_spec
from detector.verdicts import Verdict


@pytest.fixture
def spec():
    return DetectorSpec(
        classnames=["cat", "dog"],
        features={"text": torch.eye(2)},
        scale=torch.tensor(100.0),
        clip={"name": "x", "weights_hash": "y", "activation": "gelu"},
        preprocess=Preprocess((8, 8)),
        precision="fp32",
        parameters={"MCM": {"temperature": 1.0}, "MaxLogit": {}},
        score="MCM",
        top_k=1,
        origin={"trainer": "CoOp"},
    )


@pytest.fixture
def calibrated(spec):
    scores = {"MCM": [0.9, 0.2, 0.5, 0.4], "MaxLogit": [3, 1, 4, 2], "Energy": [0, 0, 0, 0]}
    return spec.calibrate(scores, 0.6, {"images": "held out"})


def test_each_score_has_a_threshold_of_its_own(spec, calibrated):
    assert spec.threshold() is None
    assert [calibrated.threshold(name).value for name in ("", "MCM", "MaxLogit")] == pytest.approx(
        [0.4, 0.4, 2]  # the third largest: 3 = 0.6 (4 + 1)
    )
    assert calibrated.choose("MaxLogit").threshold().value == 2
    assert calibrated.choose(tpr=0.2).threshold().value == pytest.approx(0.9)
    assert list(calibrated.id_scores) == ["MCM", "MaxLogit"]
    assert all((np.diff(scores) > 0).all() for scores in calibrated.id_scores.values())


def test_a_calibration_adds_to_what_is_known(calibrated, tmp_path):
    assert calibrated.origin == {"trainer": "CoOp", "calibration": {"images": "held out"}}
    write_spec(tmp_path, calibrated)
    read = read_spec(tmp_path)
    assert (read.origin, read.tpr, read.score) == (calibrated.origin, 0.6, "MCM")
    assert read.threshold("MaxLogit") == calibrated.threshold("MaxLogit")


@pytest.mark.parametrize(
    "choice, says",
    [
        ({"tpr": 0.0}, "--tpr 0.0: the share"),
        ({"tpr": 1.5}, "--tpr 1.5: the share"),
        ({"score": "MCMM"}, "no score 'MCMM'.*mean 'MCM'"),
        ({"score": "pytorch-ood:ViM"}, "cannot use pytorch-ood:ViM: its files do not hold"),
    ],
)
def test_impossible_choices_are_refused(calibrated, choice, says):
    with pytest.raises(InputError, match=says):
        calibrated.choose(**choice)


def test_where_clip_lies_and_where_a_detector_comes_from_decide_nothing(calibrated):
    before = fingerprint(calibrated)
    moved = replace(calibrated, clip={**calibrated.clip, "name": "moved"}, origin={})
    assert fingerprint(moved) == before
    for change in ({"tpr": 0.7}, {"score": "MaxLogit"}, {"exif": True}, {"top_k": 2}):
        assert fingerprint(replace(calibrated, **change)) != before


@pytest.mark.parametrize(
    "numbers, decision",
    [
        ({"score": 0.5, "threshold": 0.5, "verdict": "ID"}, "0.5 >= 0.5: ID"),
        ({"score": 0.4, "threshold": 0.5, "verdict": "OOD"}, "0.4 < 0.5: OOD"),
        ({"score": 0.4}, "0.4"),
        ({"error": "no image"}, "no image"),
    ],
)
def test_what_a_verdict_says(numbers, decision):
    assert Verdict("a.png", 0, "cat", 0.75, **numbers).decision == decision


def test_a_line_of_a_verdict():
    verdict = Verdict("a.png", 0, "cat", 0.7512, 0.3, 0.123456789, 0.1, "ID")
    assert str(verdict) == "a.png\tcat\t75.1%\t0.123457\tID"
    clipn = replace(verdict, ctw="ID", atd="OOD")
    assert str(clipn) == f"{verdict}\twithout a threshold: CTW ID, ATD OOD"
    unreadable = Verdict("a.png", error="line 1\nline 2")
    assert str(unreadable).startswith("a.png\tunreadable\t") and "\n" not in str(unreadable)
