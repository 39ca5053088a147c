"""Words of the generated benchmark for NegLabel and CSP, in NegLabel's format.

The small CLIP knows only the words of its training captions: a word that never occurred there has
no meaningful embedding. So the lists hold the names that these captions use, ID classes included,
each thing also in each colour. What the captions never name is not among them.
"""

from pathlib import Path

from generated.backgrounds import BACKGROUNDS
from generated.canvas import COLOUR_NAMES
from generated.clutter import CLUTTER
from generated.kinds import NAMED_THINGS, NAMED_VIEWS

SIZES = ("large", "medium sized", "small")  # as in `streams`
ARTICLES = ("a ", "an ", "the ")


def word_lists() -> dict[str, list[str]]:
    """Return the words of each list, by file name."""
    things = [thing.name for thing in NAMED_THINGS]
    return {
        "adj.colour.txt": list(COLOUR_NAMES),
        "adj.size.txt": list(SIZES),
        "noun.background.txt": [_strip_article(place.name) for place in BACKGROUNDS.values()],
        "noun.clutter.txt": list(CLUTTER),
        "noun.coloured.txt": [f"{colour} {name}" for name in things for colour in COLOUR_NAMES],
        "noun.thing.txt": things,
        "noun.view.txt": [view.name for view in NAMED_VIEWS],
    }


def write_lists(folder: Path) -> None:
    """Write the lists into `folder`, which must not exist."""
    folder.mkdir(parents=True)
    for name, words in word_lists().items():
        (folder / name).write_text("\n".join(words) + "\n", encoding="utf-8")


def _strip_article(name: str) -> str:
    article = next((a for a in ARTICLES if name.startswith(a)), "")
    return name.removeprefix(article)
