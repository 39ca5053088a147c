"""torchrun, which says in a sentence, not in a traceback, which process ended the job.

Takes torchrun's own arguments: scripts/torchrun.py --standalone --nproc-per-node 2 train.py ...
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

try:
    run(parse_args(sys.argv[1:]))
except ChildFailedError as error:
    rank, failure = error.get_first_failure()
    how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    sys.exit(f"stopped: rank {rank} was the first to end, with {how}")
