"""Decide whether images are ID or OOD: python detect.py --model-dir DIR IMAGE_OR_FOLDER...

DIR is a run that eval_ood.py has evaluated. Zero-shot, without any run:
    python detect.py --classes "cat,dog,tractor" photo.jpg
This has no threshold, and gives no verdict, before --calibrate FOLDER_OF_IMAGES_OF_THESE_CLASSES.
On webdataset shards, with a Parquet file for each, on one machine or many (docs/scale.md):
    python detect.py --model-dir DIR --shards 'web/{00000..09999}.tar' --out FOLDER --engine ray

Each line of output has image, class, the class's probability (among the classes), score and
verdict. Exit status: 1 for an error, and if an image or a whole shard could not be read (the others
are still scored); unreadable images inside shards are only counted in the summary. 2 for a flag
that does not exist, or a value of the wrong type.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

from dassl.command import run
from dassl.engine import build_trainer
from dassl.utils import InputError, progress_bar
from dassl.utils.errors import require_installed
from dassl.utils.files import file_name
from datasets.classnames import read_names
from datasets.folders import absolute, images_of, is_image
from datasets.needs import names_known
from detector import Detector
from detector.calibration import TPR, check_tpr
from detector.export import GRAPH, check_export, export
from detector.of_trainer import detector_of
from detector.spec import FILE, refuse_fitted
from detector.verdicts import VerdictFile
from detector.zero_shot import score_for_words
from ood.scores import SCORES
from ood.scoring import get_scores
from ood.words import BUNDLED
from run.config import build_cfg
from run.demo import PORT, serve
from run.flags import make_parser
from run.folder import held_out_record, read_config
from run.negatives import add_words
from run.settings import require_clip_trainer
from run.shards import FLAGS as SHARD_FLAGS
from run.shards import check_shard_flags, detect_shards, note

MODEL_FLAGS = ("activation", "negatives", "outliers")  # read only where a model is built
FLAGS = {  # flag, and the placeholder of its value where the help shows one
    "classes": "zero-shot: class names separated by commas, or a .txt file with one per line; each "
    "replaces the {} in --template (default: a photo of a {}.)",
    "activation": "quick_gelu or gelu, for a --backbone file that does not state its own "
    "(default: the file's)",
    "score": f"one of {', '.join(SCORES)} (default: the score of the method's paper: GL-MCM for "
    "LoCoOp and its variants, FA-MCM for FA, ATD for CLIPN, ZOC for ZOC, else MCM; NegLabel with "
    "--negatives, EOE with --outliers)",
    "negatives DIR": "words that are not classes, for NegLabel, with --classes or a run that was "
    f"not evaluated: a folder of word lists, or {BUNDLED} (default: none)",
    "outliers FILE": ".txt file of outlier names, one per line, for EOE; with --classes or a run "
    "that was not evaluated (default: none)",
    "calibrate FOLDER": "images of the classes, not trained on, to compute the threshold from "
    "(default: none)",
    "save DIR": "folder to save the calibrated detector in, for --model-dir (default: none)",
    "export DIR": "folder to write the detector to as ONNX, with a program that needs no PyTorch "
    "(default: none)",
    "csv FILE": "file to write the verdicts to (default: none)",
    "regions FOLDER": "folder to draw a region map of every image in (default: none)",
}


def main() -> None:
    args = parse_args()
    detector = find_detector(args)
    if args.tpr is not None and not args.calibrate and detector.threshold is None:
        raise InputError(
            f"--tpr {args.tpr:g} has no effect without ID scores to keep a share of: add "
            "--calibrate FOLDER_OF_ID_IMAGES, or leave it out"
        )
    if args.export:
        check_export(detector.spec, args.export)  # before hours of calibration
    if args.demo:
        require_installed("--demo", "demo", "gradio")
    if args.exif:
        detector = Detector(replace(detector.spec, exif=True), detector.model.clip)
    if args.calibrate:
        warn_if_trained_on(args)
        images = progress_bar(images_of([args.calibrate]), "calibrating", "image")
        tpr = TPR if args.tpr is None else args.tpr
        detector = detector.calibrate(images, tpr, absolute(args.calibrate))
    if args.save:
        note(f"saved: {detector.save(args.save)}")
    if args.export:
        note(f"exported: {export(detector, args.export)}")
    failed = print_verdicts(detector, args) if args.images else 0
    note(describe_threshold(detector, args))
    if args.demo:
        serve(detector, args.port)
    if args.shards:
        failed = detect_shards(detector, args.shards, args.out, args.engine, args.address)
    if failed:
        sys.exit(1)


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, pairs=False)
    add_flags(parser)
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_intermixed_args(sys.argv[1:end])
    args.images += sys.argv[end + 1 :]
    if not (args.images or args.calibrate or args.shards or args.export or args.demo):
        raise InputError("no images: name files or folders, --shards TARS or --calibrate FOLDER")
    check_shard_flags(args)
    if bool(args.classes) == bool(args.model_dir):
        raise InputError('give either --model-dir DIR, an evaluated run, or --classes "cat,dog"')
    if args.save and not args.calibrate:
        raise InputError("--save saves a calibration: add --calibrate FOLDER_OF_ID_IMAGES")
    if args.score:
        refuse_fitted(args.score)
        get_scores(args.score)
    if args.tpr is not None:
        check_tpr(args.tpr)
    check_paths(args)
    return args


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that only detect.py has."""
    add = parser.add_argument
    text = "image files, and folders of images; names that begin with a dash follow --"
    add("images", nargs="*", metavar="IMAGE_OR_FOLDER", help=text)
    for declaration, text in (FLAGS | SHARD_FLAGS).items():
        flag, _, metavar = declaration.partition(" ")
        add(f"--{flag}", default="", metavar=metavar or None, help=text)
    add("--demo", action="store_true", help="serve a web page to drop images on (scripts/demo.sh)")
    add("--port", type=int, default=PORT, help="port of that page (default: %(default)s)")
    add("--tpr", type=float, help=f"share of ID images to keep (default: the run's, else {TPR:g})")
    add(
        "--exif",
        action="store_true",
        help="rotate photographs by their EXIF orientation, as viewers do (default: no, as in the "
        "benchmarks; a saved detector remembers it)",
    )


def check_paths(args: argparse.Namespace) -> None:
    """Raise InputError for missing images, and for outputs that would mix with the images."""
    calibration = [args.calibrate] if args.calibrate else []
    for path in (*args.images, *calibration):
        if not os.path.exists(path):
            raise InputError(f"{path}: there is no such file or folder ({absolute(path)})")
        real = os.path.realpath(path)
        if args.regions and Path(os.path.realpath(args.regions)).is_relative_to(real):
            raise InputError(
                f"--regions {args.regions} lies in {path}: the next call would take the maps for "
                "images. Name a folder outside of it"
            )
    for paths in (args.images, calibration):
        if paths and next(images_of(paths), None) is None:
            raise InputError(
                f"no images in {', '.join(paths)}: name image files, or folders that hold some"
            )
    check_outputs(args, [path for path in (*args.images, *calibration) if os.path.isfile(path)])


def check_outputs(args: argparse.Namespace, images: Sequence[str]) -> None:
    """Raise InputError if an output would replace one of the `images`, or another output."""
    for path in images:
        if os.path.exists(args.csv) and os.path.samefile(args.csv, path):
            raise InputError(
                f"--csv {args.csv} is the image {path} and would replace it: name a .csv file"
            )
    if args.csv and (is_image(args.csv) or is_image(os.path.realpath(args.csv))):
        raise InputError(
            f"--csv {args.csv} has the name of an image, or is a link to one: name a .csv file"
        )
    for flag, folder in (("save", args.save), ("regions", args.regions)):
        if os.path.isfile(folder):
            raise InputError(f"--{flag} {folder} is a file: name a new folder")
    folders = [folder for folder in (args.save, args.export, args.regions) if folder]
    if len(set(map(os.path.realpath, folders))) < len(folders):
        raise InputError(f"two of the outputs {', '.join(folders)} are one folder: name another")
    if args.save and Path(args.save, GRAPH).exists():
        raise InputError(
            f"--save {args.save} holds an exported detector, whose {FILE} would be replaced: name "
            "a new folder"
        )


def find_detector(args: argparse.Namespace) -> Detector:
    """Return the detector of class names, of an evaluated run, or of an unevaluated one."""
    if args.classes:
        refuse_unused_flags(args, "--classes", ("template", *MODEL_FLAGS))
        flags = ("backbone", "template", "score", *MODEL_FLAGS)
        options = {flag: value for flag in flags if (value := getattr(args, flag))}
        return Detector.zero_shot(read_names(args.classes), **options)
    if not Path(args.model_dir, FILE).exists():
        return unevaluated(args)
    refuse_unused_flags(args, f"the detector saved as {Path(args.model_dir, FILE)}")
    return Detector.load(args.model_dir, args.score, args.tpr, backbone=args.backbone)


def refuse_unused_flags(args: argparse.Namespace, source: str, used: tuple[str, ...] = ()) -> None:
    """Raise InputError for a trainer's flag that a detector from `source` does not use."""
    unset = {**vars(make_parser("", pairs=False).parse_args([])), **dict.fromkeys(MODEL_FLAGS, "")}
    for flag, default in sorted(unset.items()):
        if flag not in ("backbone", "model_dir", *used) and getattr(args, flag) != default:
            name = f"--{flag.replace('_', '-')}"
            raise InputError(f"{name} has no effect with {source}: leave it out")


def unevaluated(args: argparse.Namespace) -> Detector:
    """Return the uncalibrated detector of an unevaluated run or a published checkpoint.

    No image of the ID set is read, and none is needed where the class names are known.
    """
    keys = ("MODEL.BACKBONE.ACTIVATION", "EVAL.NEGATIVES", "EVAL.OUTLIERS")
    settings = zip(keys, (getattr(args, flag) for flag in MODEL_FLAGS), strict=True)
    args.opts = [(key, value) for key, value in settings if value]
    cfg = build_cfg(args)
    require_clip_trainer(cfg)
    trainer = build_trainer(cfg, images=not names_known(cfg))
    trainer.load_model(args.model_dir, args.load_epoch)
    score = args.score or score_for_words(args.negatives, args.outliers)
    add_words(trainer, score or trainer.SCORE)
    return detector_of(trainer, score)


def warn_if_trained_on(args: argparse.Namespace) -> None:
    """Warn if the run was trained on calibration images, which makes the threshold too high."""
    if config := read_config(args.model_dir):
        root = config.get("DATASET", {}).get("ROOT", "")
        images = [os.path.relpath(path, root) for path in images_of([args.calibrate])]
        held_out_record(args.model_dir, images, root, args.calibrate)


def print_verdicts(detector: Detector, args: argparse.Namespace) -> int:
    """Print and write the verdict on every image, and return the number of unreadable images."""
    counts: Counter[str] = Counter()
    images = progress_bar(images_of(args.images), "detecting", "image")
    with VerdictFile(args.csv) if args.csv else nullcontext() as file:
        for number, verdict in enumerate(detector.verdicts(images)):
            progress_bar.write(str(verdict), file=sys.stdout)
            if file:
                file.write(verdict)
            if args.regions and not verdict.error:
                name = f"{number:06d}_{file_name(Path(verdict.image).stem)}.png"
                detector.save_regions(verdict.image, Path(args.regions, name), verdict)
            counts["unreadable" if verdict.error else verdict.verdict or "without a verdict"] += 1
    note(", ".join(f"{count:,} {outcome}" for outcome, count in counts.items()))
    return counts["unreadable"]


def describe_threshold(detector: Detector, args: argparse.Namespace) -> str:
    """Return a sentence on the threshold, or on how to get one."""
    if detector.threshold is not None:
        return f"ID at {detector.spec.score} >= {detector.threshold}"
    evaluate = f", or evaluate the run: eval_ood.py --model-dir {args.model_dir}"
    return (
        f"No verdict: {detector.spec.score} has no threshold yet. Add --calibrate FOLDER with "
        "images of these classes, not trained on (--save DIR keeps the result)"
        + ("" if args.classes else evaluate)
    )


if __name__ == "__main__":
    run(main)
