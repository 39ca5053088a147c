"""Verdicts on images, ID or OOD: python detect.py --model-dir DIR IMAGE_OR_FOLDER...

DIR is a run that eval_ood.py has evaluated. Without any training or config:
    python detect.py --classes "cat,dog,tractor" photo.jpg
which has no threshold, and so no verdict, before --calibrate FOLDER_OF_IMAGES_OF_THESE_CLASSES.
On webdataset shards, a Parquet file for each, on one machine or many (docs/scale.md):
    python detect.py --model-dir DIR --shards 'web/{00000..09999}.tar' --out FOLDER --engine ray

Printed: image, class, the class's probability (among the classes), score, verdict. Exit status 1
if an image, or a whole shard, could not be read (the others are done all the same), 2 for wrong
flags.
"""

import argparse
import os
import sys
from collections import Counter
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
from detector.export import check_export, export
from detector.of_trainer import detector_of
from detector.spec import FILE, refuse_fitted
from detector.verdicts import VerdictFile
from detector.zero_shot import usual_score
from ood.scores import SCORES
from ood.scoring import get_scores
from ood.words import BUNDLED
from run.config import build_cfg
from run.demo import PORT, serve
from run.flags import make_parser
from run.folder import held_out_record, read_config
from run.negatives import add_words
from run.shards import FLAGS as SHARD_FLAGS
from run.shards import check_shard_flags, detect_shards, note

OWN_FLAGS = ("activation", "negatives", "outliers")  # of this entry point, for a model to build
FLAGS = {  # with what they take, where help should name it
    "classes": "zero-shot: class names separated by commas, or a .txt file with one a line; in "
    "--template (default: a photo of a {}.) they take the place of {}",
    "activation": "quick_gelu or gelu, for a --backbone file that does not say",
    "score": f"one of {', '.join(SCORES)} (default: the one the method's paper stands for: GL-MCM "
    "for LoCoOp and its kin, FA-MCM for FA, ATD for CLIPN, ZOC for ZOC, else MCM; with --negatives "
    "NegLabel, with --outliers EOE)",
    "negatives DIR": "with --classes or a run that was not evaluated: words that are not classes, "
    f"for NegLabel: a folder of lists, or {BUNDLED} (default: none)",
    "outliers FILE": "the same, for EOE: a .txt file, a name a line (default: none)",
    "calibrate FOLDER": "images of the classes, not trained on, to find a threshold with",
    "save DIR": "keep the calibrated detector, for --model-dir",
    "export DIR": "write it there as ONNX, with a program that needs no PyTorch",
    "csv FILE": "write the verdicts there",
    "regions FOLDER": "draw the region map of every image there",
}


def main() -> None:
    args = parse_args()
    detector = find_detector(args)
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
    args = parser.parse_intermixed_args()
    if not (args.images or args.calibrate or args.shards or args.export or args.demo):
        raise InputError("which images? Name files or folders, --shards or --calibrate FOLDER")
    check_shard_flags(args)
    if bool(args.classes) == bool(args.model_dir):
        raise InputError('give either --model-dir DIR, an evaluated run, or --classes "cat,dog"')
    if args.save and not args.calibrate:
        raise InputError("--save keeps a calibration: add --calibrate FOLDER_OF_ID_IMAGES")
    if args.score:
        refuse_fitted(args.score)
        get_scores(args.score)
    if args.tpr is not None:
        check_tpr(args.tpr)
    check_paths(args)
    return args


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of detect.py alone."""
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE_OR_FOLDER", help="images, and folders with all below")
    for named, text in (FLAGS | SHARD_FLAGS).items():
        flag, _, metavar = named.partition(" ")
        add(f"--{flag}", default="", metavar=metavar or None, help=text)
    add("--demo", action="store_true", help="show a page to drop images on, as scripts/demo.sh")
    add("--port", type=int, default=PORT, help="of that page (default: %(default)s)")
    add("--tpr", type=float, help=f"share of ID images to keep (default: the run's, else {TPR:g})")
    add(
        "--exif",
        action="store_true",
        help="turn photographs as their EXIF orientation says, as a person sees them "
        "(default: no, as in the benchmarks; a detector saved with it keeps it)",
    )


def check_paths(args: argparse.Namespace) -> None:
    """Raise InputError for images that are not there, and for outputs in the place of images."""
    calibration = [args.calibrate] if args.calibrate else []
    for path in (*args.images, *calibration):
        if not os.path.exists(path):
            raise InputError(f"{path}: there is no such file or folder ({absolute(path)})")
        if args.regions and Path(absolute(args.regions)).is_relative_to(absolute(path)):
            raise InputError(
                f"--regions {args.regions} lies in {path}: next time the maps would be "
                "taken for images there. Name a folder outside of it"
            )
    for paths in (args.images, calibration):
        if paths and next(images_of(paths), None) is None:
            raise InputError(
                f"{', '.join(paths)}: no images there: name image files, or folders that hold some"
            )
    if is_image(args.csv):
        raise InputError(
            f"{args.csv} is an image's name, the verdicts would replace it: name a .csv file"
        )


def find_detector(args: argparse.Namespace) -> Detector:
    """Return the one an evaluation saved, one of class names, or one of an unevaluated run."""
    if args.classes:
        refuse_idle_flags(args, "--classes", ("template", *OWN_FLAGS))
        read = ("backbone", "template", "score", *OWN_FLAGS)
        given = {flag: value for flag in read if (value := getattr(args, flag))}
        return Detector.zero_shot(read_names(args.classes), **given)
    if not Path(args.model_dir, FILE).exists():
        return uncalibrated(args)
    refuse_idle_flags(args, f"the detector saved as {Path(args.model_dir, FILE)}")
    return Detector.load(args.model_dir, args.score, args.tpr, backbone=args.backbone)


def refuse_idle_flags(args: argparse.Namespace, what: str, read: tuple[str, ...] = ()) -> None:
    """Raise InputError for a flag of trainers that `what` does not read: no trainer is built."""
    unset = {**vars(make_parser("", pairs=False).parse_args([])), **dict.fromkeys(OWN_FLAGS, "")}
    for flag, no in sorted(unset.items()):
        if flag not in ("backbone", "model_dir", *read) and getattr(args, flag) != no:
            raise InputError(f"--{flag.replace('_', '-')} has no effect with {what}: leave it out")


def uncalibrated(args: argparse.Namespace) -> Detector:
    """Return the model of a run, or of a published checkpoint, without an evaluation.

    No image of the ID set is read, and none need be there where the class names are known.
    """
    keys = ("MODEL.BACKBONE.ACTIVATION", "EVAL.NEGATIVES", "EVAL.OUTLIERS")
    given = zip(keys, (getattr(args, flag) for flag in OWN_FLAGS), strict=True)
    args.opts = [word for key, value in given if value for word in (key, value)]
    cfg = build_cfg(args)
    trainer = build_trainer(cfg, images=not names_known(cfg))
    trainer.load_model(args.model_dir, args.load_epoch)
    score = args.score or usual_score(args.negatives, args.outliers)
    add_words(cfg, trainer, score or trainer.SCORE)
    return detector_of(trainer, score)


def warn_if_trained_on(args: argparse.Namespace) -> None:
    """Warn of calibration images that the run was trained on: the threshold is too high."""
    config = read_config(args.model_dir) if args.model_dir else None
    if config:
        root = config.get("DATASET", {}).get("ROOT", "")
        images = [os.path.relpath(path, root) for path in images_of([args.calibrate])]
        held_out_record(args.model_dir, images, root, args.calibrate)


def print_verdicts(detector: Detector, args: argparse.Namespace) -> int:
    """Print and write the verdict on every image, and return how many could not be read."""
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
    note(", ".join(f"{count:,} {kind}" for kind, count in counts.items()))
    return counts["unreadable"]


def describe_threshold(detector: Detector, args: argparse.Namespace) -> str:
    """Say what the verdicts rest on, or how to come by a threshold."""
    if detector.threshold is not None:
        return f"ID at {detector.spec.score} >= {detector.threshold}"
    evaluate = f"; or evaluate the run: eval_ood.py --model-dir {args.model_dir}"
    return (
        f"No verdict: {detector.spec.score} has no threshold yet. Find one on images of these "
        "classes, not trained on: --calibrate FOLDER (--save DIR keeps it)"
        + ("" if args.classes else evaluate)
    )


if __name__ == "__main__":
    run(main)
