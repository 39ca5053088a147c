"""Train and evaluate a sweep in one process: python sweep.py --trainers CoOp,LoCoOp --seeds 1,2,3.

Runs that see the same images train side by side: every batch is loaded and encoded once for all
of them. Each ends as train.py would have ended it alone, in a folder of its own. The sweep can be
stopped and started again; finished runs are not repeated, failed ones do not stop the others.
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
from dassl.utils import InputError, RunLog, atomic_write, setup_logger, write_json
from datasets.folders import counted
from ood.scoring import get_scores
from results import runs as evaluations
from results.files import read_results
from results.summary import summarise
from run import evaluation
from run.config import build_cfg
from run.flags import Parser, add_data_flags, as_words
from run.folder import RunState, finish_run, locked, open_run
from run.plan import PlannedRun, groups, listing, plan
from run.streams import listed
from trainers.side_by_side import SideBySide, images_seen, isolated

logger = logging.getLogger(__name__)

Failures = dict[str, str]  # name of a run -> why it failed


def main() -> None:
    args = parse_args()
    get_scores(args.scores if args.scores == "all" else listed(args.scores))  # before training
    if distributed.world_size() > 1:
        raise InputError("a sweep runs in one process: start sweep.py without torchrun")
    runs = plan(args)
    parts = groups(runs)
    setup_logger()
    logger.info(
        "%s\n%s in %s", listing(parts), counted(len(runs), "run"), counted(len(parts), "group")
    )
    if args.dry_run:
        return
    failed: Failures = {}
    try:
        for number, part in enumerate(parts, 1):
            train_group(part, f"group {number} of {len(parts)}", failed)
        trained = [] if args.no_eval else [run for run in runs if run.name not in failed]
        evaluated = [run for run in trained if evaluate(run, args, failed)]
    except KeyboardInterrupt as stop:
        first = (str(stop) or "stopped").partition(". ")[0]  # a run by itself says what it keeps
        raise type(stop)(
            f"{first}. Every run keeps its newest checkpoint; the same command goes on from there"
        ) from None
    save_table(runs, evaluated, args, failed)
    if failed:
        reasons = [f"  {name}: {why}" for name, why in failed.items()]
        total = counted(len(runs), "run")
        raise InputError("\n".join([f"{len(failed)} of {total} failed:", *reasons]))


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    known = ", ".join(TRAINER_REGISTRY.registered_names())
    add("--trainers", type=listed, required=True, help=f"separated by commas, of {known}")
    add("--shots", type=whole_numbers, help="images a class, by commas; -1 for all (default: all)")
    add("--seeds", type=whole_numbers, default=[1], help="separated by commas (default: 1)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE,...",
        help="a setting and the values it takes; again for another. TRAINER.*.KEY: of every "
        "trainer that has it",
    )
    add_data_flags(parser)
    add("--output-dir", default="output", help="folder of all runs (default: output)")
    add("--name", default="sweep", help="of the table's folder beside the runs (default: sweep)")
    add("--scores", default="all", help="to evaluate, separated by commas (default: all)")
    add("--features-local", action="store_true", help="as of eval_ood.py (default: no)")
    add("--no-eval", action="store_true", help="only train")
    add("--dry-run", action="store_true", help="only list the runs, their state and their folders")
    return parser.parse_args()


def whole_numbers(text: str) -> list[int]:
    return [int(word) for word in listed(text)]


def train_group(runs: list[PlannedRun], title: str, failed: Failures) -> None:
    """Train those runs of a group that are not finished, holding their folders meanwhile."""
    with ExitStack() as held:
        left: list[tuple[PlannedRun, RunState]] = []
        for run in [run for run in runs if run.learns]:
            with isolated(run.name, failed):
                train.require_training_data(run.cfg)
                held.enter_context(locked(run.folder))
                if (state := open_run(run.cfg)) is not RunState.FINISHED:
                    left.append((run, state))
        if left:
            logger.info("\n%s: %s", title, "; ".join(run.name for run, _ in left))
            train_left(left, failed)
    # Trainers and their schedulers hold each other: without this their CLIP, their features and
    # their workers would stay through the next groups.
    gc.collect()


def train_left(left: list[tuple[PlannedRun, RunState]], failed: Failures) -> None:
    """Train opened runs, side by side if they share images; then it is all of them."""
    first, state = left[0]
    if images_seen(first.cfg) is None:
        with isolated(first.name, failed):
            train.start(first.cfg, state)
        setup_logger()
        return
    together = SideBySide(failed)
    for run, state in left:
        with isolated(run.name, failed):
            together.add(run.name, run.cfg.OUTPUT_DIR, partial(train.begin, run.cfg, state))
    together.train()
    for run, _ in left:
        if run.name not in failed:
            with isolated(run.name, failed):
                finish_run(run.cfg)


def evaluate(run: PlannedRun, args: argparse.Namespace, failed: Failures) -> bool:
    """Evaluate a run as eval_ood.py does it, and return whether its results are there."""
    with isolated(run.name, failed):
        pairs = ["EVAL.SCORES", args.scores, "EVAL.FEATURES_LOCAL", str(args.features_local)]
        options = run.evaluation(opts=[*pairs, *run.args.opts])
        cfg = build_cfg(options)
        if not evaluation.has_results(cfg, options.load_epoch):
            logger.info("evaluating %s", run.name)
            log = RunLog(run.folder / evaluation.LOG, run.name)
            with locked(run.folder), closing(log), log:
                evaluation.evaluate(cfg, options.model_dir, options.load_epoch)
        return True
    return False


def save_table(
    runs: list[PlannedRun], evaluated: list[PlannedRun], args: argparse.Namespace, failed: Failures
) -> None:
    """Write the list of the runs and, if any were evaluated, print and write their table."""
    folder = Path(args.output_dir, runs[0].folder.relative_to(args.output_dir).parts[0], args.name)
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
        done = evaluations.Run(run.folder, read_results(run.folder))
        methods.setdefault(run.method, []).append(done)
    with isolated("the table", failed):
        summary = summarise(methods)
        with atomic_write(folder / "summary.md") as file:
            file.write(summary.as_markdown())
        logger.info("table:            %s\n\n%s", folder / "summary.md", summary.as_text())


if __name__ == "__main__":
    command.run(main)
