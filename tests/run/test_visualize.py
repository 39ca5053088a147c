"""Region maps by visualize.py, on a world made on the spot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import clip
import visualize
from dassl.utils.errors import InputError
from datasets.classfolders import ClassFolders
from tests.worlds import flags, script
from trainers.prompt_learner import PromptLearner

pytestmark = pytest.mark.slow  # trains


def test_region_map_by_the_script(world, trained):
    image = world / "data/pets/val/cat/0.jpg"
    before = image.read_bytes()
    done = script(
        world,
        "demo_visualization.sh",
        "--root",
        f"{world}/data",
        "--model-dir",
        trained,
        "--image",
        image,
        "--label",
        "tea pot",
    )
    drawn = list((trained / "visualization").glob("*.png"))
    assert len(drawn) == 1 and "K = 2 of 4 classes" in done.stdout
    assert drawn[0].name == "cat_0_class3_k2.png" and image.read_bytes() == before


def test_region_maps_are_the_trained_contexts(world, trained, call, caplog, clip_file):
    """The share of regions printed, for every label and K, against one computed by hand."""
    caplog.set_level("INFO")
    image = world / "data/pets/val/cat/0.jpg"
    model, preprocess = clip.load(clip_file("tiny-vit"))
    names = ["cat", "crane", "golden retriever", "tea pot"]
    learner = PromptLearner(names, model)
    content = torch.load(trained / "prompt_learner/model.pth.tar-3", weights_only=True)
    learner.load_state_dict(content["state_dict"])
    regions = model.encode_image(preprocess(Image.open(image))[None], local=True)[1][0]
    text = model.text(learner(), learner.eot)
    order = (regions @ torch.nn.functional.normalize(text, dim=-1).T).argsort(descending=True)
    for label in range(4):
        for k in (1, 3):
            caplog.clear()
            call(
                visualize,
                "--root",
                f"{world}/data",
                "--model-dir",
                trained,
                "--image",
                image,
                "--label",
                label,
                "--topk",
                k,
            )
            extracted = sum(label not in row[:k] for row in order.tolist())
            assert f"{extracted} of 16 regions" in caplog.text


class Shared(ClassFolders):
    """The folder of class 0 has class 1's name; classes 2 and 3 share theirs."""

    class_folders = ("bow", "ribbon", "n1", "n2")
    classnames = ("ribbon bow", "bow", "missile", "Missile")

    def __init__(self):
        pass


def test_a_folder_means_its_own_class_and_a_shared_name_is_refused():
    known = visualize.class_keys(Shared())
    images = [Path(f"/{folder}/a.png") for folder in ("bow", "ribbon_bow", "n2", "fox")]
    assert visualize.find_labels([], images, known) == [0, 0, 3, None]
    assert visualize.find_labels(["ribbon bow", "ribbon", "N1", "3"], images, known) == [0, 1, 2, 3]
    for name, classes in (("bow", "0 and 1"), ("missile", "2 and 3"), ("MISSILE", "2 and 3")):
        with pytest.raises(
            InputError, match=f"'{name}' names the classes {classes}: give the index"
        ):
            visualize.find_label(name, known)
    with pytest.raises(InputError, match="2 and 3"):
        visualize.find_labels([], [Path("/missile/a.png")], known)


def test_a_map_needs_class_names_and_no_data_set(world, trained, call, tmp_path):
    image = world / "data/pets/val/crane/1.jpg"
    call(
        visualize,
        "--root",
        f"{world}/nowhere",
        "--model-dir",
        trained,
        "--image",
        image,
        "--label",
        "crane",
        "--topk",
        "1",
        "--output-dir",
        tmp_path,
        "DATASET.CLASSES",
        "cat,crane",
    )
    assert (tmp_path / "visualization/crane_1_class1_k1.png").exists()


def test_a_map_of_an_untrained_context_stays_out_of_runs(world, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(visualize, *flags(world), "--image", world / "data/pets/val/cat/0.jpg")
    (folder,) = tmp_path.glob("output/**/visualization")
    assert not any("shots" in part for part in folder.parts)


def test_masks_are_compared_with_all_test_images(world, trained, call, tmp_path):
    for path in (world / "data/pets/val").rglob("*.jpg"):
        mask = tmp_path / path.parent.name / f"{path.stem}.png"
        mask.parent.mkdir(exist_ok=True)
        Image.new("L", (80, 72), 255 if path.parent.name == "cat" else 0).save(mask)
    call(visualize, "--root", f"{world}/data", "--model-dir", trained, "--masks", tmp_path)
    figures = json.loads((trained / "visualization/regions_k2.json").read_text(encoding="utf-8"))
    assert figures["images"] == 12 and figures["background"] == 0.75


def test_a_sheet_of_images_with_outlines_as_pdf(world, trained, call, tmp_path, caplog):
    """Labels are those of the folders; an image without a mask has no outline."""
    caplog.set_level("INFO")
    Image.new("L", (80, 72), 255).save(tmp_path / "0.png")
    (tmp_path / "cat").mkdir()
    (tmp_path / "0.png").rename(tmp_path / "cat/0.png")
    (tmp_path / "unknown").mkdir()
    shutil.copy(world / "data/pets/val/crane/1.jpg", tmp_path / "unknown")
    images = [f"{world}/data/pets/val/{name}" for name in ("cat/0.jpg", "crane")]
    images.append(f"{tmp_path}/unknown/1.jpg")
    flags = ["--root", f"{world}/data", "--model-dir", trained, "--output-dir", tmp_path]
    named = [word for image in images for word in ("--image", image)]
    call(visualize, *flags, *named, "--masks", tmp_path, "--format", "pdf")
    assert (tmp_path / "visualization/cat_0_and_4_more_k2.pdf").read_bytes()[:4] == b"%PDF"
    assert caplog.text.count("label: cat   |") == 1 and caplog.text.count("label: crane   |") == 3
    assert caplog.text.count("(predicted)") == 1


def test_masks_that_are_not_there_are_warned_of(world, trained, call, tmp_path, caplog):
    image = world / "data/pets/val/cat/0.jpg"
    flags = ["--root", f"{world}/data", "--model-dir", trained, "--output-dir", tmp_path]
    call(visualize, *flags, "--image", image, "--masks", tmp_path / "typo")
    assert "typo has none of these images: no outline is drawn" in caplog.text
    assert list(tmp_path.glob("visualization/*.png"))


@pytest.mark.parametrize(
    "extra, words",
    [
        (["--label", "teapott"], "Did you mean 'tea pot'"),
        (["--label", "fox"], "Known: cat, crane, golden retriever, tea pot."),
        (["--label", "9"], "index from 0 to 3"),
        (["--label", "0", "--image", "nowhere.jpg"], "nowhere.jpg"),
        (["--label", "0", "--topk", "9"], "between 1 and the number of classes"),
        (["--label", "0", "--label", "1"], "2 --label for 1 images: give one for all"),
        (["--image", "{world}/data"] * 2, "--image names 77 images; a figure shows 1 to 40"),
    ],
)
def test_bad_drawing_input_is_told_in_a_sentence(world, trained, told, extra, words):
    image = world / "data/pets/val/cat/0.jpg"
    extra = [word.format(world=world) for word in extra]
    assert words in told(
        visualize, "--root", f"{world}/data", "--model-dir", trained, "--image", image, *extra
    )
