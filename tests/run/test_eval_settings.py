"""Settings of an evaluation: keys of the config, which flags set."""

from __future__ import annotations

import pytest
import yaml

import detect
import eval_ood
import visualize
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.utils import InputError, write_json
from ood.registry import SCORES, Score
from ood.scoring import offered_scores
from ood.stream_methods import STREAMS, StreamMethod
from ood.words import read_lists, words_hash
from results.streams import FILES as STREAM_FILES
from run.config import build_cfg
from run.evaluation import check_settings, has_results, recorded_config, score_names
from run.folder import _differences
from tests.worlds import ROOT


def settings(*arguments: str):
    return build_cfg(eval_ood.parse_args(list(arguments)))


def test_flags_set_keys_and_pairs_win():
    flags = ["--scores", "MCM, Energy", "--T", "0.5", "--local-weight", "2", "--tpr", "0.9"]
    flags += ["--features", "kept", "--features-limit", "3", "--features-local"]
    cfg = settings(*flags, "EVAL.TEMPERATURE", "0.25")
    assert dict(cfg.EVAL) == {
        "SCORES": "MCM, Energy",
        "TEMPERATURE": 0.25,
        "LOCAL_WEIGHT": 2.0,
        "NEGATIVES": "generated/words",  # of the data set's YAML
        "NEGATIVES_SHARE": 0.15,
        "OUTLIERS": "",
        "STREAMS": "",
        "STREAM_RATIO": "",
        "STREAM_BATCH": 0,
        "STREAM_SEED": 110,
        "TPR": 0.9,
        "FEATURES": "kept",
        "FEATURES_LIMIT": 3.0,
        "FEATURES_LOCAL": True,
    }
    assert score_names(cfg) == ["MCM", "Energy"]
    assert score_names(settings(*flags, "--streams", "OODD")) == ["MCM", "Energy", "NegLabel"]
    theirs = ["--scores", "pytorch-ood:ViM"]
    assert score_names(settings(*theirs)) == ["pytorch-ood:ViM", "MCM"]
    assert score_names(settings(*theirs, "--streams", "OODD")) == ["pytorch-ood:ViM", "NegLabel"]
    assert settings("--temperature", "2").EVAL.TEMPERATURE == 2
    assert settings().EVAL.SCORES == "all" and settings().EVAL.TPR == 0.95


@pytest.mark.parametrize(
    "pairs, words",
    [
        (("EVAL.SCORES", "MCN"), "Did you mean 'MCM'"),
        (("EVAL.TEMPERATURE", "0"), "temperature"),
        (("EVAL.TPR", "95"), r"in \(0, 1\]"),
        (("EVAL.FEATURES", "none", "EVAL.FEATURES_LOCAL", "True"), "drop one"),
        (("EVAL.LOCAL_WEIGHT", "nan"), "finite"),
        (("--streams", "ODD"), "Did you mean 'OODD'"),
        (("--streams", "OODD,OODD"), "each method once"),
        (("--streams", "OODD", "--stream-ratio", "0.1,1"), "between 0 and 1"),
        (("--streams", "OODD", "--stream-ratio", "half"), "between 0 and 1"),
        (("--streams", "OODD", "--stream-ratio", "0.1,0.1"), "each once"),
        (("--streams", "OODD", "--stream-batch", "-1"), "a number of images"),
        (("--streams", "OODD", "--stream-seed", "-1"), "a seed lies between"),
        (("--streams", "OODD", "--features", "none"), "--features is none"),
        (("--streams", "AdaNeg", "EVAL.NEGATIVES", ""), "AdaNeg needs words .* add --negatives"),
    ],
)
def test_impossible_settings_are_refused(pairs, words):
    with pytest.raises(InputError, match=words):
        check_settings(settings(*pairs))


class OfScale(StreamMethod):
    def __init__(self, scale):
        pass


class OfClasses(StreamMethod):
    def __init__(self, classes, k=5):
        pass


class OfTexts(StreamMethod):
    def __init__(self, texts, classes, scales):
        pass


@pytest.mark.parametrize(
    "method, refusal",
    [
        (OfScale, None),
        (OfClasses, r"OfClasses needs words that are not classes \(for its classes\): add"),
        (OfTexts, "OfTexts.__init__ asks for texts, scales without a default.* are classes, neg"),
    ],
)
def test_a_method_of_ones_own_needs_what_its_arguments_name(method, refusal, monkeypatch):
    monkeypatch.setitem(STREAMS, method.__name__, method)
    plain = settings("--streams", method.__name__, "EVAL.NEGATIVES", "")
    if refusal is None:
        check_settings(plain)
    else:
        with pytest.raises(InputError, match=refusal):
            check_settings(plain)


PHOTO = str(ROOT / "docs/page.png")


@pytest.mark.parametrize("command", [(eval_ood,), (detect, PHOTO), (visualize, "--image", PHOTO)])
def test_a_trainer_written_for_dassl_is_trained_but_not_scored(command, tmp_path, monkeypatch):
    monkeypatch.setitem(TRAINER_REGISTRY._objects, "UpCoOp", type("UpCoOp", (TrainerX,), {}))
    (tmp_path / "own.yaml").write_text("OPTIM:\n  LR: 0.1\n", encoding="utf-8")
    (tmp_path / "run").mkdir()
    entry, *words = command
    words += ["--trainer", "UpCoOp", "--config-file", str(tmp_path / "own.yaml")]
    words += ["--model-dir", str(tmp_path / "run"), "--dataset", "generated"]
    monkeypatch.setattr("sys.argv", [entry.__name__, *words])
    with pytest.raises(InputError, match=r"UpCoOp is no ClipTrainer: it can be trained .*#add-one"):
        entry.main()


FIGURES = {"MCM": {"average": {"auroc": 0.5}}}
RESULTS = {"schema": 1, "figures": FIGURES, "images": {}, "accuracy": {}, "conventions": {}}


def test_they_do_not_make_another_training(tmp_path):
    before = yaml.safe_load(settings().dump())
    other = settings("--T", "2", "--scores", "Energy", "--features", "elsewhere")
    assert not _differences(before, other)


def test_results_are_of_the_same_evaluation_wherever_features_lie(tmp_path):
    def write(cfg, recorded=True, epoch=None) -> None:
        provenance = {"config": recorded_config(cfg), "comparable": {"load_epoch": epoch}}
        provenance |= {"image_files": {}} if recorded else {}
        write_json({**RESULTS, "provenance": provenance}, tmp_path / "results.json")

    out = ["--output-dir", str(tmp_path)]
    assert not has_results(settings(*out))
    write(settings(*out))
    assert has_results(settings(*out, "--features", "elsewhere", "--features-limit", "3"))
    for other in (["--T", "2"], ["--tpr", "0.9"], ["--scores", "MCM"], ["--features-local"]):
        assert not has_results(settings(*out, *other))
    write(settings(*out), epoch=3)
    assert not has_results(settings(*out))
    write(settings(*out), recorded=False)  # by an earlier version
    assert not has_results(settings(*out))


@pytest.mark.parametrize("recorded", [True, False])  # False: results of an earlier version
@pytest.mark.parametrize(
    "needs, words, missing",
    [
        (["logits"], [], True),
        (["no_logits"], [], False),  # the model lacks its input, however often it is evaluated
        (["logits"], ["--scores", "MCM"], False),
    ],
)
def test_a_score_registered_since_is_missing_in_all(
    tmp_path, monkeypatch, needs, words, missing, recorded
):
    cfg = settings("--output-dir", str(tmp_path), *words)
    provides = {"cosines", "local_cosines", "logits", "head_norm"}
    computed = {s.name: {} for s in offered_scores(score_names(cfg), provides)}
    provenance = {"config": recorded_config(cfg), "comparable": {"scores": computed}}
    provenance |= {"image_files": {}} | ({"provides": sorted(provides)} if recorded else {})
    write_json({**RESULTS, "provenance": provenance}, tmp_path / "results.json")
    assert has_results(cfg)
    monkeypatch.setitem(SCORES, "Own", Score("Own", tuple(needs), max, {}))
    assert has_results(cfg) == (not missing)


def test_an_evaluation_without_its_streams_is_not_done(tmp_path):
    cfg = settings("--output-dir", str(tmp_path), "--streams", "OODD")
    provenance = {"config": recorded_config(cfg), "comparable": {"load_epoch": None}}
    provenance["image_files"] = {}
    write_json({**RESULTS, "provenance": provenance}, tmp_path / "results.json")
    assert not has_results(cfg)
    for name in STREAM_FILES:
        (tmp_path / name).touch()
    assert has_results(cfg)


def test_results_of_edited_words_are_not_up_to_date(tmp_path):
    """Of the lists that --negatives names, and of --outliers."""
    (tmp_path / "noun.a.txt").write_text("oak\nelm\n")
    (tmp_path / "names.txt").write_text("storm\ncat\n")
    given = ["--negatives", str(tmp_path), "--outliers", str(tmp_path / "names.txt")]
    cfg = settings("--output-dir", str(tmp_path), *given)
    lists = read_lists(str(tmp_path)), {"outliers": ["storm"]}
    scores = {"MCM": {"temperature": 1.0}}
    scores |= zip(["NegLabel", "EOE"], ({"words": words_hash(x)} for x in lists), strict=True)
    provenance = {
        "config": recorded_config(cfg),
        "comparable": {"load_epoch": None, "scores": scores},
        "image_files": {},
        "classnames": ["cat"],
    }
    write_json({**RESULTS, "provenance": provenance}, tmp_path / "results.json")
    assert has_results(cfg)
    for name in ("noun.a.txt", "names.txt"):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(before + "fog\n")
        assert not has_results(cfg)
        (tmp_path / name).write_text(before)
        assert has_results(cfg)
