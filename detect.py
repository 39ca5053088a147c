"""Verdicts on images, ID or OOD: python detect.py --model-dir DIR IMAGE_OR_FOLDER...

DIR is a run that eval_ood.py has evaluated. Without any training or config:
    python detect.py --classes "cat,dog,tractor" photo.jpg
which has no threshold, and so no verdict, before --calibrate FOLDER_OF_IMAGES_OF_THESE_CLASSES.

Printed: image, class, the class's probability (among the classes), score, verdict. Exit status 1
if an image could not be read (the others are done all the same), 2 for wrong flags.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

from dassl.utils.startup import deferred

with deferred():
    import open_clip  # noqa: F401  (and torchvision, before anything else does)

from tqdm import tqdm

from dassl.utils.errors import InputError
from datasets.classnames import read_class_list
from datasets.folders import absolute, is_image, walk_images
from detector import Detector
from detector.calibration import TPR, check_tpr
from detector.detector_file import FILE
from detector.verdicts import open_verdict_files
from ood.scores import SCORES
from ood.scoring import get_scores
from run.command import run
from run.config import build_cfg
from run.flags import make_parser, trainer_flags
from run.folder import held_out_record, read_config

SHOW_PROGRESS_FROM = 100  # images
# Flags that only a run without a saved detector reads; and those of trainers.
IDLE = (
    "root",
    "trainer",
    "dataset",
    "dataset_config_file",
    "config",
    "config_file",
    "id_data",
    "ood_data",
    "shots",
    "seed",
    "output_dir",
    "load_epoch",
)
OF_CLASSES = ("template", "activation")  # flags that --classes reads
DEFAULT_BACKBONE, DEFAULT_TEMPLATE = "ViT-B/16", "a photo of a {}."


def main() -> None:
    args = parse_args()
    detector = find_detector(args)
    if args.calibrate:
        warn_if_trained_on(args)
        images = with_progress([args.calibrate], "calibrating")
        tpr = TPR if args.tpr is None else args.tpr
        detector = detector.calibrate(images, tpr, absolute(args.calibrate))
    if args.save:
        tell(f"saved: {detector.save(args.save)}")
    if args.images:
        unreadable = judge(detector, args)
        if unreadable:
            sys.exit(1)
    else:
        tell(about_threshold(detector, args))


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, pairs=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE_OR_FOLDER", help="images, and folders with all below")
    add(
        "--classes",
        default="",
        help="zero-shot: class names separated by commas, or a .txt file "
        f"with one a line; in --template ({DEFAULT_TEMPLATE}) they take the place of {{}}",
    )
    add(
        "--activation",
        default="",
        help="quick_gelu or gelu, for a --backbone file that does not say",
    )
    add(
        "--score",
        default="",
        help=f"one of {', '.join(SCORES)} (the one the method's paper "
        "stands for: GL-MCM for LoCoOp, ATD for CLIPN, else MCM)",
    )
    add(
        "--tpr",
        type=float,
        default=None,
        help=f"share of ID images to keep (that of the evaluation, {TPR:g})",
    )
    add(
        "--calibrate",
        default="",
        metavar="FOLDER",
        help="images of the classes, not trained on, to find the threshold with",
    )
    add("--save", default="", metavar="DIR", help="keep the calibrated detector, for --model-dir")
    add("--csv", default="", metavar="FILE", help="write the verdicts there")
    add("--jsonl", default="", metavar="FILE", help="the same as JSON lines")
    add("--regions", default="", metavar="FOLDER", help="draw the region map of every image there")
    args = parser.parse_intermixed_args()
    if not (args.images or args.calibrate):
        raise InputError("which images? Name files or folders, or --calibrate FOLDER")
    if bool(args.classes) == bool(args.model_dir):
        raise InputError('give either --model-dir DIR, an evaluated run, or --classes "cat,dog"')
    if args.save and not args.calibrate:
        raise InputError("--save keeps a calibration: add --calibrate FOLDER_OF_ID_IMAGES")
    if args.score:
        get_scores(args.score)
    if args.tpr is not None:
        check_tpr(args.tpr)
    for path in (*args.images, args.calibrate):
        if path and not os.path.exists(path):
            raise InputError(f"{path}: there is no such file or folder ({absolute(path)})")
    inside = [
        path
        for path in (*args.images, args.calibrate)
        if args.regions and path and Path(absolute(args.regions)).is_relative_to(absolute(path))
    ]
    if inside:
        raise InputError(
            f"--regions {args.regions} lies in {inside[0]}: next time the maps would be "
            "taken for images there. Name a folder outside of it"
        )
    for path in (args.csv, args.jsonl):
        if is_image(path):
            raise InputError(f"{path} is an image's name, the verdicts would replace it")
    return args


def find_detector(args: argparse.Namespace) -> Detector:
    """Saved by an evaluation, made of class names, or of a run that has not been evaluated."""
    saved = bool(args.model_dir) and Path(args.model_dir, FILE).exists()
    if args.classes or saved:
        refuse_idle_flags(args)
    if args.classes:
        return Detector.zero_shot(
            read_class_list(args.classes, names=True),
            args.backbone or DEFAULT_BACKBONE,
            args.template or DEFAULT_TEMPLATE,
            args.activation,
            args.score,
        )
    if saved:
        return Detector.load(args.model_dir, args.score, args.tpr, backbone=args.backbone)
    return uncalibrated(args)


def refuse_idle_flags(args: argparse.Namespace) -> None:
    """A detector that needs no trainer has nothing to ask the flags of one."""
    flags = {*IDLE, *trainer_flags(), *OF_CLASSES} - set(OF_CLASSES if args.classes else ())
    idle = sorted(flag for flag in flags if getattr(args, flag) not in (None, "", []))
    if idle:
        what = "--classes" if args.classes else f"the detector saved in {args.model_dir}"
        raise InputError(
            f"--{idle[0].replace('_', '-')} has no effect with {what}: leave it out"
            + ("" if args.classes else f", or remove {FILE} there to build the run's model again")
        )


def uncalibrated(args: argparse.Namespace) -> Detector:
    """The model of a run, or of a published checkpoint, without an evaluation.

    No image of the ID set is read, and none need be there where the class names are known.
    """
    # Here: a saved detector needs no trainer, nor its data set.
    from dassl.engine import build_trainer
    from datasets.needs import names_known
    from detector.of_trainer import recipe_of
    from ood.scoring import offered_scores, score_parameters

    if args.activation:
        args.opts = ["MODEL.BACKBONE.ACTIVATION", args.activation]
    cfg = build_cfg(args)
    trainer = build_trainer(cfg, images=not names_known(cfg))
    trainer.load_model(args.model_dir, args.load_epoch)
    features = trainer.class_features()
    parameters = score_parameters(offered_scores("all", trainer.model.provides))
    return Detector(recipe_of(trainer, features, parameters), trainer.model.clip, args.score)


def warn_if_trained_on(args: argparse.Namespace) -> None:
    """A threshold from images that the run was trained on is too high."""
    config = read_config(args.model_dir) if args.model_dir else None
    if config:
        root = config.get("DATASET", {}).get("ROOT", "")
        images = [os.path.relpath(path, root) for path in images_of([args.calibrate])]
        held_out_record(args.model_dir, images, root, args.calibrate)


def judge(detector: Detector, args: argparse.Namespace) -> int:
    """Print and write the verdict on every image; how many could not be read."""
    counts: dict[str, int] = {}
    images = with_progress(args.images, "detecting")
    with ExitStack() as stack:
        files = [stack.enter_context(file) for file in open_verdict_files(args.csv, args.jsonl)]
        for number, verdict in enumerate(detector.verdicts(images)):
            tqdm.write(str(verdict), file=sys.stdout)
            for file in files:
                file.write([verdict])
            if args.regions and not verdict.error:
                name = re.sub(r"[^\w.-]+", "_", Path(verdict.image).stem)
                detector.save_regions(verdict.image, Path(args.regions, f"{number:06d}_{name}.png"))
            kind = "unreadable" if verdict.error else verdict.verdict or "without a verdict"
            counts[kind] = counts.get(kind, 0) + 1
    tell(", ".join(f"{count:,} {kind}" for kind, count in counts.items()))
    tell(about_threshold(detector, args))
    return counts.get("unreadable", 0)


def about_threshold(detector: Detector, args: argparse.Namespace) -> str:
    """What the verdicts rest on, or how to come by a threshold."""
    if detector.threshold is not None:
        return f"ID at {detector.score} >= {detector.threshold}"
    evaluate = f"; or evaluate the run: eval_ood.py --model-dir {args.model_dir}"
    return (
        f"No verdict: {detector.score} has no threshold yet. Find one on images of these classes, "
        "which nothing was trained on: --calibrate FOLDER (--save DIR keeps it)"
        + ("" if args.classes else evaluate)
    )


def with_progress(paths: Sequence[str], what: str) -> Iterable[str]:
    """The images named by `paths`, one by one, with a bar on stderr if there are many.

    Folders are walked twice, to count and to read: a list of a million names is never held.
    """
    total = sum(1 for _ in images_of(paths))
    if not total:
        raise InputError(f"{', '.join(paths)}: no images there")
    return tqdm(
        images_of(paths),
        desc=what,
        total=total,
        unit="image",
        file=sys.stderr,
        disable=total < SHOW_PROGRESS_FROM,
    )


def images_of(paths: Sequence[str]) -> Iterator[str]:
    """Files as they are named, whatever their ending, and all images under folders."""
    for path in paths:
        if os.path.isdir(path):
            yield from (os.path.join(path, name) for name in walk_images(path))
        else:
            yield path


def tell(text: str) -> None:
    """To stderr: stdout holds the verdicts alone."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    run(main)
