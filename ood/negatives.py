"""Negatives: words far from all classes, which become further classes of a softmax.

A recipe defines which words are candidates, in which templates they and the classes are encoded,
and how close a word is to the classes. The negatives are the farthest share of the nouns and of the
adjectives. They are chosen without images, so they are the same for all methods with the same text
tower and class list. Recipes: NegLabel (Jiang et al., ICLR 2024), CSP (Chen et al., NeurIPS 2024).
EOE (Cao et al., ICML 2024) takes a user's list of outlier names as it is.
"""

import logging
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clip import ClipModel
from clip.captions import Captioner
from dassl.config.defaults import EVAL
from dassl.utils.errors import InputError
from datasets.classnames import as_in_prompts, read_names
from datasets.folders import first_few
from ood.word_features import template_features, word_features
from ood.word_scores import GROUPS
from ood.words import KINDS, Lists, Word, distinct_words, read_lists, words_hash

logger = logging.getLogger(__name__)

SHARE = EVAL["NEGATIVES_SHARE"]
CHUNK = 4096  # words compared with the classes at once
OUTLIER_TEMPLATE = ("a photo of a {}",)


@dataclass(frozen=True)
class Recipe:
    """A choice of negatives among words, as one paper makes it.

    Attributes:
        score: the score that the negatives are for; in lower case the name of its texts.
        templates: for classes and nouns. adjective_templates: for adjectives and their phrases.
        left_out: lists that are not read.
        phrases: nouns of which each adjective gets one, drawn by Python's generator from `seed`;
            if there are any, underscores are read as spaces.
        quantile: the quantile of a word's cosines with the classes that is its closeness.
        near_copy: words with a larger cosine than this with some class come last.
    """

    score: str
    templates: Sequence[str]
    adjective_templates: Sequence[str]
    left_out: Sequence[str] = ()
    phrases: Sequence[str] = ()
    seed: int = 0
    quantile: float = 0.95
    near_copy: float | None = None

    @property
    def name(self) -> str:
        return self.score.lower()

    def candidates(self, lists: Lists) -> list[Word]:
        """Return all words that may become negatives, in reading order."""
        words = distinct_words(lists, self.left_out, spaces=bool(self.phrases))
        draw = random.Random(self.seed)
        for i, word in enumerate(words):
            if self.phrases and word.kind == "adj":
                words[i] = word._replace(text=f"{word.text} {draw.choice(self.phrases)}")
        return words

    def encoded(
        self, model: ClipModel, words: Sequence[Word]
    ) -> Iterator[tuple[list[Word], np.ndarray]]:
        """Yield the nouns, then the adjectives, with their features `[W, D]` from disk."""
        for kind in KINDS:
            if selected := [word for word in words if word.kind == kind]:
                texts = [word.text for word in selected]
                yield selected, word_features(model, texts, self.templates_of(selected[0]))

    def templates_of(self, word: Word) -> Sequence[str]:
        return self.adjective_templates if word.kind == "adj" else self.templates

    def closeness(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return how close words `[W, D]` are to classes `[C, D]`: `[W]`, small = far."""
        cosines = features @ classes.T  # [W, C]
        place = self.quantile * (cosines.shape[1] - 1)
        top = cosines.topk(cosines.shape[1] - int(place), dim=1).values  # largest first
        low, high = top[:, -1], top[:, -2] if top.shape[1] > 1 else top[:, -1]
        closeness = low + (place - int(place)) * (high - low)
        if self.near_copy is not None:
            closeness = closeness.masked_fill(top[:, 0] > self.near_copy, 1.0)
        return closeness


NEGLABEL = Recipe("NegLabel", ["the nice {}"], ["This is a {} photo"])
CSP = Recipe(
    "CSP",
    [
        "a close-up photo of the nice {}.",
        "a photo with the nice {}.",
        "a good photo with the nice {}.",
        "a photo of the nice {}.",
        "{}",
        "the {}",
        "the good {}",
        "the nice {}",
    ],
    ["{}", "a nice photo of {}", "a good photo of {}", "a close-up photo of {}"],
    left_out=["noun.person.txt", "noun.quantity.txt", "noun.group.txt", "adj.pert.txt"],
    phrases=[
        *("environment", "space", "object", "scene", "place", "item", "area"),
        *("view", "thing", "pattern", "structure", "landscape", "vista", "creature"),
    ],
    near_copy=0.95,
)
RECIPES = (NEGLABEL, CSP)
# All names that `Words.texts` may have.
WORD_TEXTS = {
    *(f"{recipe.name}{kind}" for recipe in RECIPES for kind in ("", "_negatives")),
    *("eoe", "eoe_outliers"),
}


@dataclass(frozen=True)
class Negatives:
    """The M negatives of a recipe, first nouns, then adjectives, each from far to near.

    Attributes:
        closeness: of each word. features: normalised, float32 `[M, D]`.
        classes: features of the classes in the recipe's templates, `[C, D]`.
        facts: entries for a results file: the lists' hash, counts and the share.
    """

    recipe: Recipe
    words: list[Word]
    closeness: list[float]
    features: Tensor
    classes: Tensor
    facts: dict[str, object]

    def prompt(self, word: Word) -> str:
        """Return the text of a word in the first of its templates."""
        return self.recipe.templates_of(word)[0].replace("{}", word.text)


@torch.no_grad()
def mine_negatives(
    model: ClipModel, classnames: Sequence[str], lists: Lists, recipe: Recipe, share: float = SHARE
) -> Negatives:
    """Return the `share` of the nouns and of the adjectives that is farthest from the classes.

    Differs from upstream: lists are read in sorted order, and words of equal closeness keep it
    (there the order is the file system's, and that of equal words is undefined); CSP's two further
    templates for ImageNet-Sketch are left out.

    Args:
        model: in float32.

    Raises:
        InputError: there are no candidates, or the share leaves none.
    """
    candidates = recipe.candidates(lists)
    classes = template_features(model, _spaced(classnames), recipe.templates)  # [C, D]
    words, closeness, features = [], [], []
    for group, kept in recipe.encoded(model, candidates):
        chunks = (torch.from_numpy(kept[i : i + CHUNK].copy()) for i in range(0, len(kept), CHUNK))
        close = torch.cat([recipe.closeness(x.to(classes.device), classes).cpu() for x in chunks])
        chosen = close.argsort(stable=True)[: int(share * len(group))]
        words += [group[i] for i in chosen]
        closeness.append(close[chosen])
        features.append(torch.from_numpy(kept[chosen.numpy()]))
    _check_negatives(words, candidates, classnames, share, recipe)
    counts = {"candidates": len(candidates), "negatives": len(words)}
    facts = {"words": words_hash(lists), **counts, "share": share}
    stacked = torch.cat(features).to(classes.device)  # [M, D]
    return Negatives(recipe, words, torch.cat(closeness).tolist(), stacked, classes, facts)


def _check_negatives(
    words: list[Word], candidates: list[Word], names: Sequence[str], share: float, recipe: Recipe
) -> None:
    if not words:
        raise InputError(
            f"no negative is left for {recipe.score}: the share {share:g} of {len(candidates)} "
            "words is less than one word. Name a folder of more words (--negatives) or, in "
            "eval_ood.py, a larger --negatives-share"
        )
    if len(words) < GROUPS:
        logger.warning(
            f"{recipe.score}: {len(words)} negatives are fewer than its {GROUPS} groups, so they "
            "form one group"
        )
    if same := [word.text for word, sets in overlaps(words, {"classes": names}) if sets]:
        logger.warning(
            f"{recipe.score}: {len(same)} of {len(words)} negatives are class names "
            f"({first_few(same)}): the share {share:g} includes words that are not far from the "
            "classes. Lower --negatives-share, or remove these words from the lists"
        )


def read_outliers(path: str, classnames: Sequence[str]) -> list[str]:
    """Read the names of outliers, one a line, without class names and repetitions.

    Differs from upstream: EOE's rule for near tasks, which leaves out names that share a word with
    a class, is not offered.

    Raises:
        InputError: not a .txt file, one that cannot be read, or no name is left.
    """
    if not path.lower().endswith(".txt"):
        raise InputError(f"--outliers {path}: name a .txt file with one outlier name a line")
    try:
        names = read_names(path)
    except InputError as error:
        raise InputError(f"--outliers: {error}") from error
    known = set(map(as_in_prompts, classnames))
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(as_in_prompts(name), name)
    if len(first) < len(names):
        logger.warning("--outliers %s: repeated names are read once", path)
    if same := [name for plain, name in first.items() if plain in known]:
        logger.warning("--outliers %s: names of classes are left out: %s", path, first_few(same))
    left = [name for plain, name in first.items() if plain not in known]
    if not left:
        raise InputError(f"--outliers {path} names only classes: give other names, one a line")
    return left


@dataclass(frozen=True)
class Words:
    """All texts that scores need beside the class texts.

    Attributes:
        texts: name -> features `[*, D]`, for `PromptedCLIP.texts`. negatives: of each recipe.
        facts: score -> what could change its figures.
    """

    texts: dict[str, Tensor]
    negatives: list[Negatives]
    facts: dict[str, dict[str, object]]


def find_words(
    model: ClipModel,
    classnames: Sequence[str],
    needs: Collection[str],
    negatives: str = "",
    outliers: str = "",
    share: float = SHARE,
) -> Words:
    """Return the words that the inputs `needs` of scores are computed from.

    Args:
        model: in float32. negatives: `source` of `read_lists`; "" for none.
        outliers: a file, or "" for none.

    Raises:
        InputError: as `read_lists`, `mine_negatives` and `read_outliers`.
    """
    words = Words({}, [], {})
    for recipe in RECIPES:
        if negatives and f"{recipe.name}_negatives_logits" in needs:
            mined = mine_negatives(model, classnames, read_lists(negatives), recipe, share)
            words.negatives.append(mined)
            words.texts[recipe.name] = mined.classes
            words.texts[f"{recipe.name}_negatives"] = mined.features
            words.facts[recipe.score] = mined.facts
    if outliers and "eoe_outliers_cosines" in needs:
        names = read_outliers(outliers, classnames)
        words.texts["eoe"] = template_features(model, _spaced(classnames), OUTLIER_TEMPLATE)
        words.texts["eoe_outliers"] = template_features(model, _spaced(names), OUTLIER_TEMPLATE)
        words.facts["EOE"] = {"words": words_hash({"outliers": names}), "outliers": len(names)}
    return words


def overlaps(
    words: Sequence[Word], names: Mapping[str, Collection[str]]
) -> Iterator[tuple[Word, list[str]]]:
    """Yield each word with the keys of `names`, such as OOD sets, whose names include it."""
    plain = {key: set(map(as_in_prompts, group)) for key, group in names.items()}
    for word in words:
        yield word, [key for key, group in plain.items() if as_in_prompts(word.text) in group]


def candidate_texts(
    model: ClipModel, captioner: Captioner, classnames: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return the features `[S, D]` of all texts that may be a caption's candidates, and for each of
    the decoder's V tokens its text's row there, `[V]`, or S if it is a class name.

    Args:
        model: in float32. captioner: its decoder and template are used.
    """
    token_texts = captioner.decoder.texts()  # [V]
    distinct = list(dict.fromkeys(token_texts))  # with class names, to serve any class list
    rows = candidate_rows(distinct, classnames)
    features = word_features(model, distinct, (captioner.template,))
    candidates = torch.from_numpy(features[[text in rows for text in distinct]])  # [S, D]
    row_of = torch.tensor([rows.get(text, len(rows)) for text in token_texts])
    return candidates.to(captioner.rule.device), row_of.to(captioner.rule.device)


def candidate_rows(texts: Sequence[str], classnames: Sequence[str]) -> dict[str, int]:
    """Number the distinct texts that are no class name (in lower case, as CLIP's tokens are).

    Differs from upstream: there a class name is left out only if a text is exactly the same, with
    its capitals and underscores.
    """
    names = {name.lower() for name in _spaced(classnames)}
    return {text: i for i, text in enumerate(dict.fromkeys(t for t in texts if t not in names))}


def _spaced(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]
