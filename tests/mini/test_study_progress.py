"""What is written while an evaluation runs, on a terminal and into a file."""

import io

import pytest
from flexid.mini.study import progress

pytestmark = pytest.mark.pure


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_line_and_its_end():
    stream = Terminal()
    with progress.Progress("evaluating", stream) as shown:
        shown.note("3 of 9 pictures")
    assert "3 of 9 pictures" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("\revaluating: done after 0 s\n")


def test_a_file_gets_a_line_now_and_then(monkeypatch):
    stream = io.StringIO()
    with progress.Progress("evaluating", stream) as shown:
        shown.note("1 of 9 pictures")
        monkeypatch.setattr(progress, "QUIET", 0.0)
        shown.note("2 of 9 pictures")
    lines = ["evaluating ...", "evaluating: 0 s  2 of 9 pictures", "evaluating: done after 0 s"]
    assert stream.getvalue().splitlines() == lines


def test_an_interrupted_run_says_so():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), progress.Progress("evaluating", stream):
        raise KeyboardInterrupt
    assert stream.getvalue().endswith("evaluating: stopped after 0 s\n")
