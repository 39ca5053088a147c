"""Check the data: report what is there, what is missing, and how to mend it.

Takes the flags of train.py and eval_ood.py. Exits with 0 if the data suffice for the evaluation
and, with --shots or a --trainer that learns, for the training that the flags describe, else with 1.
"""

import logging
import sys

from dassl.command import run
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.files import write_json
from datasets.check.survey import check
from datasets.needs import EVALUATION, training_needs
from run.config import build_cfg
from run.flags import DEFAULT_DATASET, make_parser


def main() -> None:
    parser = make_parser(__doc__)
    parser.prog = "python -m run.check"
    parser.add_argument(
        "--full",
        action="store_true",
        help="decode all images and compare all files of the sets (default: decode a sample)",
    )
    parser.add_argument("--json", default="", help="file to write the report to (default: none)")
    args = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())  # the report repeats loaders' warnings
    trains = args.shots is not None
    if not (args.trainer or args.model_dir):
        args.trainer = "ZeroshotCLIP"
    cfg = build_cfg(args)
    trains |= TRAINER_REGISTRY.get(cfg.TRAINER.NAME).LEARNS and not args.model_dir
    asked = ["evaluation", "training"] if trains else ["evaluation"]
    title = args.id_data or args.dataset or args.dataset_config_file or args.model_dir
    needs = {"evaluation": EVALUATION, "training": training_needs(cfg)}
    report = check(cfg, title or DEFAULT_DATASET, needs, asked, args.full)
    print(report.text())
    if args.json:
        write_json(report.record(), args.json)
    sys.exit(0 if report.ready else 1)


if __name__ == "__main__":
    run(main)
