"""Prompt learners trained side by side: a batch is loaded and encoded once for all of them.

Each run's results are exactly those of the run alone. Which images make a batch, and how each is
augmented, are functions of the seed and the epoch, so all runs see the images they would have seen
alone. Each run then takes its own step in turn, by the same code and from the same features as
alone. Random draws within a step come from the run's own state of the global random generators.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY, TrainerBase
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
from dassl.utils.errors import InputError, explain_killed_worker
from trainers.prompt_trainer import IMAGE_HALF, PromptTrainer

logger = logging.getLogger(__name__)

# Settings in which runs on the same images may differ.
MAY_DIFFER = ("TRAINER", "OPTIM", "TRAIN", "MODEL.INIT_WEIGHTS", "OUTPUT_DIR", "RESUME", "VERBOSE")


# What members leave to the first of them, or to the loop that all share: one with its own trains
# alone.
SHARED = (
    *("build_data_loader", "build_data_manager", "load_clip", "train_loader_x", "test_loader"),
    *(*IMAGE_HALF, "parse_batch_test", "forward_backward", "run_epoch"),
)


def images_seen(cfg: CfgNode) -> str | None:
    """Return a key that is equal for runs that encode the same images; None if a run cannot share.

    A run can share if it has a seed and its trainer loads and encodes images, and takes steps, as
    `PromptTrainer` does.
    """
    trainer_class = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    can_share = (
        issubclass(trainer_class, PromptTrainer)
        and cfg.SEED >= 0
        and not trainer_class.redefined(SHARED)
    )
    if not can_share:
        return None
    settings = {
        key: value
        for key, value in flatten(cfg).items()
        if not any(key == node or key.startswith(f"{node}.") for node in MAY_DIFFER)
    }
    precision = cfg.TRAINER[trainer_class.CONFIG_KEY].PREC
    settings |= {"PREC": precision, "MAX_EPOCH": cfg.OPTIM.MAX_EPOCH}
    return json.dumps(plain(settings), sort_keys=True)


@contextmanager
def isolated(name: str, failed: dict[str, str], title: str = "") -> Iterator[None]:
    """Catch an exception: log it under `title`, and record it in `failed` for the run `name`."""
    try:
        with explain_full_disk(), explain_killed_worker():
            yield
    except Exception as error:
        failed[name] = str(error) or type(error).__name__
        # A user's mistake needs only its message, a bug in the code its traceback.
        unexpected = None if isinstance(error, InputError) else error
        logger.error("%s: %s", title or f"{name} failed", failed[name], exc_info=unexpected)


class Member:
    """A run trained side by side with others: its trainer, its log and its random state."""

    trainer: PromptTrainer

    def __init__(self, name: str, folder: str) -> None:
        self.name, self.log = name, RunLog(folder, name)
        self.rng = get_rng_state()


class SideBySide(TrainerBase):
    """A trainer whose hooks call the same hook of each member in turn.

    `add` the runs, then `train`. An error ends only the run in which it occurs, and `failed` maps
    that run's name to the reason. All members' settings must have the same `images_seen`.
    """

    def __init__(self, failed: dict[str, str]) -> None:
        super().__init__()
        self.members: list[Member] = []
        self.failed = failed

    def add(self, name: str, folder: str, build: Callable[..., PromptTrainer]) -> None:
        """Add a run called `name`, which logs into `folder`.

        `build(beside=others)` builds its trainer, on the data and CLIP of the trainers `others`.
        """
        beside = [member.trainer for member in self.active]
        member = Member(name, folder)
        self.members.append(member)
        with self._state_of(member):
            member.trainer = build(beside=beside)

    @contextmanager
    def _state_of(self, member: Member) -> Iterator[None]:
        """Run code with a member's random state and log; an error ends that member's run."""
        set_rng_state(member.rng)
        with member.log, isolated(member.name, self.failed, "failed"):
            yield
        member.rng = get_rng_state()

    @contextmanager
    def _failing_together(self, members: list[Member]) -> Iterator[None]:
        """Record an error in the images for all members: each would have met it alone."""
        try:
            yield
        except Exception as error:
            for member in self._unfailed(members):
                with self._state_of(member):
                    raise error

    def _unfailed(self, members: Iterable[Member]) -> list[Member]:
        return [member for member in members if member.name not in self.failed]

    def _call(self, hook: str, members: Iterable[Member]) -> None:
        for member in self._unfailed(members):
            with self._state_of(member):
                getattr(member.trainer, hook)()

    @property
    def active(self) -> list[Member]:
        """Return the members that have not failed."""
        return self._unfailed(self.members)

    @property
    def in_epoch(self) -> list[Member]:
        """Return the active members without those that are resumed at a later epoch."""
        return [m for m in self.active if m.trainer.start_epoch <= self.epoch]

    def train(self) -> None:
        super().train(0, max((m.trainer.max_epoch for m in self.active), default=0))

    def before_train(self) -> None:
        self._call("store_for_autocast", self.active)
        self._call("before_train", self.active)
        starts = [m.trainer.start_epoch for m in self.active]
        self.start_epoch = min(starts, default=self.max_epoch)

    def before_epoch(self) -> None:
        for member in self.in_epoch:
            member.trainer.epoch = self.epoch
        self._call("before_epoch", self.in_epoch)

    def run_epoch(self) -> None:
        """Run an epoch of all members that take part in it, on one pass over the images."""
        members = self.in_epoch
        if not members:  # all have failed
            return
        first = members[0].trainer
        needs = [any(getattr(m.trainer, fact) for m in members) for fact in ("LOCAL", "ATTENTION")]
        self._call("begin_epoch", members)
        bar = progress_bar(
            timed(first.train_batches(*needs)),
            f"{len(members)} runs, epoch {self.epoch + 1}/{self.max_epoch}",
            "batch",
            total=first.num_batches,
            leave=False,
        )
        with self._failing_together(members):
            for number, (batch, waited) in enumerate(bar):
                with first.explain_out_of_memory("a training step", "TRAIN_X"):
                    batch = first.encode(batch, *needs)
                for member in self._unfailed(members):
                    with self._state_of(member):
                        member.trainer.batch_idx = number
                        member.trainer.run_batch(batch, waited)
                if not self._unfailed(members):
                    return
        self._call("end_epoch", members)

    def after_epoch(self) -> None:
        self._call("after_epoch", self.in_epoch)

    def after_train(self) -> None:
        """Test all members on the test images, encoded once and kept in memory."""
        members = self.active
        if members and not members[0].trainer.cfg.TEST.NO_TEST:
            first, encoded = members[0].trainer, []
            with self._failing_together(members):
                for batch in progress_bar(first.dm.test_loader, "encoding the test images"):
                    with first.explain_out_of_memory("a test batch", "TEST"):
                        encoded.append(first.encode(batch, local=False))
            for member in members:
                member.trainer.test_loader = encoded
        self._call("after_train", members)

    def close(self) -> None:
        for member in self.active:
            member.trainer.close()
        for member in self.members:
            member.log.close()
