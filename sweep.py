"""Train and evaluate a sweep in one process: python sweep.py --trainers CoOp,LoCoOp --seeds 1,2,3.

Runs that see the same images train side by side: every batch is loaded and encoded once for all
of them. Each gets a folder of its own, and the results that train.py would give. A stopped sweep
resumes when started again: finished runs are not repeated. A failed run does not stop the others.
"""

import argparse
import gc
import logging
import shlex
import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there with PYTHONSAFEPATH=1

import train
from dassl import command, distributed
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import InputError, RunLog, atomic_write, read_json, setup_logger, write_json
from dassl.utils.names import split_commas
from datasets.folders import counted
from results import runs as evaluations
from results.files import read_results
from results.summary import summarise
from run import evaluation
from run.config import build_cfg
from run.flags import Parser, add_data_flags, as_words, choose
from run.folder import RunState, finish_run, locked, open_run
from run.plan import PlannedRun, group_by_images, list_runs, plan
from run.settings import require_clip_trainer
from trainers.side_by_side import SideBySide, images_seen, isolated

logger = logging.getLogger(__name__)

Failures = dict[str, str]  # name of a run -> reason of its failure


def main() -> None:
    args = parse_args()
    if distributed.world_size() > 1:
        raise InputError("a sweep runs in one process: start sweep.py without torchrun")
    runs = plan(args)
    for run in runs:  # before hours of training
        evaluation.check_settings(build_cfg(choose(run.args, opts=evaluation_pairs(run, args))))
        if not args.no_eval:
            require_clip_trainer(run.cfg)
    groups = group_by_images(runs)
    setup_logger()
    counts = counted(len(runs), "run"), counted(len(groups), "group")
    logger.info("%s\n%s in %s", list_runs(groups), *counts)
    if args.dry_run:
        return
    failed: Failures = {}
    try:
        for number, group in enumerate(groups, 1):
            train_group(group, f"group {number} of {len(groups)}", failed)
        trained = [] if args.no_eval else [run for run in runs if run.name not in failed]
        evaluated = [run for run in trained if evaluate(run, args, failed)]
    except KeyboardInterrupt as stop:
        first = (str(stop) or "stopped").partition(". ")[0]  # drops the sentence on one run alone
        raise type(stop)(
            f"{first}. Every run keeps its newest checkpoint; the same command resumes from there"
        ) from None
    save_table(runs, evaluated, args, failed)
    if failed:
        reasons = [f"  {name}: {reason}" for name, reason in failed.items()]
        total = counted(len(runs), "run")
        raise InputError("\n".join([f"{len(failed)} of {total} failed:", *reasons]))


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    known = ", ".join(TRAINER_REGISTRY.registered_names())
    add(
        "--trainers",
        type=split_commas,
        required=True,
        help=f"some of {known}; A,B for several (required)",
    )
    add("--shots", type=whole_numbers, help="images per class, as 1,4,16; -1: all (default: all)")
    add("--seeds", type=whole_numbers, default=[1], help="seeds, as 1,2,3 (default: 1)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE,...",
        help="a setting and its values, one run each; repeat the flag for another setting. "
        "TRAINER.*.KEY sets KEY of every trainer that has it (default: none)",
    )
    add_data_flags(parser)
    add("--output-dir", default="output", help="folder of all runs (default: output)")
    add("--name", default="sweep", help="name of the folder of the table (default: sweep)")
    add("--scores", default="all", help="scores to evaluate, as MCM,GL-MCM (default: all)")
    add("--features-local", action="store_true", help="same as in eval_ood.py (default: no)")
    add("--no-eval", action="store_true", help="train without evaluating (default: no)")
    add("--dry-run", action="store_true", help="only list the runs, their state and their folders")
    return parser.parse_args()


def whole_numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in split_commas(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers, as in 1,4,16") from None


def train_group(runs: list[PlannedRun], title: str, failed: Failures) -> None:
    """Train the unfinished runs of a group, with their folders locked meanwhile."""
    with ExitStack() as locks:
        unfinished: list[tuple[PlannedRun, RunState]] = []
        for run in [run for run in runs if run.learns]:
            with isolated(run.name, failed):
                train.require_training_data(run.cfg)
                locks.enter_context(locked(run.folder))
                if (state := open_run(run.cfg)) is not RunState.FINISHED:
                    unfinished.append((run, state))
        if unfinished:
            logger.info("\n%s: %s", title, "; ".join(run.name for run, _ in unfinished))
            train_opened(unfinished, failed)
    # Trainers and their schedulers refer to each other: without this their CLIP, features and
    # loader workers would stay in memory through the next groups.
    gc.collect()


def train_opened(opened: list[tuple[PlannedRun, RunState]], failed: Failures) -> None:
    """Train the opened runs of a group side by side, or the only run if it shares no images."""
    first, state = opened[0]
    if images_seen(first.cfg) is None:
        with isolated(first.name, failed):
            train.start(first.cfg, state)
        setup_logger()
        return
    together = SideBySide(failed)
    for run, state in opened:
        with isolated(run.name, failed):
            together.add(run.name, run.cfg.OUTPUT_DIR, partial(train.begin, run.cfg, state))
    together.train()
    for run, _ in opened:
        if run.name not in failed:
            with isolated(run.name, failed):
                finish_run(run.cfg)


def evaluation_pairs(run: PlannedRun, args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the KEY VALUE pairs of a run's evaluation."""
    pairs = [("EVAL.SCORES", args.scores), ("EVAL.FEATURES_LOCAL", str(args.features_local))]
    return pairs + run.args.opts


def evaluate(run: PlannedRun, args: argparse.Namespace, failed: Failures) -> bool:
    """Evaluate a run as eval_ood.py does, and return whether it has results."""
    with isolated(run.name, failed):
        options = run.evaluation(opts=evaluation_pairs(run, args))
        cfg = build_cfg(options)
        if not evaluation.has_results(cfg):
            logger.info("evaluating %s", run.name)
            log = RunLog(run.folder / evaluation.LOG, run.name)
            with locked(run.folder), closing(log), log:
                evaluation.evaluate(cfg, options.model_dir)
        return True
    return False


def save_table(
    runs: list[PlannedRun], evaluated: list[PlannedRun], args: argparse.Namespace, failed: Failures
) -> None:
    """Write the list of the runs and, if any was evaluated, print and write their table."""
    folder = Path(args.output_dir, runs[0].folder.relative_to(args.output_dir).parts[0], args.name)
    warn_of_other_runs(folder / "runs.json", runs)
    write_json(
        [
            {
                "run": run.name,
                "method": run.method,
                "seed": run.args.seed,
                "folder": str(run.folder),
                "state": run.state,
                "failed": failed.get(run.name),
                "evaluated": run in evaluated,
                "command": shlex.join(["bash", "scripts/train.sh", *as_words(run.args)]),
            }
            for run in runs
        ],
        folder / "runs.json",
    )
    logger.info("\nlist of the runs: %s", folder / "runs.json")
    if not evaluated:
        return
    methods: dict[str, list[evaluations.Run]] = {}
    for run in evaluated:
        results = evaluations.Run(run.folder, read_results(run.folder))
        methods.setdefault(run.method, []).append(results)
    with isolated("the table", failed):
        summary = summarise(methods)
        with atomic_write(folder / "summary.md") as file:
            file.write(summary.as_markdown())
        logger.info("table:            %s\n\n%s", folder / "summary.md", summary.as_text())


def warn_of_other_runs(path: Path, runs: list[PlannedRun]) -> None:
    """Warn if the list at `path` has runs that are none of this sweep's `runs`."""
    listed = {row["folder"] for row in read_json(path)} if path.exists() else set()
    if others := sorted(listed - {str(run.folder) for run in runs}):
        logger.warning(
            f"The list and table in {path.parent} were of {counted(len(others), 'other run')}, as "
            f"{others[0]}, and are replaced. --name gives a sweep's table a folder of its own"
        )


if __name__ == "__main__":
    command.run(main)
