"""Settings: each is read, listed where one looks, checked, and set by words in any order."""

from __future__ import annotations

import argparse
import ast
import math
import subprocess
from pathlib import Path

import pytest
from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import InputError, UnknownNameError
from dassl.utils.names import check_availability
from run.config import build_cfg
from run.flags import as_words, choose, make_parser
from run.settings import CHOICES, RANGES, default_cfg, describe, keys, read_config_file, value_of
from tests.worlds import ROOT

SCALES = ("[]", "(0,)", "(-1,-1)", "('a','b')", "(0,0.5)", "(0.9,0.1)", "(0.1,2)", "(0.1,0.2,1)")
YAMLS = sorted(ROOT.glob("configs/trainers/*/*.yaml"))


def built(*words: str) -> CfgNode:
    return build_cfg(make_parser("").parse_args(["--trainer", "LoCoOp", *words]))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_config_lists_its_methods_numbers_and_says_what_to_expect(path):
    kind = TRAINER_REGISTRY.get(path.parent.name)
    listed = read_config_file(path)["TRAINER"][kind.CONFIG_KEY]
    assert set(listed) == set(kind.CONFIG)
    missing = missing_in(path.read_text(encoding="utf-8").split("\n\n")[0])
    assert not missing, f"the comment at the head of {path} lacks {'; '.join(missing)}"


HEAD = {  # what the comment at a YAML's head holds -> the texts of which it has one
    'who made the method ("NAME et al.", of a method of your own too)': ["et al."],
    'its command ("#   bash scripts/...")': ["#   bash scripts/"],
    'what to expect ("Expected", "Figures: " or "not yet run")': [
        "Expected",
        "Figures: ",
        "not yet run",
    ],
}


def missing_in(head: str) -> list[str]:
    return [what for what, texts in HEAD.items() if not any(text in head for text in texts)]


def test_what_a_head_lacks_is_said():
    assert missing_in("# My method.\n#   bash scripts/train.sh\n# Figures: none") == [
        'who made the method ("NAME et al.", of a method of your own too)'
    ]
    assert len(missing_in("# My method.")) == 3


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: "/".join(path.parts[-2:]))
def test_the_first_config_of_a_method_has_the_methods_defaults(path):
    kind = TRAINER_REGISTRY.get(path.parent.name)
    content = read_config_file(path)["TRAINER"][kind.CONFIG_KEY]
    if "_BASE_" not in path.read_text(encoding="utf-8"):
        own = set(kind.CONFIG) - set(kind.INCIDENTAL)
        assert {key: content[key] for key in own} == {key: kind.CONFIG[key] for key in own}


def read_names() -> set[tuple[str, ...]]:
    """The settings that the code reads: (OPTIM, LR) of `cfg.OPTIM.LR`, (LR,) of `settings.LR`."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = {("COLORJITTER_" + letter,) for letter in "BCSH"}  # by an index
    for file in map(Path, listed.stdout.split()):
        if file.parts[0] in ("tests", "benchmarks") or not (ROOT / file).exists():
            continue
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            chain: list[str] = []
            while isinstance(node, ast.Attribute) and node.attr.isupper():
                chain.insert(0, node.attr)
                node = node.value
            names.add(tuple(chain))
    return names - {()}


def test_every_setting_is_read_somewhere():
    cfg, read = default_cfg(), read_names()
    leaves = [key for key in keys(cfg) if not isinstance(value_of(cfg, key), CfgNode)]
    assert len(leaves) > 80
    unread = [
        key
        for key in leaves
        if not any(key.split(".")[-len(name) :] == list(name) for name in read)
    ]
    assert not unread


FLOATS = [key for key in keys(default_cfg()) if isinstance(value_of(default_cfg(), key), float)]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_every_number_must_be_finite(value):
    cfg = built()
    of_this_run = [key for key in FLOATS if value_of(cfg, key) is not None]
    assert len(of_this_run) > 12
    for key in of_this_run:
        with pytest.raises(InputError, match=f"{key} is {value}, it must be a finite number"):
            built(key, value)
    with pytest.raises(InputError, match=r"PIXEL_STD .*finite"):
        built("INPUT.PIXEL_STD", "[1.0, 1e999, 1.0]")


@pytest.mark.parametrize("flag", ["--config-file", "--dataset-config-file"])
@pytest.mark.parametrize(
    "text, words",
    [
        ("MODEL:\n  BACKBONE:\n    NAME:", "MODEL.BACKBONE.NAME has no value"),
        ("DATASET:\n  ROOT:", "DATASET.ROOT has no value"),
        ("TRAINER:\n  NAME:", "TRAINER.NAME has no value"),
        ("OPTIM:", "OPTIM has no value"),
        ("OUTPUT_DIR:", "OUTPUT_DIR has no value"),
        ("_BASE_: [other.yaml]", r"_BASE_ is \['other.yaml'\], not the name of a file"),
        ("OOD:\n  SETS:\n    5: {FOLDERS: [x]}", "OOD.SETS.5 is not read as text.*quotes"),
        ("on: 3", "True is not read as text"),
        ("_BASE_: 3", "_BASE_ is 3, not the name of a file"),
        ("DATASET: [1]", "DATASET: this is a group of settings, name one of [^\n]*$"),
        ("OPTIM:\n  LR: {A: 1}", r"OPTIM.LR: give a value of the type of 0\.\d*$"),
    ],
)
def test_what_a_file_leaves_empty_or_calls_its_base_is_told(tmp_path, flag, text, words):
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"own.yaml: {words}"):
        built(flag, str(path))


@pytest.mark.parametrize("text", ["SEED: 1\nSEED: 1", "OPTIM:\n  LR: 0.1\nOPTIM:\n  LR: 0.1"])
def test_a_key_given_twice_is_refused(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"(SEED|OPTIM) is given twice, in lines 1 and"):
        built("--config-file", str(path))


@pytest.mark.parametrize(
    "key, value, usual",
    [("N_CTX", "1.5", "16"), ("CSC", "Maybe", "False"), ("LAMBDA", "[1]", "0.25")],
)
def test_a_value_of_another_kind_is_answered_with_one_that_fits(key, value, usual):
    with pytest.raises(InputError) as caught:
        built(f"TRAINER.LOCOOP.{key}", value)
    assert f"LOCOOP.{key} {value!r}: give a value of the type of {usual}" in str(caught.value)


def test_settings_of_another_method_are_refused():
    for key in ("TRAINER.CLIPN.MICRO_BATCH", "TRAINER.COOP.N_CTX"):
        owner = {"CLIPN": "CLIPN", "COOP": "CoOp"}[key.split(".")[1]]
        with pytest.raises(InputError, match=f"{key} is a setting of {owner}, not LoCoOp"):
            built(key, "4")
    with pytest.raises(InputError, match="--trainer CoOp"):
        built("TRAINER.NAME", "CoOp")
    assert set(built().TRAINER) == {"NAME", "LOCOOP"}


def test_a_published_checkpoint_needs_a_named_data_set(tmp_path):
    """And it may be of any backbone: no config.yaml says which; loading checks its own facts."""
    published = ["--model-dir", str(tmp_path), "--backbone", "generated-ViT-S/8"]
    with pytest.raises(InputError, match=f"{tmp_path} has no config.yaml .* add --dataset NAME"):
        built(*published)
    for data_set in (("--dataset", "imagenet"), ("--id-data", str(tmp_path))):
        cfg = built(*published, *data_set)
        assert cfg.MODEL.BACKBONE.NAME == "generated-ViT-S/8" and cfg.INPUT.SIZE == (96, 96)


def test_without_a_config_that_fits_those_there_are_named(monkeypatch):
    monkeypatch.setattr("run.flags.DEFAULT_CONFIGS", ())
    with pytest.raises(InputError, match=r"no config for dtd: name one .*\(there: generated, im"):
        built("--dataset", "dtd")


@pytest.mark.parametrize("trainer", sorted(p.name for p in ROOT.glob("configs/trainers/*")))
def test_every_method_has_a_default_config_for_every_data_set(trainer):
    cfg = built("--trainer", trainer, "--dataset", "dtd")
    assert trainer == cfg.TRAINER.NAME


@pytest.mark.parametrize("key", RANGES)
def test_a_number_out_of_its_range_is_refused(key):
    low, high = RANGES[key]
    outside = [low - 1] if high == math.inf else [low - 1, high + 1]
    for value in outside:
        allowed = f"be at least {low}" if high == math.inf else f"lie between {low} and {high}"
        with pytest.raises(InputError, match=rf"{key} is {value}(\.0)?, it must {allowed}$"):
            built(key, str(value))


@pytest.mark.parametrize("key", [*CHOICES, "TEST.EVALUATOR"])
def test_an_unknown_name_is_refused_with_the_settings(key):
    with pytest.raises(UnknownNameError, match=f"Unknown {key} 'zzz'"):
        built(key, "zzz")


@pytest.mark.parametrize(
    "words, message",
    [
        *((f"INPUT.RRCROP_SCALE {scale}", "RRCROP_SCALE is .*, such as") for scale in SCALES),
        *((f"OPTIM.STEPSIZE {steps}", "STEPSIZE is .*whole epochs") for steps in ("[]", "['a']")),
        *((f"INPUT.SIZE {size}", "SIZE .*height and width") for size in ("[]", "[9]", "['a','b']")),
        ("INPUT.SIZE [9.5,9]", "SIZE .*height and width"),
        ("OPTIM.SGD_NESTEROV True OPTIM.MOMENTUM 0", "NESTEROV needs a MOMENTUM above 0"),
        ("OPTIM.SGD_NESTEROV True OPTIM.SGD_DAMPNING 1", "SGD_DAMPNING 0, not 0.9 and 1"),
        ("OPTIM.WARMUP_EPOCH 51", "WARMUP_EPOCH is 51, it must be at most the 50 epochs"),
        ("DATASET.SPLIT_FILE a.txt", "SPLIT_FILE would be ignored: ImageFolder reads class fol"),
        ("DATASET.IMAGES a --dataset imagenet", "IMAGES would be ignored: ImageNet reads class"),
    ],
)
def test_what_cannot_be_together_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        built("--config", "vit_b16_ep50", *words.split())
    assert built("--config", "vit_b16_ep50", "OPTIM.MAX_EPOCH", "1").OPTIM.WARMUP_EPOCH == 1


@pytest.mark.parametrize(
    "name, key",
    [
        (n, key)
        for n in TRAINER_REGISTRY.registered_names()
        for key in TRAINER_REGISTRY.get(n).RANGES
    ],
)
def test_a_methods_number_out_of_its_range_is_refused(name, key):
    trainer_class = TRAINER_REGISTRY.get(name)
    node, low = f"TRAINER.{trainer_class.CONFIG_KEY}.{key}", trainer_class.RANGES[key][0]
    with pytest.raises(InputError, match=rf"{node} is {low - 1}(\.0)?, it must "):
        trainer_class(built("--trainer", name, node, str(low - 1)))


def test_what_a_setting_sets_is_not_set_again():
    cfg = built("SEED", "5", "OUTPUT_DIR", "here", "RESUME", "there")
    assert (cfg.SEED, cfg.OUTPUT_DIR, cfg.RESUME) == (5, "here", "there")
    assert built("--seed", "0").SEED == 0 and built().SEED == 1


@pytest.mark.parametrize(
    "words, message",
    [
        ("--shots 0", "NUM_SHOTS is 0.*1 or more"),
        ("--shots -2", "NUM_SHOTS is -2, it must be at least -1"),
        ("--shots 4 --seed -1", "needs a seed"),
    ],
)
def test_shots_that_cannot_be_drawn_are_refused_with_the_settings(words, message):
    with pytest.raises(InputError, match=message):
        built(*words.split())
    assert built("--shots", "-1", "--seed", "-1").DATASET.NUM_SHOTS == -1
    assert built("--shots", "0", "--trainer", "CLIPN").DATASET.NUM_SHOTS == 0  # reads pairs


def test_flags_are_understood_before_between_and_behind_settings():
    for words in (
        "--seed 3 --shots 4 OPTIM.LR 0.5 OPTIM.MAX_EPOCH 2",
        "OPTIM.LR 0.5 --seed 3 OPTIM.MAX_EPOCH 2 --shots 4",
        "OPTIM.LR 0.5 OPTIM.MAX_EPOCH 2 --shots 4 --seed=3",
    ):
        cfg = built(*words.split())
        found = cfg.SEED, cfg.DATASET.NUM_SHOTS, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH
        assert found == (3, 4, 0.5, 2)
    assert built("DATASET.VAL_PERCENT", "-1e-3").DATASET.VAL_PERCENT == -1e-3


def test_settings_of_earlier_versions_are_ignored_with_a_warning(tmp_path, caplog):
    assert "DECODED" not in built("DATALOADER.DECODED.GIB", "0").DATALOADER
    dataset = ROOT / "configs/datasets/generated.yaml"
    (tmp_path / "old.yaml").write_text(
        f"_BASE_: {dataset}\nDATALOADER: {{DECODED: {{GIB: 1.5, FOLDER: x}}}}\n", encoding="utf-8"
    )
    cfg = built("--dataset-config-file", str(tmp_path / "old.yaml"))
    assert "DECODED" not in cfg.DATALOADER
    ignored = "Deprecated config key (ignoring): DATALOADER.DECODED"
    assert caplog.messages == [f"{ignored}.GIB", ignored]
    with pytest.raises(InputError, match=r"unknown setting DATALOADER\.DECODED\.GIBB"):
        built("DATALOADER.DECODED.GIBB", "0")


def test_an_unknown_flag_is_named(capsys):
    with pytest.raises(SystemExit):
        built("OPTIM.LR", "0.5", "--lambda_valeu", "1")
    said = capsys.readouterr().err
    assert "unknown flag --lambda_valeu. Did you mean '--lambda_value'?" in said
    assert len(said.splitlines()) < 6


def test_a_key_without_its_value_is_told():
    with pytest.raises(InputError, match=r"in pairs of KEY VALUE, got OPTIM\.LR 0\.5 SEED$"):
        built("OPTIM.LR", "0.5", "SEED")


def test_a_far_name_is_answered_with_the_names_there_are():
    with pytest.raises(UnknownNameError) as error:
        check_availability("MaPLe", names := TRAINER_REGISTRY.registered_names(), what="trainer")
    assert str(error.value).endswith(f"Known: {', '.join(names)}.")
    with pytest.raises(UnknownNameError, match=r"There are 30: a0, .*\.\.\.$"):
        check_availability("golden retriever", [f"a{i}" for i in range(30)])


def test_help_states_the_defaults():
    parser = make_parser("")
    helped = " ".join(parser.format_help().split())
    flags = (
        "--root --dataset --config --backbone --ood-data --shots --seed --output-dir --load-epoch "
        "--lambda_value --topk"
    )
    for flag in flags.split():
        assert "(default: " in helped.partition(f" {flag} ")[2].split(" --")[0], flag


def test_arguments_and_their_command_line_are_the_same():
    words = ["--trainer", "LoCoOp", "--shots", "4", "--ood-data", "a", "--ood-data", "b=c"]
    args = make_parser("").parse_args([*words, "--lambda_value", "0.5", "OPTIM.LR", "0.1"])
    assert make_parser("").parse_args(as_words(args)) == args
    other = choose(args, seed=3)
    assert other.seed == 3 and argparse.Namespace(**{**vars(other), "seed": None}) == args


def test_what_is_printed_of_a_config_is_what_matters():
    text = describe(built("--seed", "3"))
    assert "SEED: 3" in text and "TRAINER.LOCOOP: " in text and "LAMBDA 0.25" in text
    assert "WARMUP_EPOCH 1" in text and "RMSPROP_ALPHA" not in text
    assert len(text.splitlines()) < 12
