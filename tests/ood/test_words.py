"""Lists of words: NegLabel's format, WordNet's files, and lists that are none."""

from __future__ import annotations

import hashlib
import zipfile

import pytest

from dassl.utils.errors import InputError
from ood.words import BUNDLED_FILE, derive_lists, distinct_words, read_lists

# Offset, file, type, words, pointers: a cluster's head (skipped), its antonym, one of a later file.
ADJECTIVES = """\
  1 This software and database is being provided to you
00000100 00 a 02 wooden 0 woody(a) 1 001 ! 00000200 a 0101 | opens a cluster
00000200 00 a 01 Stone-Cold(p) 0 001 ! 00000100 a 0101 | its antonym, at a smaller offset
00000300 00 s 01 lone_some(ip) 0 000 | no cluster's
00000400 01 a 01 roman 0 001 ! 00000500 a 0101 | of another file
00000500 44 a 01 torn 0 000 | a participle
00000600 00 a 01 x 0 000 | of one letter
00000700 00 a 01 lone_some 1 000 | there already
"""
NOUNS = """\
00000100 03 n 01 entity 0 001 ~ 00000200 n 0000 | all there is
00000200 05 n 0b cat 0 a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 000 | an animal, left out
00000300 20 n 0b White_Oak 0 a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 001 @ 00000100 n 0000 | a plant
"""


@pytest.fixture
def folder(tmp_path):
    def write(**files) -> str:
        for name, content in files.items():
            path = tmp_path / f"{name.replace('_', '.')}.txt"
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path)

    return write


def test_words_are_read_in_sorted_order_once(folder):
    source = folder(
        noun_b="tree\nlight\n\n  amber  \n",
        noun_A="light\n",
        adj_x="light\r\nwell_known\n",
        verb_body="yawn\n",
        README="dog\n",
    )
    lists = read_lists(source)
    assert list(lists) == ["adj.x.txt", "noun.A.txt", "noun.b.txt"]
    words = distinct_words(lists)
    assert [(w.text, w.kind, w.file) for w in words] == [
        ("light", "adj", "adj.x.txt"),
        ("well_known", "adj", "adj.x.txt"),
        ("tree", "noun", "noun.b.txt"),
        ("amber", "noun", "noun.b.txt"),
    ]
    spaced = distinct_words(lists, {"adj.x.txt"}, spaces=True)
    assert [word.text for word in spaced] == ["light", "tree", "amber"]


def test_wordnet_files_give_the_lists(tmp_path):
    (tmp_path / "data.adj").write_text(ADJECTIVES)
    (tmp_path / "data.noun").write_text(NOUNS)
    lists = {name: words for name, words in read_lists(str(tmp_path)).items() if words}
    assert lists == {
        "adj.all.txt": ["stone-cold", "lone some"],
        "adj.pert.txt": ["roman"],
        "adj.ppl.txt": ["torn"],
        "noun.Tops.txt": ["entity"],
        "noun.plant.txt": ["white oak"],
    }


def test_the_lists_that_come_along_are_those_of_the_rule(golden):
    lists = read_lists("wordnet")
    expected = golden("wordnet_lists.json")["files"]
    assert {name.removesuffix(".txt") for name in lists} == set(expected)
    for name, words in lists.items():
        digest = hashlib.sha256("\n".join(sorted(set(words))).encode()).hexdigest()
        assert [len(words), digest] == expected[name.removesuffix(".txt")]
    assert len(distinct_words(lists)) == 69_978


def test_the_notice_goes_with_them():
    notice = (BUNDLED_FILE.parent / "LICENSE").read_text()
    assert "WordNet 3.1 Copyright 2011 by Princeton University" in notice
    with zipfile.ZipFile(BUNDLED_FILE) as archive:
        assert archive.read("LICENSE").decode() == notice


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "names no words: there is no list in it"),
        ({"README": "dog"}, "there is no list in it"),
        ({"noun_a": " \n\n"}, r"its lists \(noun.a.txt\) are empty"),
        ({"noun_a": "caf\xe9".encode("latin1")}, r"no UTF-8.* position 3: .*iconv -f LATIN1"),
        (
            {"noun_a": "cat\n".encode("utf-16-le")},
            r"no UTF-8 text \(it holds zero bytes\).*-f UTF-16 -t UTF-8",
        ),
        ({"noun_a": "cat\n".encode("utf-16")}, r"no UTF-8 text.* -f UTF-16 -t"),
    ],
)
def test_lists_that_are_none_are_refused(folder, files, message):
    with pytest.raises(InputError, match=message):
        read_lists(folder(**files))


def test_a_folder_in_the_place_of_a_list_is_refused(tmp_path):
    (tmp_path / "noun.a.txt").mkdir()
    with pytest.raises(InputError, match=r"noun\.a\.txt cannot be read: .*[Dd]irectory"):
        read_lists(str(tmp_path))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such folder .*or wordnet for WordNet's words"):
        read_lists(str(tmp_path / "none"))


def test_a_damaged_file_of_wordnet_is_refused(tmp_path):
    (tmp_path / "data.noun").write_text("nothing of the kind\n")
    with pytest.raises(InputError, match=r"cannot be read as a file of WordNet"):
        derive_lists(tmp_path)
