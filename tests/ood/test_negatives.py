"""Mining of negatives against the public code's results on generated weights."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.testing import assert_close

import clip
from dassl.utils.errors import InputError
from ood import word_features as word_features_module
from ood.negatives import (
    CSP,
    NEGLABEL,
    WORD_TEXTS,
    find_words,
    mine_negatives,
    overlaps,
    read_outliers,
)
from ood.scores import SCORES
from ood.scoring import compute_scores, get_scores
from ood.word_features import template_features, word_features
from ood.word_scores import grouping
from ood.words import Word
from tests.golden.weights import make_state_dict

SKETCH = ("a sketch of a {}", "a sketch of the {}")
# What makes the texts of the random weights differ, on the text side alone.
FACTORS = {
    "ln_final.bias": 0.0,
    "positional_embedding": 0.25,
    "attn.in_proj_weight": 2.0,
    "attn.out_proj.weight": 4.0,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    state = {key: torch.from_numpy(x) for key, x in make_state_dict(211, "tiny-vit").items()}
    for key, x in state.items():
        factor = [f for end, f in FACTORS.items() if key.endswith(end)]
        if factor and not key.startswith("visual"):
            state[key] = x * factor[0]
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_file(state, path, {"activation": "quick_gelu"})
    return clip.load(str(path))[0]


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """An empty cache, with blocks of seven words."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(word_features_module, "BLOCK", 7)
    return tmp_path / "promptood" / "texts"


def _lists(about: dict, case: dict) -> dict:
    """The lists of a case, in the order its driver listed the folder in."""
    names = sorted(n for n in about["word_files"] if n.startswith(("noun.", "adj.")))
    ordered = names[::-1] if case["file_order"] == "reverse" else names
    return {name: about["word_files"][name] for name in ordered}


def _mined(model, about, case, recipe):
    recipe = replace(recipe, quantile=case["quantile"], seed=case.get("seed", 0))
    if case.get("noun_templates") == 10:
        recipe = replace(recipe, templates=[*SKETCH, *recipe.templates])
    names = case.get("classes") or about["classes"]
    return mine_negatives(model, names, _lists(about, case), recipe, case["share"])


def _scored(score, logits, negatives, **params):
    name = score.lower()
    inputs = {f"{name}_logits": logits, f"{name}_negatives_logits": negatives}
    return compute_scores([SCORES[score]], inputs, params)[score]


@pytest.mark.parametrize("case", range(5))
def test_neglabel_of_the_public_code(case, golden, model, kept):
    about, arrays = golden("zeroshot_neglabel.json"), golden("zeroshot_neglabel.npz")
    _check_case(about["mining"][case], about, arrays, model, NEGLABEL, "selected_prompts")


@pytest.mark.parametrize("case", range(5))
def test_csp_of_the_public_code(case, golden, model, kept):
    about, arrays = golden("zeroshot_csp.json"), golden("zeroshot_csp.npz")
    _check_case(about["mining"][case], about, arrays, model, CSP, "selected")


def _check_case(case, about, arrays, model, recipe, listed):
    number = case["case"]
    found = _mined(model, about, case, recipe)

    def recorded(name):
        return torch.from_numpy(arrays[f"m{number}_{name}"])

    expected, ours = case[listed], [word.text for word in found.words]
    if recipe is NEGLABEL:
        ours = [found.prompt(word) for word in found.words]
    closeness = torch.tensor(found.closeness)
    ranks = torch.cat(
        [
            recorded("rank_nouns")[: case["kept_nouns"]],
            recorded("rank_adjectives")[: case["kept_adjectives"]] + case_nouns(case),
        ]
    )
    assert_close(closeness, recorded("similarity")[ranks], rtol=0, atol=1e-5)
    tied = closeness >= 1  # their order is not defined in the public code
    far = [i for i, tie in enumerate(tied.tolist()) if not tie]
    assert len(ours) == len(expected) and {*ours} == {*expected}
    assert [ours[i] for i in far] == [expected[i] for i in far]
    assert_close(found.classes, recorded("class_features"), rtol=0, atol=1e-5)
    assert_close(found.features[far], recorded("negative_features")[far], rtol=0, atol=1e-5)
    images = torch.from_numpy(arrays["image_features"])
    logits, negatives = 100 * images @ found.classes.T, 100 * images @ found.features.T
    assert_close(logits, recorded("pos_logits"), rtol=0, atol=1e-3)  # 1e-5 of a cosine
    for groups in (2, 3, 5, 7) if tied.sum() == 0 else ():
        values = _scored(recipe.score, logits, negatives, groups=groups)
        assert_close(values, recorded(f"score_groups{groups}"), rtol=2e-5, atol=1e-5)


def case_nouns(case):
    nouns = case["nouns"]
    return nouns if isinstance(nouns, int) else len(nouns)


@pytest.mark.parametrize("case", range(8))
def test_neglabel_scores_of_given_cosines(case, golden):
    about, arrays = golden("zeroshot_neglabel.json"), golden("zeroshot_neglabel.npz")
    groups = about["scores"][case]["groups"]
    sides = [torch.from_numpy(arrays[f"g{case}_{side}_cos"]) for side in ("pos", "neg")]
    assert (
        grouping(sides[1].shape[1], groups).flatten().tolist() == arrays[f"g{case}_perm"].tolist()
    )
    for dtype, name, tolerance in ((torch.float32, "f32", 1e-5), (torch.float64, "f64", 1e-12)):
        logits = [100 * side.to(dtype) for side in sides]
        expected = torch.from_numpy(arrays[f"g{case}_score_{name}"])
        for score in ("NegLabel", "CSP"):
            values = _scored(score, *logits, groups=groups)
            assert_close(values, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("count", [1, 2, 100, 10_400])
def test_groups_are_drawn_as_torch_draws_on_a_cpu(count):
    expected = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    assert grouping(count, 1)[0].tolist() == expected.tolist()


def _inference_mode(*logits):
    with torch.inference_mode():
        _scored("NegLabel", *logits, groups=3)


def _export(*logits):
    class Model(torch.nn.Module):
        def forward(self, *x):
            return SCORES["NegLabel"].function(*x, groups=3)

    torch.export.export(Model(), logits, strict=False)


def _change(*logits):
    with pytest.raises(ValueError, match="read-only"):
        grouping(17, 3)[:] = 0


@pytest.mark.parametrize("earlier", [_inference_mode, _export, _change])
def test_groups_do_not_depend_on_who_drew_them_first(earlier):
    """They are drawn once, maybe in inference mode or in an export, and used from anywhere."""
    logits = [torch.linspace(-1, 1, 2 * n).view(2, n).requires_grad_() for n in (4, 17)]
    expected = _scored("NegLabel", *logits, groups=3)
    grouping.cache_clear()
    earlier(*(x.detach() for x in logits))
    found = _scored("NegLabel", *logits, groups=3)
    assert type(found) is torch.Tensor and found.equal(expected)
    found.sum().backward()
    assert all(x.grad.any() for x in logits)


@pytest.mark.parametrize("case", [8, 9])
def test_fewer_negatives_than_groups_make_one(case, golden):
    """The public code drops them all and scores every image 1."""
    arrays = golden("zeroshot_neglabel.npz")
    logits = [
        100 * torch.from_numpy(arrays[f"g{case}_{side}_cos"]).double() for side in ("pos", "neg")
    ]
    values = _scored("NegLabel", *logits)
    assert_close(
        values, torch.from_numpy(arrays[f"OURS_g{case}_one_group_f64"]), rtol=1e-12, atol=0
    )
    assert np.allclose(arrays[f"FAULT_g{case}_score_f32"], 1, rtol=0, atol=1e-6)


def test_temperature_and_one_group(golden):
    arrays = golden("zeroshot_neglabel.npz")
    logits = [100 * torch.from_numpy(arrays[f"g0_{side}_cos"]) for side in ("pos", "neg")]
    for score, t in itertools.product(("NegLabel", "CSP"), ("1", "2.5")):
        values = _scored(score, *logits, groups=5, negatives_temperature=float(t))
        expected = torch.from_numpy(arrays[f"g0_forward_t{t}_groups5_f32"])
        assert_close(values, expected, rtol=1e-5, atol=1e-6)
    one = torch.from_numpy(golden("zeroshot_csp.npz")["g0_forward_one_group"])
    sides = golden("zeroshot_csp.npz")
    logits = [100 * torch.from_numpy(sides[f"g0_{side}_cos"]) for side in ("pos", "neg")]
    assert_close(_scored("CSP", *logits, groups=1), one, rtol=1e-5, atol=1e-6)
    for groups in (0, 2.7):
        with pytest.raises(
            InputError, match=f"groups is {groups}: the number of groups must be 1 or more"
        ):
            _scored("NegLabel", *logits, groups=groups)
    with pytest.raises(InputError, match="negatives is 0: the number of negatives must be"):
        _scored("CSP", logits[0], logits[1][:, :0])


def test_eoe_of_the_public_code(golden):
    """Its function returns minus the score; the temperature divides cosines."""
    about, arrays = golden("zeroshot_eoe.json"), golden("zeroshot_eoe.npz")
    cosines, classes = torch.from_numpy(arrays["cosines"]), len(about["classes"])
    for case in about["cases"]:
        if case["score_ablation"] != "EOE":
            continue
        used = [about["outlier_names"].index(name) for name in case["outlier_names_used"]]
        inputs = {
            "eoe_cosines": cosines[:, :classes],
            "eoe_outliers_cosines": cosines[:, [classes + i for i in used]],
        }
        params = {"outlier_temperature": case["T"], "outlier_weight": case["beta"]}
        values = compute_scores(get_scores(["EOE"]), inputs, params)["EOE"]
        expected = -torch.from_numpy(arrays[f"e{case['case']}"])
        assert_close(values, expected, rtol=1e-5, atol=1e-7)


@given(
    classes=st.integers(1, 60),
    quantile=st.sampled_from([0.0, 0.3, 0.5, 0.95, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_closeness_is_the_quantile_over_classes(classes, quantile, seed):
    generator = torch.Generator().manual_seed(seed)
    words, texts = (
        torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=-1)
        for n in (9, classes)
    )
    found = replace(NEGLABEL, quantile=quantile).closeness(words, texts)
    assert_close(found, (words @ texts.T).quantile(quantile, dim=1), rtol=0, atol=1e-6)


# Features of words, kept


WORDS = [f"word {i}" for i in range(20)]
TEMPLATES = ("the nice {}", "{}")


def test_words_are_encoded_once(model, kept, monkeypatch):
    slow = template_features(model, WORDS, TEMPLATES).numpy()
    first = word_features(model, WORDS, TEMPLATES)
    np.testing.assert_allclose(first, slow, rtol=0, atol=1e-6)
    monkeypatch.setattr(word_features_module, "_encoded", None)  # nothing is encoded again
    assert np.array_equal(word_features(model, WORDS, TEMPLATES), first)


@pytest.mark.parametrize("bytes_left", [0, 5, 64 * 4 * 7, 64 * 4 * 15 + 3])
def test_a_killed_process_goes_on_where_it_was(model, kept, bytes_left):
    whole = word_features(model, WORDS, TEMPLATES).copy()
    (file,) = kept.glob("*.f32")
    (note,) = kept.glob("*.json")
    note.unlink()
    file.write_bytes(file.read_bytes()[:bytes_left])
    assert np.array_equal(word_features(model, WORDS, TEMPLATES), whole)


@pytest.mark.parametrize("more", [5, 64 * 4 * 40])
def test_a_longer_file_without_its_note_is_cut(model, kept, monkeypatch, more):
    monkeypatch.setattr(word_features_module, "BLOCK", 7)
    whole = word_features(model, WORDS, TEMPLATES).copy()
    (file,) = kept.glob("*.f32")
    (note,) = kept.glob("*.json")
    note.unlink()
    file.write_bytes(file.read_bytes() + bytes(more))
    assert np.array_equal(word_features(model, WORDS, TEMPLATES), whole)
    assert file.stat().st_size == whole.nbytes and note.exists()


@pytest.mark.parametrize("damage", ["bytes", "note", "words"])
def test_a_cache_of_other_words_is_made_anew(model, kept, damage, caplog):
    whole = word_features(model, WORDS, TEMPLATES).copy()
    (file,) = kept.glob("*.f32")
    (note,) = kept.glob("*.json")
    if damage == "bytes":
        file.write_bytes(file.read_bytes()[:-4] + b"abcd")
    elif damage == "note":
        note.write_text("{")
    else:
        note.write_text(note.read_text().replace('"weights": "', '"weights": "f'))
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(word_features(model, WORDS, TEMPLATES), whole)
    assert "damaged, or of other words or another model" in caplog.text


def test_whole_features_are_read_where_nothing_can_be_written(model, kept, monkeypatch):
    whole = word_features(model, WORDS, TEMPLATES).copy()

    def read_only(path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(word_features_module, "FileLock", read_only)
    monkeypatch.setattr(word_features_module, "_encoded", None)
    assert np.array_equal(word_features(model, WORDS, TEMPLATES), whole)


def test_waiting_for_another_process_is_said(model, kept, monkeypatch):
    whole = word_features(model, WORDS, TEMPLATES).copy()
    (note,) = kept.glob("*.json")
    content, lock = note.read_text(), FileLock(note.with_suffix(".lock"))
    note.unlink()

    def other_ends(message):
        assert "Waiting for another process" in message and f"remove {lock.lock_file}" in message
        note.write_text(content)
        lock.release()

    monkeypatch.setattr(word_features_module, "_encoded", None)
    monkeypatch.setattr(word_features_module.logger, "warning", other_ends)
    lock.acquire()
    assert np.array_equal(word_features(model, WORDS, TEMPLATES), whole)
    assert not lock.is_locked


def test_another_model_or_list_is_another_entry(model, kept):
    word_features(model, WORDS, TEMPLATES)
    word_features(model, WORDS[1:], TEMPLATES)
    word_features(model, WORDS, TEMPLATES[:1])
    assert len(list(kept.glob("*.f32"))) == 3


def test_without_room_words_are_encoded_all_the_same(model, kept, monkeypatch, caplog):
    monkeypatch.setattr(word_features_module, "LIMIT", 0)
    with caplog.at_level(logging.WARNING):
        found = word_features(model, WORDS, TEMPLATES)
    np.testing.assert_allclose(found, template_features(model, WORDS, TEMPLATES), rtol=0, atol=1e-6)
    assert "features of 20 words are not kept" in caplog.text and not list(kept.glob("*.f32"))


def test_a_full_cache_still_gives_what_it_has(model, kept, monkeypatch):
    first = word_features(model, WORDS, TEMPLATES).copy()
    monkeypatch.setattr(word_features_module, "LIMIT", 0)
    monkeypatch.setattr(word_features_module, "_encoded", None)  # nothing is encoded again
    assert np.array_equal(word_features(model, WORDS, TEMPLATES), first)


# What users get wrong


CLASSES = ["cat", "tea_pot"]


def test_a_share_that_leaves_nothing_is_refused(model, kept):
    with pytest.raises(InputError, match=r"no negative is left for NegLabel: the share 0.15 of 3"):
        mine_negatives(model, CLASSES, {"noun.a.txt": ["x y", "z"], "adj.a.txt": ["red"]}, NEGLABEL)


def test_few_words_and_class_names_are_warned_of(model, kept, caplog):
    with caplog.at_level(logging.WARNING):
        words = {"noun.a.txt": ["Tea  Pot", "sky"]}
        found = mine_negatives(model, CLASSES, words, NEGLABEL, share=1.0)
    assert len(found.words) == 2
    assert "2 negatives are fewer than its 100 groups, so they form one group" in caplog.text
    assert "1 of 2 negatives are class names (Tea  Pot)" in caplog.text


def test_outliers_that_are_classes_are_left_out(tmp_path, caplog):
    path = tmp_path / "names.txt"
    path.write_text("tea pot\nstorm\nCat\n")
    with caplog.at_level(logging.WARNING):
        assert read_outliers(str(path), CLASSES) == ["storm"]
    assert "names of classes are left out: tea pot, Cat" in caplog.text
    path.write_text("storm\nTram car\nStorm\ntram_car\nstorm\n")
    with caplog.at_level(logging.WARNING):
        assert read_outliers(str(path), CLASSES) == ["storm", "Tram car"]
    assert "repeated names are read once" in caplog.text
    path.write_text("cat\n")
    with pytest.raises(InputError, match="names only classes"):
        read_outliers(str(path), CLASSES)
    with pytest.raises(InputError, match=r"--outliers storm,tram: name a \.txt file"):
        read_outliers("storm,tram", CLASSES)
    for content in (b"", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"--outliers: .*(holds no name|is no UTF-8 text)"):
            read_outliers(str(path), CLASSES)


def test_only_what_scores_need_is_encoded(model, kept, tmp_path):
    (tmp_path / "noun.a.txt").write_text("\n".join(WORDS))
    (tmp_path / "names.txt").write_text("storm\n")
    sources = {"negatives": str(tmp_path), "outliers": str(tmp_path / "names.txt")}

    def texts(*scores):
        needs = {need for score in scores for need in SCORES[score].needs}
        return find_words(model, CLASSES, needs, **sources, share=0.5)

    assert not texts("MCM").texts
    both = texts("NegLabel", "EOE")
    shapes = {name: list(x.shape) for name, x in both.texts.items()}
    assert shapes == {
        "neglabel": [2, 64],
        "neglabel_negatives": [10, 64],
        "eoe": [2, 64],
        "eoe_outliers": [1, 64],
    }
    assert texts("NegLabel", "CSP", "EOE").texts.keys() == WORD_TEXTS
    assert both.facts["NegLabel"].keys() == {"words", "candidates", "negatives", "share"}
    assert not find_words(model, CLASSES, {"neglabel_negatives_logits"}).texts


def test_overlaps_name_the_sets():
    words = [Word("pine cone", "noun", "a"), Word("sky", "noun", "a")]
    sets = {"nature": ["Pine_Cone", "moss"], "places": ["kitchen"]}
    assert [own for _, own in overlaps(words, sets)] == [["nature"], []]
