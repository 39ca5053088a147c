"""A stranger's own folders, by flags alone: train, evaluate, and verdicts on any image."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import detect
import eval_ood
from clip.prompted import DescribedCLIP
from dassl import command
from dassl.utils.errors import BadImageError, InputError
from detector import Detector
from detector.detector import BATCH
from detector.verdicts import Verdict, VerdictFile
from results.files import read_scores
from run import flags
from tests.worlds import images, script

pytestmark = pytest.mark.slow  # trains

ROOT = Path(__file__).parents[1]
CLASSES = ("cat", "golden_retriever", "tea pot")
UNCHECKED = {"opts", "resume", "trains", "backbone", "model_dir"}
RUN = "output/photos/LoCoOp/tiny_vit_ep2_2shots/nctx16_cscFalse_ctpend/seed1"


@pytest.fixture(scope="module")
def place(tmp_path_factory, clip_file, forked):
    """Plain class folders, an OOD folder, and a run on them: no file was edited."""
    folder, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    for name in CLASSES:
        images(folder / "photos" / name, 20, rng, ".png")
    images(folder / "odd", 7, rng, ".png")
    images(folder / "odd/deeper", 2, rng, ".png")
    done = script(
        folder,
        "train.sh",
        "--trainer",
        "LoCoOp",
        "--id-data",
        "photos",
        "--backbone",
        clip_file("tiny-vit"),
        "--shots",
        2,
        "OPTIM.MAX_EPOCH",
        2,
        "DATALOADER.NUM_WORKERS",
        0,
    )
    assert "12 of its 60 images are held out" in done.stdout
    assert "K = 1 of 3 classes: preset" in done.stdout
    said = forked.run("eval_ood", "--model-dir", RUN, "--ood-data", "odd", folder=folder)
    assert "Detector: ID at GL-MCM >= " in said and "too few to promise 95 %" in said
    assert "Verdicts on any image: bash scripts/detect.sh --model-dir " in said
    return folder


@pytest.fixture
def call(monkeypatch, place):
    def run(module, *arguments) -> None:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        command.run(module.main)

    return run


@pytest.fixture
def told(call):
    def run(module, *arguments) -> str:
        with pytest.raises(SystemExit) as exit_:
            call(module, *arguments)
        assert isinstance(exit_.value.code, str) and exit_.value.code.startswith("error: ")
        return exit_.value.code

    return run


@pytest.fixture(scope="module")
def loaded(place):
    return Detector.load(place / RUN)


def test_the_held_out_part_is_recorded_and_not_trained_on(place):
    split = json.loads((place / RUN / "split.json").read_text(encoding="utf-8"))
    assert len(split["train"]) == 6 and len(split["held_out"]) == 12
    assert not {row[0] for row in split["train"]} & {row[0] for row in split["held_out"]}
    assert split["held_out"][0][0].startswith("photos/cat/")
    evaluated = read_scores(place / RUN / "scores/ID.csv").images
    assert sorted(evaluated) == sorted(row[0] for row in split["held_out"])
    described = json.loads((place / RUN / "detector.json").read_text(encoding="utf-8"))
    assert described["origin"]["calibration"]["trained_on"] == 0


@pytest.mark.parametrize("name", ["ID", "odd"])
def test_scores_are_those_of_the_evaluation(place, name):
    """Every score of every image, alone and as evaluated."""
    recorded = read_scores(place / RUN / f"scores/{name}.csv")
    paths = [place / image for image in recorded.images]
    for score, values in recorded.scores.items():
        verdicts = Detector.load(place / RUN, score)(paths)
        np.testing.assert_allclose([v.score for v in verdicts], values, rtol=1e-5, atol=1e-6)
        assert [v.label for v in verdicts] == recorded.predictions.tolist()
        limit = verdicts[0].threshold
        assert all(v.verdict == ("ID" if v.score >= limit else "OOD") for v in verdicts)
        if name == "ID":
            assert limit == pytest.approx(values.min(), abs=1e-6)  # 12 images: all are kept


def test_scores_of_clipn_too(place, call, clipn_file, tmp_path):
    backbone = ["--backbone", clipn_file(11), "MODEL.BACKBONE.ACTIVATION", "gelu"]
    call(
        eval_ood,
        "--trainer",
        "CLIPN",
        "--id-data",
        "photos",
        "--ood-data",
        "odd",
        "--config",
        "tiny",
        "--scores",
        "MCM,CTW,ATD,ODIN,GradNorm",
        "--T",
        0.5,
        "--tpr",
        0.8,
        "--output-dir",
        tmp_path,
        "--template",
        "a photo of a {}.",
        *backbone,
        "DATALOADER.NUM_WORKERS",
        0,
    )
    recorded = read_scores(tmp_path / "scores/odd.csv")
    for score, values in recorded.scores.items():
        detector = Detector.load(tmp_path, score)
        verdicts = detector(place / path for path in recorded.images)
        np.testing.assert_allclose([v.score for v in verdicts], values, rtol=1e-4, atol=1e-5)
        for name, said in (("CTW", [v.ctw for v in verdicts]), ("ATD", [v.atd for v in verdicts])):
            assert said == ["OOD" if x else "ID" for x in recorded.rejected[name]]
        assert f"CTW {verdicts[0].ctw}, ATD {verdicts[0].atd}" in str(verdicts[0])
        assert detector.threshold.required == 11  # ceil(0.8 * 13)
    assert Detector.load(tmp_path).score == "ATD"


def test_any_kind_of_image_and_one_or_many(place, loaded):
    path = place / "odd/0.png"
    image = Image.open(path)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    ready = loaded.preprocess(path)
    expected = loaded(path)
    assert isinstance(expected, Verdict) and expected.image == str(path)
    assert not expected.ctw and "threshold" not in str(expected)  # only a CLIPN decides without
    for kind in (str(path), image, image.convert("RGBA"), pixels, ready):
        found = loaded(kind)
        assert found.score == pytest.approx(expected.score, abs=1e-6)
        assert (found.label, found.verdict) == (expected.label, expected.verdict)
    assert len(loaded([path])) == 1 and len(loaded(torch.stack([ready, ready]))) == 2
    assert loaded([]) == []
    with open(path, "rb") as file:
        assert loaded(file).score == loaded([path])[0].score


def test_what_is_no_image_is_refused(place, loaded, caplog):
    size, path = loaded.spec.preprocess.size, place / "odd/0.png"
    for wrong, message in (
        (torch.zeros(2, 8, 8), r"is \[3, H, W\], got \[2, 8, 8\]"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), r"got \[3, 0, 8\]"),
        (torch.zeros(3, 8, 8), r"is the model's input, .* not \[3, 8, 8\]"),
        (torch.full((3, *size), 255.0), "no pixels give values from 255 to 255"),
        (torch.full((3, *size), torch.nan), "this one holds NaN"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "uint8, got torch.int64"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), "uint8, got torch.bool"),
        ([np.zeros((8, 8, 3), np.uint8)], "not ndarray.*PIL.Image.fromarray"),
        ([path.read_bytes()], "not bytes"),
        (Image.new("F", (9, 9)), "mode F"),
        (Image.new("RGB", (1, 300)), "200 times"),
    ):
        with pytest.raises(InputError, match=message):
            loaded(wrong)
    assert not caplog.records
    loaded(torch.rand(3, *size))
    assert "only values in [0, 1], as one that is not normalised" in caplog.text


def test_one_lazy_image_is_read_by_all_threads_and_a_bad_one_stops_nothing(place, loaded):
    path = place / "odd/0.png"
    verdicts = loaded([Image.open(path)] * 32)
    assert {v.score for v in verdicts} == {loaded([path] * 32)[0].score}
    bad = [Image.new("F", (9, 9)), Image.new("RGB", (1, 300)), path]
    assert [bool(v.error) for v in loaded.verdicts(bad)] == [True, True, False]


def test_probability_and_cosine_are_those_of_the_class(place, loaded):
    with torch.no_grad():
        pixels = loaded.preprocess(place / "odd/0.png")[None]
        cosines = loaded.model.image_features(pixels, False)[0] @ loaded.model.text_features().T
    verdict = loaded(place / "odd/0.png")
    assert verdict.label == cosines.argmax()
    assert verdict.classname == loaded.spec.classnames[verdict.label]
    assert verdict.cosine == pytest.approx(float(cosines.max()), abs=1e-6)
    p = (loaded.model.scale * cosines).softmax(-1).max()
    assert verdict.probability == pytest.approx(float(p), abs=1e-5)


def test_endless_images_are_read_two_batches_ahead_at_most(place, loaded):
    asked = itertools.count()

    def endless():
        while True:
            next(asked)
            yield place / "odd/0.png"

    assert len(list(itertools.islice(loaded.verdicts(endless()), BATCH + 1))) == BATCH + 1
    assert next(asked) <= 4 * BATCH


@pytest.mark.parametrize("score, regions", [("MCM", False), ("GL-MCM", True)])
def test_only_the_score_chosen_is_computed(place, monkeypatch, score, regions):
    asked = []
    encode, infer = DescribedCLIP.image_features, DescribedCLIP.inputs

    def image_features(self, images, local):
        asked.append(local)
        return encode(self, images, local)

    def inputs(self, features, found, classes, needs, images):
        asked.append(set(needs))
        return infer(self, features, found, classes, needs, images)

    monkeypatch.setattr(DescribedCLIP, "image_features", image_features)
    monkeypatch.setattr(DescribedCLIP, "inputs", inputs)
    Detector.load(place / RUN, score)(place / "odd/0.png")
    assert asked == [regions, {"cosines", "local_cosines"} if regions else {"cosines"}]


def test_other_shares_need_no_other_evaluation(place, loaded):
    values = read_scores(place / RUN / "scores/ID.csv").scores["GL-MCM"]
    half = Detector.load(place / RUN, tpr=0.5).threshold
    assert half.value == pytest.approx(np.sort(values)[-7], abs=1e-6)  # ceil(0.5 * 13) = 7
    assert half.value > loaded.threshold.value


def test_a_folder_with_a_broken_image_by_the_script(place, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(place / "odd", mixed)
    (mixed / "1.png").write_bytes((mixed / "1.png").read_bytes()[:60])
    (mixed / "notes.txt").write_text("no image", encoding="utf-8")
    done = script(
        place,
        "detect.sh",
        mixed,
        "--model-dir",
        RUN,
        "--csv",
        tmp_path / "v.csv",
        "--regions",
        tmp_path / "maps",
        place / "photos/cat/0.png",
        check=False,
    )
    assert done.returncode == 1 and "1 unreadable" in done.stderr and "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 10 and sum("unreadable" in line for line in lines) == 1
    assert all(line.split("\t")[-1] in ("ID", "OOD") for line in lines if "unreadable" not in line)
    with open(tmp_path / "v.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [line.split("\t")[0] for line in lines]
    assert "Cannot read" in rows[1]["error"] and rows[1]["score"] == ""
    assert f"{float(rows[0]['score']):.6g}" == lines[0].split("\t")[3]
    assert len(list((tmp_path / "maps").glob("*.png"))) == 9


def test_zero_shot_without_training_and_config(place, call, capsys, clip_file, tmp_path):
    flags = ["--classes", "cat, dog", "--backbone", clip_file("tiny-vit"), "--template", "one {}."]
    call(detect, *flags, "odd/0.png")
    out, err = capsys.readouterr()
    assert out.count("\t") == 3 and "No verdict: MCM has no threshold yet" in err
    assert "--calibrate FOLDER" in err
    call(
        detect,
        *flags,
        "--calibrate",
        "photos",
        "--save",
        tmp_path / "kept",
        "--tpr",
        0.9,
        "odd/0.png",
    )
    out, err = capsys.readouterr()
    assert out.rstrip().endswith(("ID", "OOD")) and "of 60 held-out ID images" in err
    call(detect, "--model-dir", tmp_path / "kept", "odd/0.png")
    assert capsys.readouterr().out == out
    call(detect, "--classes", "cat", "--backbone", clip_file("tiny-rn"), "odd/0.png")
    assert "MaxLogit" in capsys.readouterr().err  # a softmax over one class says nothing


def test_a_published_clipn_file_needs_no_training(place, call, capsys, clipn_file, tmp_path):
    """Class names are enough: the scores are those of an evaluation of the same file."""
    backbone = ["--backbone", clipn_file(11, "hand")]
    template = ["--template", "a photo of a {}."]
    call(
        eval_ood,
        "--trainer",
        "CLIPN",
        "--id-data",
        "photos",
        "--ood-data",
        "odd",
        "--config",
        "tiny",
        "--variant",
        "handcrafted",
        "--output-dir",
        tmp_path,
        *template,
        *backbone,
        "MODEL.BACKBONE.ACTIVATION",
        "gelu",
        "DATALOADER.NUM_WORKERS",
        0,
    )
    recorded = read_scores(tmp_path / "scores/odd.csv")
    names = ",".join(name.replace("_", " ") for name in CLASSES)
    capsys.readouterr()
    call(
        detect,
        "--classes",
        names,
        "--activation",
        "gelu",
        *template,
        *backbone,
        "--csv",
        tmp_path / "v.csv",
        *recorded.images,
    )
    assert "ATD has no threshold yet" in capsys.readouterr().err
    with open(tmp_path / "v.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [float(row["score"]) for row in rows]
    np.testing.assert_allclose(found, recorded.scores["ATD"], rtol=1e-4)
    assert [row["ctw"] == "OOD" for row in rows] == recorded.rejected["CTW"].tolist()


def test_a_published_context_on_a_file_that_does_not_say_its_activation(
    place, call, capsys, tmp_path, generated_weights
):
    path = tmp_path / "clip.pt"
    torch.save(generated_weights("tiny-vit"), path)
    shutil.copytree(place / RUN / "prompt_learner", tmp_path / "published/prompt_learner")
    call(
        detect,
        "--model-dir",
        tmp_path / "published",
        "--trainer",
        "LoCoOp",
        "--id-data",
        "photos",
        "--backbone",
        path,
        "--activation",
        "quick_gelu",
        "--score",
        "MCM",
        "odd/0.png",
    )
    expected = Detector.load(place / RUN, "MCM")(place / "odd/0.png").score
    assert float(capsys.readouterr().out.split("\t")[-1]) == pytest.approx(expected, abs=1e-5)


def test_a_published_context_needs_no_image_of_imagenet(place, call, capsys, clip_file, tmp_path):
    shutil.copytree(place / RUN / "prompt_learner", tmp_path / "published/prompt_learner")
    call(
        detect,
        "--model-dir",
        tmp_path / "published",
        "--trainer",
        "LoCoOp",
        "--dataset",
        "imagenet10",
        "--root",
        tmp_path / "nothing",
        "--backbone",
        clip_file("tiny-vit"),
        "odd/0.png",
    )
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("odd/0.png\t") and "--calibrate FOLDER" in err


@pytest.mark.parametrize(
    "flag", sorted({"activation", *vars(flags.make_parser("").parse_args([]))} - UNCHECKED)
)
def test_flags_without_effect_are_refused(place, call, flag):
    value = "1" if flag in ("shots", "seed", "load_epoch") else "x"
    words = ["--" + (flag if flag in flags.trainer_flags() else flag.replace("_", "-")), value]
    for model in (["--model-dir", RUN], ["--classes", "cat,dog"]):
        if model[0] == "--classes" and flag in ("template", "activation"):
            continue
        with pytest.raises(SystemExit, match="has no effect with"):
            call(detect, *model, *words, "odd/0.png")


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_run_is_exported(place, call, tmp_path, calibrated):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    shutil.copytree(place / RUN, tmp_path / "run")
    if not calibrated:
        (tmp_path / "run/detector.json").unlink()
    call(detect, "--model-dir", tmp_path / "run", "--score", "GL-MCM", "--export", tmp_path / "out")
    detector = Detector.load(place / RUN, "GL-MCM")
    pixels = detector.preprocess(place / "odd/0.png")[None].numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "out/detector.onnx"))
    (score,), (label,), _ = session.run(None, {"pixels": pixels})
    expected = detector(place / "odd/0.png")
    assert score == pytest.approx(expected.score, abs=1e-5) and label == expected.label
    facts = json.loads((tmp_path / "out/detector.json").read_text(encoding="utf-8"))
    assert facts["threshold"] == (expected.threshold if calibrated else None)
    with pytest.raises(SystemExit, match="name a new folder"):
        call(detect, "--model-dir", tmp_path / "run", "--export", tmp_path / "run")


def test_region_maps_do_not_become_images(place, call):
    with pytest.raises(SystemExit, match="lies in odd"):
        call(detect, "--model-dir", RUN, "odd", "--regions", "odd/maps")
    assert not (place / "odd/maps").exists()


def test_a_run_without_calibration_asks_for_id_images(place, call, capsys, caplog, tmp_path):
    shutil.copytree(place / RUN, tmp_path / "run")
    (tmp_path / "run/detector.json").unlink()
    call(detect, "--model-dir", tmp_path / "run", "--score", "MCM", "odd/0.png")
    out, err = capsys.readouterr()
    assert "MCM has no threshold yet" in err and "eval_ood.py --model-dir" in err
    expected = Detector.load(place / RUN, "MCM")(place / "odd/0.png").score
    assert out.splitlines()[-1].split("\t")[-1] == f"{expected:.6g}"
    call(detect, "--model-dir", tmp_path / "run", "--calibrate", "photos", "odd/0.png")
    assert capsys.readouterr().out.rstrip().endswith(("ID", "OOD"))
    assert "6 of the 60 ID images were trained on" in caplog.text  # 3 classes, 2 shots


def test_what_does_not_belong_together_is_refused(place, tmp_path, clip_file, generated_weights):
    def broken(change) -> str:
        copy = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(place / RUN, copy)
        content = json.loads((copy / "detector.json").read_text(encoding="utf-8"))
        change(copy, content)
        (copy / "detector.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(InputError) as error:
            Detector.load(copy)
        return str(error.value)

    other = tmp_path / "other.safetensors"
    save_file(generated_weights("tiny-vit", 7), other, {"activation": "quick_gelu"})
    tensors = place / RUN / "detector.safetensors"
    assert "is not the CLIP" in broken(lambda _, c: c["clip"].update(name=str(other)))
    assert "--backbone" in broken(lambda _, c: c["clip"].update(name="/nowhere/clip.pt"))
    assert "class names are not those" in broken(lambda _, c: c["classnames"].reverse())
    assert "schema 9" in broken(lambda _, c: c.update(schema=9))
    assert "damaged" in broken(lambda _, c: c.pop("transform"))
    assert "missing, damaged, or" in broken(
        lambda f, _: (f / tensors.name).write_bytes(tensors.read_bytes()[:-4])
    )
    assert "missing, damaged, or" in broken(lambda f, _: (f / tensors.name).unlink())
    with pytest.raises(InputError, match=r"has no score 'MCN'.*Did you mean 'MCM'"):
        Detector.load(place / RUN, "MCN")
    with pytest.raises(InputError, match=r"has no detector.json: run eval_ood.py"):
        Detector.load(tmp_path)
    with pytest.raises(BadImageError, match=r"nothing.png"):
        Detector.load(place / RUN)("nothing.png")


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["odd/0.png"], "either --model-dir DIR"),
        (["--model-dir", RUN], "no images: name files"),
        (["--model-dir", RUN, "nowhere.jpg"], "nowhere.jpg: there is no such file"),
        (["--model-dir", RUN, "--", "-dash.jpg"], "-dash.jpg: there is no such file"),
        (["--model-dir", RUN, "odd", "--score", "MCN"], "Did you mean 'MCM'"),
        (["--model-dir", RUN, "odd", "--tpr", "95"], "--tpr 95.0"),
        (["--model-dir", RUN, "odd", "--csv", "odd/0.png"], "has the name of an image"),
        (["--model-dir", RUN, "odd", "--save", "kept"], "add --calibrate"),
        (["--model-dir", RUN, f"{RUN}/prompt_learner"], "no images in output"),
        (["--classes", "cat", "--backbone", "VIT", "odd"], "Nearest name"),
    ],
)
def test_mistakes_are_told(told, arguments, says):
    assert says in told(detect, *arguments)


def test_ood_sets_must_be_named_somewhere(told, place):
    assert "--ood-data FOLDER" in told(eval_ood, "--model-dir", RUN)
    assert "--id-data nowhere" in told(eval_ood, "--id-data", "nowhere")


def test_a_failed_write_leaves_whole_rows(tmp_path):
    """A disk that fills up in the middle of a row."""
    row = Verdict("a.jpg", 0, "cat", 0.5, 0.2, 1.5, 1.0, "ID")
    with VerdictFile(tmp_path / "v.csv") as file:
        file.write(row)
        whole = (tmp_path / "v.csv").read_bytes()
        real = file._file

        class Full:
            def write(self, content):
                if real.tell() > len(whole):
                    raise OSError(28, "No space left on device")
                return real.write(content[:10])

            def __getattr__(self, name):
                return getattr(real, name)

        file._file = Full()
        with pytest.raises(InputError, match="No space left"):
            file.write(row)
    assert (tmp_path / "v.csv").read_bytes() == whole


def test_imports_are_light():
    def modules(statement: str) -> set[str]:
        code = f"import sys; {statement}; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
        )
        return set(done.stdout.split())

    assert not {"torch", "open_clip"} & modules("import ood")
    heavy = {"sklearn", "matplotlib", "tensorboard", "scipy", "pandas"}
    assert not heavy & modules("import detect")
