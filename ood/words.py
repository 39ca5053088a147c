"""Lists of words that are not classes, in NegLabel's format or derived from WordNet's files.

A folder of lists holds UTF-8 files `noun.NAME.txt` and `adj.NAME.txt`, one word or phrase a line;
other files are ignored. From WordNet's folder `dict` (`data.noun`, `data.adj`) lists are derived as
in NegLabel. "wordnet" stands for the lists of WordNet 3.1 in this repository (`ood/wordnet`).
"""

import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dassl.utils.errors import InputError
from dassl.utils.files import read_text
from dassl.utils.names import classnames_hash
from datasets.folders import absolute

BUNDLED = "wordnet"
BUNDLED_FILE = Path(__file__).parent / "wordnet/words.zip"
KINDS = ("noun", "adj")
LIST = re.compile(r"(noun|adj)\..+\.txt")
LEXNAMES = BUNDLED_FILE.with_name("lexnames.txt")  # lines "number name", one a list
CLUSTERS = 0  # number of the file of adjectives that form clusters of antonyms

Lists = Mapping[str, list[str]]  # file name -> its lines


class Word(NamedTuple):
    """A word or phrase, its kind ("noun" or "adj"), and its list's file."""

    text: str
    kind: str
    file: str


def read_lists(source: str) -> Lists:
    """Read the lists of a folder, sorted by name, so that the order is the same everywhere.

    Args:
        source: a folder of lists, or of WordNet's `data.noun` and `data.adj`; or "wordnet".

    Raises:
        InputError: no such folder, no lists in it, a list that is not UTF-8, or no words in them.
    """
    folder = zipfile.Path(BUNDLED_FILE) if source == BUNDLED else Path(source).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"--negatives {source}: there is no such folder ({absolute(source)}). Name a folder of "
            f"word lists (noun.NAME.txt, adj.NAME.txt), or {BUNDLED} for WordNet's words"
        )
    if (folder / "data.noun").is_file():
        lists = derive_lists(folder)
    else:
        files = {file.name: file for file in folder.iterdir() if LIST.fullmatch(file.name)}
        lists = {name: read_text(files[name], "The list").splitlines() for name in sorted(files)}
    if not any(any(map(str.strip, lines)) for lines in lists.values()):
        reason = f"its lists ({', '.join(lists)}) are empty" if lists else "there is no list in it"
        raise InputError(
            f"--negatives {source} names no words: {reason}. A list is a UTF-8 file called "
            "noun.NAME.txt or adj.NAME.txt, with one word a line"
        )
    return lists


def distinct_words(
    lists: Lists, left_out: Collection[str] = (), spaces: bool = False
) -> list[Word]:
    """Return all words once, in the order of the lists.

    Args:
        left_out: names of lists that are not read. spaces: read underscores as spaces.
    """
    words: dict[str, Word] = {}
    for name, lines in lists.items():
        if name in left_out:
            continue
        for line in lines:
            text = line.replace("_", " ") if spaces else line
            if text := text.strip():
                words.setdefault(text, Word(text, name.partition(".")[0], name))
    return list(words.values())


def words_hash(lists: Lists) -> str:
    """Return 16 hexadecimal digits of the SHA-256 over names and lines of all lists."""
    return classnames_hash([line for name, lines in lists.items() for line in (name, *lines)])


# WordNet


def derive_lists(folder: Path) -> Lists:
    """Derive NegLabel's lists from WordNet's `data.noun` and `data.adj`.

    Each synset gives its first word, in lower case with spaces; words of one letter and repetitions
    within a list are dropped. From WordNet 3.1 this gives NegLabel's published lists, except for
    two words each way, once traces of their parsing (a leading bracket, quotes) are removed.
    """
    lines = LEXNAMES.read_text(encoding="utf-8").splitlines()
    names = {int(number): f"{name}.txt" for number, name in map(str.split, lines)}
    lists: dict[str, dict[str, None]] = {name: {} for name in names.values()}
    for part in KINDS:
        synsets = list(_synsets(folder / f"data.{part}"))
        clusters = {s.offset for s in synsets if s.file == CLUSTERS}
        for synset in synsets:
            word = re.sub(r"\((a|p|ip)\)$", "", synset.word).lower().replace("_", " ")
            name = names.get(synset.file)
            if name and len(word) > 1 and not _opens_cluster(synset, clusters):
                lists[name].setdefault(word)
    return {name: list(lists[name]) for name in sorted(lists)}


class _Synset(NamedTuple):
    offset: int
    file: int
    kind: str
    word: str
    antonyms: list[int]


def _synsets(path: Path) -> Iterator[_Synset]:
    """Yield the synsets of a data file; see wndb(5WN) for its format."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        for line in lines:
            if line.startswith("  "):  # the licence
                continue
            offset, file, kind, count, word, *rest = line.partition("|")[0].split()
            pointers = rest[2 * int(count, 16) :]
            quads = zip(*(pointers[i::4] for i in range(3)), strict=False)
            antonyms = [int(at) for symbol, at, part in quads if symbol == "!" and part == "a"]
            yield _Synset(int(offset), int(file), kind, word, antonyms)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a file of WordNet ({error}): name WordNet's folder dict, "
            "with data.noun and data.adj"
        ) from error


def _opens_cluster(synset: _Synset, clusters: set[int]) -> bool:
    """Return whether a synset opens a cluster of adjectives; the published lists lack these."""
    antonyms = [at for at in synset.antonyms if at in clusters]
    opens = synset.file == CLUSTERS and synset.kind == "a" and antonyms
    return bool(opens) and min(antonyms) > synset.offset
