"""Prompt learners trained side by side: a batch is loaded and encoded once for all of them.

Exact, not alike. Which images make a batch, and how each is augmented, are functions of the seed
and the epoch, so that in an epoch all runs see the images they would have seen alone. Each then
takes its own step, in turn, by the code that a run alone takes it by, from the very features it
would have computed. What a step itself draws comes from a state of the global random generators
that each run keeps of its own, as a checkpoint does.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY, TrainerBase, TrainerX
from dassl.engine.progress import timed
from dassl.utils import (
    RunLog,
    explain_full_disk,
    flatten,
    get_rng_state,
    plain,
    progress_bar,
    set_rng_state,
)
from dassl.utils.errors import InputError
from trainers.prompt_trainer import PromptTrainer

logger = logging.getLogger(__name__)

# Settings that runs on the same images may differ in: what is learned from them, and where to.
OWN = ("TRAINER", "OPTIM", "TRAIN", "MODEL.INIT_WEIGHTS", "OUTPUT_DIR", "RESUME", "VERBOSE")


def images_seen(cfg: CfgNode) -> str | None:
    """Return a key that is equal for runs that encode the same images; None if it shares none.

    Only prompt learners share, whose step is that of `PromptTrainer`, with a seed.
    """
    kind = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    shares = (
        issubclass(kind, PromptTrainer)
        and cfg.SEED >= 0
        and kind.forward_backward is PromptTrainer.forward_backward
        and kind.run_epoch is TrainerX.run_epoch
    )
    if not shares:
        return None
    seen = {
        key: value
        for key, value in flatten(cfg).items()
        if not any(key == own or key.startswith(f"{own}.") for own in OWN)
    }
    seen |= {"PREC": cfg.TRAINER[kind.CONFIG_KEY].PREC, "MAX_EPOCH": cfg.OPTIM.MAX_EPOCH}
    return json.dumps(plain(seen), sort_keys=True)


@contextmanager
def isolated(name: str, failed: dict[str, str], title: str = "") -> Iterator[None]:
    """Log an exception under `title`, and record it in `failed` as the failure of run `name`."""
    try:
        with explain_full_disk():
            yield
    except Exception as error:
        failed[name] = str(error) or type(error).__name__
        # A mistake of the user's is a sentence, one of ours has its place.
        unexpected = None if isinstance(error, InputError) else error
        logger.error("%s: %s", title or f"{name} failed", failed[name], exc_info=unexpected)


class Member:
    """A run of a group: its trainer, its log and its random state."""

    trainer: PromptTrainer

    def __init__(self, name: str, folder: str) -> None:
        self.name, self.log = name, RunLog(folder, name)
        self.rng = get_rng_state()


class SideBySide(TrainerBase):
    """A trainer whose every hook is that hook of its members, one after the other.

    `add` the runs, then `train`. An error ends the run that it is of, and only it: `failed` has
    the reason by the run's name. The members' settings must have the same `images_seen`.
    """

    def __init__(self, failed: dict[str, str]) -> None:
        super().__init__()
        self.members: list[Member] = []
        self.failed = failed

    def add(self, name: str, folder: str, build: Callable[..., PromptTrainer]) -> None:
        """Add a run called `name`, which logs into `folder`.

        `build(beside=other)` makes its trainer on the data and CLIP of `other`, if not None.
        """
        beside = self.going[0].trainer if self.going else None
        member = Member(name, folder)
        self.members.append(member)
        with self._acting(member):
            member.trainer = build(beside=beside)

    @contextmanager
    def _acting(self, member: Member) -> Iterator[None]:
        """Put a member's random state and log in place."""
        set_rng_state(member.rng)
        with member.log, isolated(member.name, self.failed, "failed"):
            yield
        member.rng = get_rng_state()

    @contextmanager
    def _failing_together(self, members: list[Member]) -> Iterator[None]:
        """Take an error, of the images, for one of all members: alone each would have met it."""
        try:
            yield
        except Exception as error:
            for member in self._well(members):
                with self._acting(member):
                    raise error

    def _well(self, members: Iterable[Member]) -> list[Member]:
        return [member for member in members if member.name not in self.failed]

    def _all(self, members: Iterable[Member], hook: str) -> None:
        for member in self._well(members):
            with self._acting(member):
                getattr(member.trainer, hook)()

    @property
    def going(self) -> list[Member]:
        """Return the members that have not failed."""
        return self._well(self.members)

    @property
    def now(self) -> list[Member]:
        """Return those that have this epoch before them: some may be resumed further on."""
        return [m for m in self.going if m.trainer.start_epoch <= self.epoch]

    def train(self) -> None:
        super().train(0, max((m.trainer.max_epoch for m in self.going), default=0))

    def before_train(self) -> None:
        self._all(self.going, "before_train")
        starts = [m.trainer.start_epoch for m in self.going]
        self.start_epoch = min(starts, default=self.max_epoch)

    def before_epoch(self) -> None:
        for member in self.now:
            member.trainer.epoch = self.epoch
        self._all(self.now, "before_epoch")

    def run_epoch(self) -> None:
        """Run an epoch of all members that have it before them, on one pass over the images."""
        members = self.now
        if not members:  # all have failed
            return
        first = members[0].trainer
        reads = [any(getattr(m.trainer, what) for m in members) for what in ("LOCAL", "ATTENTION")]
        self._all(members, "begin_epoch")
        bar = progress_bar(
            timed(first.train_batches(*reads)),
            f"{len(members)} runs, epoch {self.epoch + 1}/{self.max_epoch}",
            "batch",
            total=first.num_batches,
            leave=False,
        )
        with self._failing_together(members):
            for number, (batch, waited) in enumerate(bar):
                with first.explain_out_of_memory("a training step", "TRAIN_X"):
                    batch = first.encode(batch, *reads)
                for member in self._well(members):
                    with self._acting(member):
                        member.trainer.batch_idx = number
                        member.trainer.run_batch(batch, waited)
                if not self._well(members):
                    return
        self._all(members, "end_epoch")

    def after_epoch(self) -> None:
        self._all(self.now, "after_epoch")

    def after_train(self) -> None:
        """Test the members on images that are encoded once, and kept: features are small."""
        going = self.going
        if going and not going[0].trainer.cfg.TEST.NO_TEST:
            first, shared = going[0].trainer, []
            with self._failing_together(going):
                for batch in progress_bar(first.dm.test_loader, "encoding the test images"):
                    with first.explain_out_of_memory("a test batch", "TEST"):
                        shared.append(first.encode(batch, local=False))
            for member in going:
                member.trainer.test_loader = shared
        self._all(going, "after_train")

    def close(self) -> None:
        for member in self.going:
            member.trainer.close()
        for member in self.members:
            member.log.close()
