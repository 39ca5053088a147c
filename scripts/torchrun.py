"""Run torchrun, and report in a sentence instead of a traceback which process or signal ended it.

It takes torchrun's own arguments: scripts/torchrun.py --standalone --nproc-per-node 2 train.py ...
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

# The failed rank has printed the reason; torchrun's own log lines would add nothing to it.
for module in ("agent.server.api", "multiprocessing.api"):
    logging.getLogger(f"torch.distributed.elastic.{module}").setLevel(logging.CRITICAL)
try:
    run(parse_args(sys.argv[1:]))
except ChildFailedError as error:
    rank, failure = error.get_first_failure()
    cause = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    sys.exit(f"stopped: rank {rank} was the first to end, with {cause}")
except SignalException as stop:
    print(f"stopped by {stop.sigval.name}", file=sys.stderr)
    sys.exit(128 + stop.sigval)
