"""The page of a detector: what it says and draws, and the same in a headless browser."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

import detect
from dassl import command
from detector import Detector
from run import demo
from run.demo import Page
from tests.worlds import ROOT, images

CLASSES = ["cat", "<b>dog</b>", "<b>pot</b>"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    images(folder / "mine", 24, np.random.default_rng(0), ".png")
    (folder / "broken.png").write_text("no image", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def zero_shot(clip_file):
    return Detector.zero_shot(CLASSES, clip_file("tiny-vit"), score="GL-MCM")


@pytest.fixture(scope="module")
def calibrated(zero_shot, place):
    return zero_shot.calibrate(sorted((place / "mine").iterdir()), 0.5)


@pytest.mark.slow
def test_the_page_says_what_the_detector_says(calibrated, place):
    page = Page(calibrated)
    for path in sorted((place / "mine").iterdir()):
        verdict, badge, histogram, probabilities, regions = page.answer(str(path), page.limit)
        assert verdict == calibrated(path)
        assert verdict.verdict in badge and f"{verdict.score:.6g}" in badge
        assert ("none of the classes" in badge) == (verdict.verdict == "OOD")
        assert max(probabilities.values()) == pytest.approx(verdict.probability)
        assert sum(probabilities.values()) == pytest.approx(1)
        assert histogram and regions
        assert "<b>pot" not in badge


def test_the_threshold_moves(calibrated, place):
    page, path = Page(calibrated), str(place / "mine/0.png")
    low, high, step = page.slider
    scores = calibrated.spec.id_scores["GL-MCM"]
    assert low < scores[0] and scores[-1] < high and 300 < (high - low) / step < 20000
    assert low <= page.limit <= high and np.float32(page.limit) == calibrated.threshold.value
    verdict = page.answer(path, low)[0]
    for limit, said, kept in ((low, "ID", "100.0%"), (high, "OOD", "0.0%")):
        badge, histogram = page.judge(verdict, limit)
        assert badge.count(f"{said}: ") == 1 and f"keeps {kept} of" in badge and histogram


def test_without_a_threshold_and_without_an_image(zero_shot, calibrated, place):
    _, badge, histogram, probabilities, _ = Page(zero_shot).answer(str(place / "mine/0.png"), 0)
    assert "--calibrate FOLDER" in badge and "ID:" not in badge and not histogram and probabilities
    verdict, badge, histogram, *rest = Page(calibrated).answer(str(place / "broken.png"), 0.1)
    assert verdict is None and "Cannot read the image broken.png" in badge and histogram
    assert rest == [None, None]
    assert "Drop an image" in Page(calibrated).answer(None, 0.1)[1]


def test_a_tower_without_regions_and_equal_scores(clip_file, place):
    image = place / "mine/0.png"
    detector = Detector.zero_shot(CLASSES, clip_file("tiny-vit")).calibrate([image] * 3)
    detector.model.clip.grid = None
    page = Page(detector)
    low, high, _ = page.slider
    assert low < page.limit < high
    assert page.answer(str(image), page.limit)[-1] is None


def test_what_is_missing_is_named(clip_file, monkeypatch):
    flags = ["--classes", "cat,dog", "--backbone", clip_file("tiny-vit"), "--demo"]
    monkeypatch.setattr(sys, "argv", ["detect.py", *flags])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: n != "gradio" and find(n))
    with pytest.raises(SystemExit, match=r"pip install -r requirements-demo\.txt"):
        command.run(detect.main)


def test_events_are_answered_one_after_the_other(calibrated):
    """Else a late answer to the slider brings the verdict on a removed image back."""
    gradio = MagicMock()
    demo._layout(gradio, Page(calibrated))
    events = gradio.Image.return_value.change, gradio.Slider.return_value.change
    assert [event.call_args.kwargs["concurrency_id"] for event in events] == ["page", "page"]


# In a browser


@pytest.fixture(scope="module")
def url(calibrated, place):
    """Address of the page, served by the script until the tests are done."""
    pytest.importorskip("gradio")
    calibrated.save(place / "kept")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with start(place, port) as process:
        said = next(line for line in process.stdout if "The page is at" in line)
        yield re.search(r"http://127\.0\.0\.1:\d+", said)[0]
        process.terminate()
        assert "Traceback" not in process.stdout.read()
    assert process.returncode == 0


def start(place: Path, port: int) -> subprocess.Popen:
    return subprocess.Popen(
        ["bash", ROOT / "scripts/demo.sh", "--model-dir", place / "kept", "--port", str(port)],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def browser(url):
    """A page of a headless Chromium that has opened the address."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as program:
        opened = program.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = opened.new_page()
        page.set_default_timeout(120_000)
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_selector("text=Drop an image")
        yield page
        opened.close()


@pytest.mark.slow
def test_in_a_browser(browser, calibrated, place):
    asked = []
    browser.on("request", lambda request: asked.append(request.url))
    badge = browser.locator("#verdict")
    path = place / "mine/0.png"
    browser.set_input_files("input[type=file]", path)
    badge.filter(has_text="Most similar class").wait_for()
    verdict = calibrated(path)
    assert badge.inner_text().startswith(f"{verdict.verdict}: ")
    assert f"{verdict.score:.6g}" in badge.inner_text()  # of the file as it is
    number = browser.locator("input[type=number]")  # whose digits are all seen
    assert number.evaluate("x => x.scrollWidth <= x.clientWidth")
    low, high, _ = Page(calibrated).slider
    for limit, said in ((high, "OOD"), (low, "ID")):
        number.fill(str(limit))
        browser.keyboard.press("Enter")
        badge.filter(has_text=re.compile(f"^{said}: ")).wait_for()
    assert browser.locator("img").count() >= 3  # the image, the histogram and the regions
    browser.get_by_label("Remove Image").click()
    badge.filter(has_text="Drop an image").wait_for()
    browser.set_input_files("input[type=file]", place / "broken.png")
    badge.filter(has_text="Cannot read the image broken.png").wait_for()
    assert all(re.match(r"http://127\.0\.0\.1|data:|blob:", address) for address in asked)


@pytest.mark.slow
def test_on_a_phone_the_verdict_is_right_below_the_image(browser):
    browser.set_viewport_size({"width": 390, "height": 844})
    parts = "[data-testid=image]", "#verdict", "text=Threshold", "text=Probabilities among"
    tops = [browser.locator(part).first.bounding_box()["y"] for part in parts]
    assert tops == sorted(tops)


@pytest.mark.slow
def test_a_port_that_is_taken(url, place):
    process = start(place, int(url.rpartition(":")[2]))
    said, _ = process.communicate()
    assert process.returncode == 1 and "choose another --port" in said and "Traceback" not in said
