"""The generated benchmark's own words for NegLabel and CSP, in NegLabel's format.

Its small CLIP knows the words of its training captions alone: a word that never occurred there
embeds as nothing. So the words are the names of what that stream's captions speak of, ID classes
and all, each thing in each colour as well, as they occur there. Whatever the captions never name
is not among them.
"""

from pathlib import Path

from generated.backgrounds import BACKGROUNDS
from generated.canvas import COLOUR_NAMES
from generated.clutter import CLUTTER
from generated.kinds import NAMED_THINGS, NAMED_VIEWS

SIZES = ("large", "medium sized", "small")  # as `streams` says them
ARTICLES = ("a ", "an ", "the ")


def word_lists() -> dict[str, list[str]]:
    """Return the lists: file name -> its words."""
    things = [thing.name for thing in NAMED_THINGS]
    return {
        "adj.colour.txt": list(COLOUR_NAMES),
        "adj.size.txt": list(SIZES),
        "noun.background.txt": [_bare(background.name) for background in BACKGROUNDS.values()],
        "noun.clutter.txt": list(CLUTTER),
        "noun.coloured.txt": [f"{colour} {name}" for name in things for colour in COLOUR_NAMES],
        "noun.thing.txt": things,
        "noun.view.txt": [view.name for view in NAMED_VIEWS],
    }


def write_lists(folder: Path) -> None:
    """Write the lists into `folder`."""
    folder.mkdir(parents=True)
    for name, words in word_lists().items():
        (folder / name).write_text("\n".join(words) + "\n", encoding="utf-8")


def _bare(name: str) -> str:
    article = next((a for a in ARTICLES if name.startswith(a)), "")
    return name.removeprefix(article)
