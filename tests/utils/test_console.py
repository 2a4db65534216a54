"""Tables in plain text, and progress where there is no terminal and where there is one."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys

import pytest

from hf_finetune.utils import console
from hf_finetune.utils.console import Progress, paragraph, table
from hf_finetune.utils.messages import cut, cut_end


def test_columns_of_wide_characters_are_aligned() -> None:
    rows = [("class", "f1", "rows"), ("正面", "0.5", "3"), ("bad [red]", "0.25", "12")]
    assert table(rows, right=[2], width=80) == "class      f1    rows\n正面       0.5      3\nbad [red]  0.25    12"


def test_long_names_lose_their_middle() -> None:
    assert table([("x" * 50 + "end", "1")], width=20) == "xxxxxxx...xxxxend  1"
    assert table([("a\nb", "1")]) == "a b  1" and table([]) == ""
    assert cut("abcdef", 6) == "abcdef" and cut("abcdefghij", 8) == "abc...ij"
    assert cut("正面评论标签", 8) == "正 ...签" and cut_end("正面评论", 7) == "正面..."


def test_paragraph() -> None:
    assert paragraph("note", "word " * 20, width=40).splitlines()[1] == " " * 14 + "word word word word word"


def test_without_a_terminal_progress_is_a_line_every_few_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console, "_log", console._Log())
    caplog.set_level(logging.INFO, "hf_finetune.run")
    with Progress("read", quiet=True) as outer:
        now[0] += 4
        outer.update(10)
        with Progress("score", total=2000) as bar:  # longer than two seconds without a line
            for _ in range(10):
                now[0] += 1
                bar.update(100, remark="loss 0.5")
    assert caplog.messages == ["score: 0 of 2,000 rows", "score: 500 of 2,000 rows, loss 0.5, 5 s",
                               "score: 1,000 of 2,000 rows, loss 0.5, 10 s"]  # fmt: skip


def test_the_time_between_two_calls_is_no_silence(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console, "_log", console._Log())
    caplog.set_level(logging.INFO, "hf_finetune.run")
    for _ in range(2):
        console.begin_call()
        with Progress("score", total=1) as bar:
            bar.update()
        now[0] += 60
    assert caplog.messages == []


PROGRAM = """
import logging, os, sys
from hf_finetune.utils.console import Progress
from hf_finetune.utils.exit_status import notes_on_stderr
with notes_on_stderr(), Progress("work", total=3) as bar:
    bar.update()
    logging.getLogger("hf_finetune.run").info("a note [red]")
    if not os.fork():
        bar.update()
        logging.getLogger("hf_finetune.run").info("of a worker")
        os._exit(0)
    os.wait()
print("done")
"""


def test_on_a_terminal_progress_is_a_bar_below_the_notes() -> None:
    """It is erased, and a forked process, whose locks may be taken, leaves it alone."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=60, text=True
    )
    os.close(theirs)
    printed = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.stdout == "done\n" and "0 of 3 rows" in printed
    assert "a note [red]\r\n" in printed and "of a worker\r\n" in printed and "\x1b[31m" not in printed
