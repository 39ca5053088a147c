import hashlib

import pytest

from dassl.utils.errors import InputError
from datasets.classnames import (
    classnames_hash,
    imagenet_classnames,
    imagenet_wnids,
    names_from_file,
    read_class_list,
    read_classnames_file,
    read_names,
    report_classnames,
)


def test_imagenet_has_1000_sorted_ids_and_names():
    wnids = imagenet_wnids()
    assert len(wnids) == len(set(wnids)) == len(imagenet_classnames()) == 1000
    assert list(wnids) == sorted(wnids)


@pytest.mark.parametrize(
    "label, wnid, name",
    [
        (0, "n01440764", "tench"),
        (1, "n01443537", "goldfish"),
        (207, "n02099601", "Golden Retriever"),
        (281, "n02123045", "tabby cat"),
        (517, "n03126707", "construction crane"),
        (895, "n04552348", "military aircraft"),
        (954, "n07753592", "banana"),
        (963, "n07873807", "pizza"),
        (999, "n15075141", "toilet paper"),
    ],
)
def test_imagenet_ids_and_names_belong_together(label, wnid, name):
    assert imagenet_wnids()[label] == wnid
    assert imagenet_classnames()[label] == name


def test_user_file_is_read_as_coop_writes_it(tmp_path):
    path = tmp_path / "classnames.txt"
    path.write_bytes("\ufeffn01440764 tench\r\n\r\nn01443537  gold fish \n".encode())
    assert read_classnames_file(path) == [("n01440764", "tench"), ("n01443537", "gold fish")]


def test_folders_with_spaces_are_ended_by_a_tab(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("polar bear\ta white bear\n")
    assert read_classnames_file(path) == [("polar bear", "a white bear")]


@pytest.mark.parametrize(
    "text, message",
    [
        ("n01440764 tench\nn01443537\n", "Line 2 .*n01443537.*a class folder and a name"),
        ("n1 a\nn1 b\n", "more than once: n1"),
        ("\n", "names no class"),
    ],
)
def test_bad_user_files_are_refused(tmp_path, text, message):
    path = tmp_path / "names.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_classnames_file(path)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.txt cannot be read"):
        read_classnames_file(tmp_path / "none.txt")
    for content in (b"\xff\xd8\xff\xe0", "n01440764 tench\n".encode("utf-16-le")):
        (tmp_path / "image.txt").write_bytes(content)
        with pytest.raises(InputError, match=r"image.txt is no UTF-8 text"):
            read_classnames_file(tmp_path / "image.txt")
        with pytest.raises(InputError, match=r"image.txt is no UTF-8 text"):
            read_names(str(tmp_path / "image.txt"))


def test_names_come_in_the_order_asked_and_must_be_complete(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("a one\nb two\nc three\n")
    assert names_from_file(path, ["c", "a"]) == ["three", "one"]
    with pytest.raises(InputError, match=r"lack 2 of the 3 classes: x, y.*CLASSNAMES_FILE"):
        names_from_file(path, ["a", "x", "y"])


def test_class_list_inline_or_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("n01440764  # tench\n\n# fish\nn01443537\n")
    assert read_class_list(str(path)) == read_class_list("n01440764, n01443537,")
    assert read_class_list("polar bear") == ["polar bear"]


@pytest.mark.parametrize("text, message", [("a,b,a", "more than once: a"), (" , ", "no class")])
def test_bad_class_lists_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        read_class_list(text)


def test_missing_class_list_file_is_refused():
    with pytest.raises(InputError, match=r"nowhere.txt cannot be read"):
        read_class_list("nowhere.txt")


def test_hash_tells_names_and_order_apart():
    assert classnames_hash(["a", "b"]) == hashlib.sha256(b"a\nb").hexdigest()[:16]
    assert classnames_hash(["a", "b"]) != classnames_hash(["b", "a"])


def test_shared_names_are_warned_of(caplog):
    report_classnames("X", ["crane", "cat", "crane"], "a file")
    assert "more than one class each" in caplog.text and "crane" in caplog.text
    caplog.clear()
    report_classnames("X", ["cat", "dog"], "a file")
    assert "more than one" not in caplog.text


@pytest.mark.parametrize(
    "pair",
    [
        *("Crane,crane", "hot_dog,hot dog", "hot dog,Hot_ Dog", "caf\u00e9,cafe\u0301"),
        *("salt & pepper,salt &amp; pepper", "driver's,driver\u2019s", "7up,7 up"),
    ],
)
def test_names_of_one_prompt_are_warned_of(caplog, pair):
    report_classnames("X", [*pair.split(","), "cat"], "a file")
    assert pair.replace(",", " = ") in caplog.text and "cat" not in caplog.text
    caplog.clear()
    read_names(pair)
    assert not caplog.text  # whoever makes prompts of the names warns, once


@pytest.mark.parametrize(
    "text, names",
    [
        ("# header\n#1 dad\nC# code\nC#\n", ["#1 dad", "C# code", "C#"]),
        ("## pets\n#\ncat # a pet\nowl\t# \n", ["cat", "owl"]),
        ("0 cat\n1\tblack dog\n2. owl\n", ["cat", "black dog", "owl"]),
        ("0\tcat\n1\t7up\n", ["cat", "7up"]),
        ("1. cat\n2. dog\n", ["cat", "dog"]),
        ("1 001.Albatross\n2 002.Auk\n", ["001.Albatross", "002.Auk"]),
        ("0 #pets\n1 cat\n", ["#pets", "cat"]),
        ("1 dollar bill\n", ["1 dollar bill"]),
        ("1 cat\n1 dog\n", ["1 cat", "1 dog"]),
        ("7_up\n707-320\n", ["7_up", "707-320"]),
        ("7 up\ncat\n", ["7 up", "cat"]),
        ("n01440764 tench\ncat\n", ["n01440764 tench", "cat"]),
        ("n01440764 tench\nn01443537 gold fish\n", ["tench", "gold fish"]),
        ("my cat\t tabby\nmy dog\t tea cup\n", ["tabby", "tea cup"]),
        ("2012 Audi TT\n2012 BMW M3\n", ["2012 Audi TT", "2012 BMW M3"]),
    ],
)
def test_which_words_of_a_line_are_the_name(tmp_path, text, names):
    path = tmp_path / "names.txt"
    path.write_text(text, encoding="utf-8")
    assert read_names(str(path)) == read_names(str(path), labelled=True) == names


def test_there_must_be_a_name(tmp_path):
    (tmp_path / "none.txt").write_text("# cats\n\n")
    for text in ("", " , ", str(tmp_path / "none.txt")):
        with pytest.raises(InputError, match="holds no name: give names, as cat,dog"):
            read_names(text)


@pytest.mark.parametrize(
    "text", ["2. dog\n1. cat\n", "1\tdog\n0\tcat\n", "1 dog\n0 cat\n", "7\tdog\n9\tcat\n"]
)
def test_numbers_must_be_in_order_where_positions_are_labels(tmp_path, text):
    path = tmp_path / "names.txt"
    path.write_text(text, encoding="utf-8")
    assert read_names(str(path)) == ["dog", "cat"]
    with pytest.raises(InputError, match=r"not numbered 0, 1, 2, .* in this order.* as in 7_up"):
        read_names(str(path), labelled=True)


@pytest.mark.parametrize("line", ["#Pets", "##\u00e9t\u00e9 2024", "  #pets of mine"])
def test_a_comment_without_a_blank_is_a_name_or_refused(tmp_path, caplog, line):
    path = tmp_path / "names.txt"
    path.write_text(f"{line}\ncat\n", encoding="utf-8")
    assert read_names(str(path)) == [line.strip(), "cat"]
    assert caplog.text.count("a comment needs a blank after #") == 1
    with pytest.raises(InputError, match=f"1 line like {line.strip()}: .*as in: 0 #"):
        read_names(str(path), labelled=True)


@pytest.mark.parametrize("gap", ["", "# pets", "  "])
def test_nothing_lies_between_names_whose_positions_are_labels(tmp_path, gap):
    path = tmp_path / "names.txt"
    path.write_text(f"# all\n\ncat\n{gap}\ndog\n\n", encoding="utf-8")
    assert read_names(str(path)) == ["cat", "dog"]
    for text, entry in ((str(path), 4), ("cat,,dog", 2)):
        with pytest.raises(InputError, match=f"entry {entry} is blank or a comment"):
            read_names(text, labelled=True)
    path.write_text("# all\n\ncat\ndog # a pet\n\n", encoding="utf-8")
    assert read_names(str(path), labelled=True) == ["cat", "dog"]


def test_a_class_list_may_be_a_file_of_class_names(tmp_path):
    path = tmp_path / "classnames.txt"
    path.write_text("n01440764 tench\nn01443537\tgold fish\n")
    assert read_class_list(str(path)) == ["n01440764", "n01443537"]
    assert read_names(str(path)) == ["tench", "gold fish"]
    path.write_text("n01440764 tench\nhot dog\n")
    assert read_class_list(str(path)) == ["n01440764 tench", "hot dog"]
