"""The report: one well-formed file that needs nothing else, with every name escaped."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dassl import command
from ood.set_scores import SetScores
from results.report import __main__ as report
from results.report.mistakes import accepted_ood, class_names, rejected_id, thumbnail
from results.report.page import report_page
from results.runs import find_runs, group_runs
from results.summary import summarise

pytestmark = pytest.mark.slow  # many seconds

ROOT = Path(__file__).parents[2]
VOID = {"meta", "img", "br", "line", "path", "use", "rect"}


class Checker(HTMLParser):
    """Every tag is closed in order; addresses and texts are kept."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.addresses, self.texts, self.counts = [], [], [], [], {}
        self.feed(page)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [attributes[a] for a in ("href", "src", "action") if a in attributes]
        if tag == "img":
            assert attributes["alt"]
        if attributes.get("role") in ("img", "region"):
            assert attributes.get("aria-label") or attributes.get("aria-labelledby") in self.ids
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID | {"g"}  # of an SVG, in which it may be closed at once

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def gather(folders):
    return group_runs(find_runs(folders)[0])


def page_of(folder, root=None, resamples=0):
    page = report_page(summarise(gather([folder]), resamples), root)
    return page, Checker(page)


def text_of(checker):
    return " ".join(" ".join(checker.texts).split())


def test_a_comparison_stands_alone(study):
    page, checker = page_of(study, resamples=100)
    assert all(a.startswith(("#", "data:")) for a in checker.addresses)
    assert not re.search(r"https?:|@import|url\((?!data:|#)|<link|src=\"(?!data:)", page)
    assert all(a[1:] in checker.ids for a in checker.addresses if a.startswith("#"))
    assert 'name="viewport"' in page and "prefers-color-scheme" in page
    text = text_of(checker)
    for words in (
        "LoCoOp &middot; GL-MCM",
        "CoOp",
        "95 % bootstrap interval over images",
        "no test is implied",
    ):
        assert words.replace("&middot;", "·") in text
    # Of 2 scores: over the methods; then a ROC panel for each of 2 sets, 3 methods x 2 histograms.
    charts = re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", page)
    assert len(charts) == 2 * (1 + 2 + 3 * 2)
    run = gather([study])["LoCoOp"][0].result["figures"]["MCM"]["nature"]
    assert f"LoCoOp: {100 * run['auroc']:.2f}, " in base64.b64decode(charts[2]).decode()


def test_names_are_escaped_and_bytes_survive(write_run, tmp_path):
    run = write_run(tmp_path / "run", trainer="<b>&\"'", image='<img src=x onerror="1">&{}.png')
    undecodable = os.fsdecode(b"\xff\xfe")
    run.result["provenance"]["note"] = undecodable
    (tmp_path / "run/results.json").write_text(json.dumps(run.result), encoding="utf-8")
    page, checker = page_of(tmp_path)
    page.encode()  # can be written
    assert "<img src=x" not in page and '<b>&"' not in page
    assert '<img src=x onerror="1">&' in text_of(checker)
    assert "<b>&\"' · MCM" in text_of(checker) and r"\xff\xfe" in text_of(checker)


@pytest.mark.slow
def test_images_are_shown_where_they_are_and_named_where_not(write_run, tmp_path):
    data = tmp_path / "data"
    config = yaml.safe_dump({"DATASET": {"ROOT": str(data)}})
    run = write_run(tmp_path / "run", provenance={"config": config})
    page, checker = page_of(tmp_path / "run")
    assert "data:image/jpeg" not in page
    assert "nature/class" in text_of(checker)
    for part in run.images.values():
        for image in part.images:
            (data / image).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (300, 200), (255, 0, 0)).save(data / image)
    page, checker = page_of(tmp_path / "run")
    found = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", page)
    assert found
    assert Image.open(io.BytesIO(base64.b64decode(found[0]))).size == (112, 75)
    moved = shutil.move(data, tmp_path / "elsewhere")
    assert page_of(tmp_path / "run", Path(moved))[0].count("data:image/jpeg") == len(found)


def test_thumbnails(tmp_path, caplog):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"x")
    assert thumbnail(tmp_path / "a.png").startswith("data:image/jpeg;base64,")
    assert thumbnail(tmp_path / "gone.png") == "" and not caplog.text
    assert thumbnail(tmp_path / "broken.png") == "" and "broken.png" in caplog.text


def test_mistakes_are_the_strongest_on_the_wrong_side(write_run, tmp_path):
    inside = np.arange(100, dtype=np.float32)
    outside = np.array([-5, 50.5, 3, 98.5, 60], dtype=np.float32)
    sets = [
        SetScores(
            name,
            [f"{name}/cat/{i}" for i in range(len(v))],
            {"MCM": v},
            *(([0] * 100, [1] * 100) if name == "ID" else (None, [1] * 5)),
        )
        for name, v in (("ID", inside), ("SUN", outside))
    ]
    named = write_run(tmp_path, provenance={"classnames": ["tabby_cat", "dog"]})
    names = class_names(named, sets[0])
    accepted = accepted_ood("MCM", *sets, names)
    assert [m.image for m in accepted] == ["SUN/cat/3", "SUN/cat/4", "SUN/cat/1"]
    assert (accepted[0].beyond, accepted[0].label, accepted[0].prediction) == (0.99, None, "dog")
    rejected = rejected_id("MCM", sets[0], sets[1:], names)
    assert [m.score for m in rejected] == [0, 1, 2, 3, 4]  # 5 is the threshold
    assert rejected[0].beyond == 0.8 and rejected[0].label == "tabby cat"


def test_class_names_come_from_folders_if_the_results_have_none(write_run, tmp_path):
    run = write_run(tmp_path)
    assert class_names(run, run.images["ID"]) == {i: f"class{i}" for i in range(4)}


def test_region_maps(study):
    folder = study / "LoCoOp/16shots/seed2/visualization"
    folder.mkdir()
    Image.new("RGB", (1200, 400)).save(folder / "cat_class1_k2.png")
    page, checker = page_of(study)
    assert page.count("data:image/jpeg") == 1 and "cat_class1_k2" in text_of(checker)


def test_the_methods_own_settings_lead(write_run, tmp_path):
    optim = {"SGD_DAMPNING": 0, "LR": 0.002, "MAX_EPOCH": 50}
    training = {"optim": optim, "shots": 16}
    for name, own in (("CoOp", {"N_CTX": 16}), ("LoCoOp", {"N_CTX": 16, "LAMBDA": 0.25, "K": 200})):
        for seed in (1, 2):
            folder = tmp_path / name / f"seed{seed}"
            write_run(folder, seed, name, training=training, settings=own)
    text = text_of(page_of(tmp_path)[1])
    order = ["Methods (7)", "LAMBDA 0.25", "K 200", "shots 16", "seed 1, 2 1, 2", "MAX_EPOCH 50"]
    order += ["Other settings", "SGD_DAMPNING 0"]
    assert sorted(order, key=text.index) == order


def test_the_top_says_what_the_figures_stand_on(write_run, tmp_path):
    provenance = {
        "backbone": "ViT-B/16",
        "versions": {"torch": "2.14.1"},
        "git": {"commit": "0123456789abcdef", "dirty": True},
    }
    for seed, versions in ((1, {"torch": "2.14.1"}), (2, {"torch": "2.6.0"})):
        own = {**provenance, "versions": versions}
        about = {"dataset": "ImageNet", "num_classes": 1000}
        write_run(tmp_path / f"seed{seed}", seed, provenance=own, **about)
    os.utime(tmp_path / "seed1/results.json", (1.7e9, 1.7e9))
    os.utime(tmp_path / "seed2/results.json", (1.76e9, 1.76e9))
    text = text_of(page_of(tmp_path)[1])
    top = text[: text.index("Mean ±")]
    for words in (
        "ImageNet, 1,000 classes, 120 ID images",
        "nature (80), indoor (80)",
        "ViT-B/16",
        "2023-11-14; 2025-10-09",
        "code 0123456789 (changed), torch 2.14.1; code 0123456789 (changed), torch 2.6.0",
    ):
        assert words in top
    assert "Figures in percent" in top and "results.json and results.csv hold fractions" in text


def test_no_images_no_curves(study):
    (study / "CoOp/16shots/seed1/scores/nature.csv").write_text("image,MCM\nx")  # damaged
    _, checker = page_of(study)
    assert "CoOp: its scores/*.csv are missing" in text_of(checker)
    for folder in study.rglob("scores"):
        shutil.rmtree(folder)
    _page, checker = page_of(study)
    assert checker.counts["img"] == 2  # over the methods, of the figures alone


@pytest.mark.slow
def test_the_script_writes_beside_the_runs(study, tmp_path):
    runs = (study / "CoOp", study / "LoCoOp", "--scores", "MCM", "--resamples", "100")
    done = subprocess.run(
        ["bash", ROOT / "scripts/report.sh", *runs, "--plots", tmp_path / "figures"],
        cwd=tmp_path,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.startswith("report.html (")  # study is the folder
    plots = {"methods", *(f"roc_{name}" for name in ("nature", "indoor"))}
    plots |= {f"histogram_{m}_{name}" for m in ("CoOp", "LoCoOp") for name in ("nature", "indoor")}
    drawn = sorted((tmp_path / "figures").iterdir())
    assert [path.name for path in drawn] == sorted(f"MCM_{plot}.pdf" for plot in plots)
    assert all(path.read_bytes().startswith(b"%PDF") for path in drawn)
    Checker((study / "report.html").read_text(encoding="utf-8"))


def test_a_folder_without_results_is_told_in_a_sentence(study, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", str(study / "nothing")])
    with pytest.raises(SystemExit, match="there are no results"):
        command.run(report.main)
