"""Run an entry point and report a user's mistake in one sentence."""

import signal
import sys
from collections.abc import Callable

from dassl import distributed
from dassl.utils import InputError, escape_unprintable, explain_full_disk
from dassl.utils.console import flush_stdout, reader_has_left
from dassl.utils.errors import explain_killed_worker


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a cluster sends it to end a job."""


def _stop(number: int, frame: object) -> None:
    interrupt = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    raise interrupt(f"stopped by {signal.Signals(number).name}")


def run(main: Callable[[], None]) -> None:
    """Run an entry point; report an error that the user can mend in a sentence, no traceback.

    SIGINT and SIGTERM are reported in a sentence too, with the shell's usual exit status. Under
    torchrun the first rank that fails prints its error, and torchrun ends the others. If the reader
    of the output leaves, as `head` does, the process ends quietly.
    """
    escape_unprintable()
    try:
        distributed.init_from_env()
        if distributed.world_size() == 1:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _stop)
        with explain_full_disk(), explain_killed_worker():
            main()
            print(end="", flush=True)  # at exit, an error would be a traceback
        distributed.shutdown()
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT))
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_has_left():
            sys.exit(128 + signal.SIGPIPE)
        rank = distributed.name_of_rank()
        if not distributed.first_to_fail():
            sys.exit(1)
        if isinstance(error, InputError):
            sys.exit(f"error ({rank}): {error}" if rank else f"error: {error}")
        if rank:
            error.add_note(f"Raised on {rank}.")
        raise
    finally:
        flush_stdout()  # of --help, too
