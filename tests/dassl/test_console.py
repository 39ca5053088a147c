"""Bars on a terminal alone, and output that no encoding stops."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from dassl.utils import console, setup_logger
from dassl.utils.console import escape_unprintable, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def go_through(by_hand: bool, **options) -> None:
    if by_hand:
        with progress_bar(total=6, desc="reading", unit="image", **options) as bar:
            bar.update(2)
            bar.update(4)
    else:
        assert list(progress_bar(range(6), desc="reading", unit="image", **options)) == [*range(6)]


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize(
    "long, options, lines", [(0, {}, 1), (3600, {}, 0), (0, {"disable": True}, 0)]
)
def test_a_file_gets_one_line_of_a_long_stage(by_hand, long, options, lines, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(console, "LONG", long)
    file = io.StringIO()
    go_through(by_hand, file=file, **options)
    assert file.getvalue() == ""
    assert [m.rpartition(" in ")[0] for m in caplog.messages] == ["reading: 6 images"] * lines


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_terminal_gets_a_bar(by_hand, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(console, "LONG", 0)
    file = Terminal()
    go_through(by_hand, file=file)
    assert "6/6" in file.getvalue() and not caplog.messages


def test_a_stage_that_fails_says_nothing_of_its_end(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(console, "LONG", 0)
    with pytest.raises(ZeroDivisionError):
        for _ in progress_bar(range(3), desc="reading", file=io.StringIO()):
            raise ZeroDivisionError
    assert not caplog.messages


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(encoding, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    escape_unprintable()
    print("caf\u00e9 \u732b \udcff", flush=True)
    written = sys.stdout.buffer.getvalue().decode(encoding)
    assert written.startswith("caf") and written.rstrip().endswith("\\udcff")


def test_a_file_name_that_is_not_utf_8_is_escaped_in_the_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    escape_unprintable()
    setup_logger(tmp_path)
    logging.getLogger("x").warning("cannot read %s", "\udcff.png")
    for handler in logging.getLogger().handlers:
        handler.close()
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "cannot read \\udcff.png\n"
    assert capsys.readouterr() == ("cannot read \\udcff.png\n", "")
