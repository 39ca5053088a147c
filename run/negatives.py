"""Words that are not classes, in an evaluation: which scores need them, and negatives.csv."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from yacs.config import CfgNode

from clip import PRECISIONS, ClipModel, load
from dassl.data.datasets import Datum
from datasets.folders import counted, first_few
from ood.negatives import (
    WORD_TEXTS,
    Negatives,
    Words,
    candidate_texts,
    find_words,
    overlaps,
    read_outliers,
)
from ood.registry import FROM_WORDS
from ood.scoring import get_scores, required_inputs
from ood.word_scores import GROUPS, grouping
from ood.words import BUNDLED, read_lists, words_hash
from results.files import write_csv
from trainers.base import ClipTrainer

FILE = "negatives.csv"
NOT_CLASSES = ("_negatives", "_outliers")  # endings of the names of texts that are no class's
COLUMNS = ("score", "rank", "word", "kind", "file", "prompt", "similarity", "group", "ood_sets")


def add_words(trainer: ClipTrainer, scores: str | Sequence[str]) -> Words:
    """Give the trainer's model the words of EVAL that `scores` need, and a captioner its texts.

    A method that learns class texts keeps them; others take the class texts of the score's recipe.
    Texts of the model's own stay, words of an earlier evaluation do not.
    """
    needs, names = required_inputs(get_scores(scores)), trainer.dm.dataset.classnames
    folder, outliers = lists_folder(trainer.cfg), trainer.cfg.EVAL.OUTLIERS
    captioner = trainer.model.captioner if "candidate_lse" in needs else None
    has_words = (folder or outliers) and not needs.isdisjoint(FROM_WORDS)
    share, encodes = trainer.cfg.EVAL.NEGATIVES_SHARE, has_words or captioner
    with text_model(trainer) if encodes else nullcontext(trainer.model.clip) as model:
        words = find_words(model, names, needs, folder, outliers, share)
        if captioner:
            captioner.texts, captioner.text_of = candidate_texts(model, captioner, names)
    own = {name: x for name, x in trainer.model.texts.items() if name not in WORD_TEXTS}
    trainer.model.texts = own | {
        name: None if trainer.model.learns_texts and not name.endswith(NOT_CLASSES) else features
        for name, features in words.texts.items()
    }
    return words


@contextmanager
def text_model(trainer: ClipTrainer) -> Iterator[ClipModel]:
    """Yield the trainer's CLIP in float32, so that runs in any precision choose the same words."""
    with PRECISIONS["fp32"].context(trainer.device):  # puts the switches back that `load` sets
        if trainer.precision.name == "fp32":
            yield trainer.model.clip
        else:
            backbone = trainer.cfg.MODEL.BACKBONE
            yield load(backbone.NAME, trainer.device, "fp32", backbone.ACTIVATION or None)[0]


def same_words(cfg: CfgNode, provenance: Mapping) -> bool:
    """Return whether the lists of words and outliers are unchanged since a results file."""
    for name, facts in provenance["comparable"].get("scores", {}).items():
        if "words" in facts:
            if name == "EOE":
                lists = {"outliers": read_outliers(cfg.EVAL.OUTLIERS, provenance["classnames"])}
            else:
                lists = read_lists(lists_folder(cfg))
            if words_hash(lists) != facts["words"]:
                return False
    return True


def lists_folder(cfg: CfgNode) -> str:
    """Return EVAL.NEGATIVES, below DATASET.ROOT if the folder is there and not where it says."""
    source = cfg.EVAL.NEGATIVES
    below_root = Path(cfg.DATASET.ROOT, source)
    as_written = source in ("", BUNDLED) or Path(source).is_dir() or not below_root.is_dir()
    return source if as_written else str(below_root)


def record_negatives(folder: str, words: Words, sets: Mapping[str, Sequence[Datum]]) -> str:
    """Write negatives.csv into a run's folder, and return the report of overlaps with OOD sets.

    Args:
        sets: the OOD sets. Their own names and those of their image folders tell what they show.
    """
    path = Path(folder, FILE)
    path.unlink(missing_ok=True)
    if not words.negatives:
        return ""
    names = {
        name: {name, *(Path(item.impath).parent.name for item in items)}
        for name, items in sets.items()
    }
    rows, lines = [], []
    for negatives in words.negatives:
        overlapping = list(overlaps(negatives.words, names))
        rows += _rows(negatives, [set_names for _, set_names in overlapping])
        facts, kinds = negatives.facts, [word.kind for word in negatives.words]
        lines.append(
            f"{negatives.recipe.score}: {facts['negatives']:,} negatives of "
            f"{facts['candidates']:,} words, {kinds.count('noun'):,} nouns and "
            f"{kinds.count('adj'):,} adjectives ({path})."
        )
        lines += _report(overlapping, names)
    write_csv(path, COLUMNS, rows)
    return "\n".join(lines)


def _rows(negatives: Negatives, sets: list[list[str]]):
    groups = grouping(len(negatives.words), GROUPS)
    group_of = {i: g for g, members in enumerate(groups.tolist()) for i in members}
    for i, word in enumerate(negatives.words):
        about = (word.text, word.kind, word.file, negatives.prompt(word))
        closeness = f"{negatives.closeness[i]:.6f}"
        row = [negatives.recipe.score, i + 1, *about, closeness, group_of.get(i, "")]
        yield [*row, "; ".join(sets[i])]


def _report(overlapping: list, names: Mapping[str, set[str]]) -> list[str]:
    """Return a line for each OOD set that shares names with negatives, or one for no overlap."""
    lines = []
    for name, folders in names.items():
        same = [word.text for word, sets in overlapping if name in sets]
        if same:
            many = counted(len(same), "negative")
            lines.append(f"  {many} of {name}'s {len(folders)} folder names: {first_few(same)}")
    return lines or ["  No negative is the name of an OOD set or of a folder in one."]
