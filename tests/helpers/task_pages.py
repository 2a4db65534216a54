"""The pages of tasks, run as a user would: their data made larger, their commands and their Python, and what these print."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from helpers.python_examples import commands, set_up, without_plots
from helpers.tiny import WORDS, tiny_esm_checkpoint

ROWS = 45
NAMES = (
    "single-label",
    "multi-label",
    "regression",
    "ordinal",
    "tokens",
    "pairs",
    "long-documents",
    "sequences",
)
INDEX = "tasks"
"""Its commands read the data of the other pages."""
DOCS = Path(__file__).parents[2] / "docs"
TEXT_COLUMNS = {"text", "question1", "question2", "sentence1", "sentence2", "query", "document"}
BLOCK = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)


def run_page(name: str) -> None:
    """Run a page in this process and folder."""
    set_up()
    without_plots()
    if name == "sequences":
        tiny_esm_checkpoint(Path("facebook/esm2_t6_8M_UR50D"))
    if name == INDEX:
        for page in NAMES:
            for _, title, block in BLOCK.findall(_text(page)):
                if title:
                    Path(title).write_text(_larger(title, block, page), encoding="utf-8")
    _run_blocks(name)


def _text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def _run_blocks(page: str) -> None:
    names: dict[str, Any] = {}
    printed, shown = "", 0
    for number, (language, title, block) in enumerate(BLOCK.findall(_text(page)), start=1):
        where = f"{page}.md, block {number}"
        if title:
            Path(title).write_text(_larger(title, block, page), encoding="utf-8")
        elif language == "python":
            printed = _printed(lambda code=block, at=where: exec(compile(code, at, "exec"), names), where)
        elif language == "bash":
            printed = "".join(_printed(lambda words=words: _command(words), where) for words in commands(block))
        else:
            missing = set(re.findall(r"[^\W\d][\w:²-]+", block)) - set(re.findall(r"[^\W\d][\w:²-]+", printed))
            assert not missing, f"{where}: {sorted(missing)} not in\n{printed}"
            shown += 1
    # The index leads to the others.
    assert shown or page == INDEX, f"{page}.md shows nothing of what is printed"


def _command(words: list[str]) -> None:
    from hf_finetune.cli.main import main_command

    main_command([word.replace("your-name/", "tester/") for word in words[1:]])


def _printed(step: Any, where: str) -> str:
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            step()
    except SystemExit as stop:
        assert not stop.code, f"{where}: status {stop.code}"
    print(where, file=sys.stderr)
    return output.getvalue()


def _larger(name: str, sample: str, page: str) -> str:
    """Return a file of ROWS rows, or sentences, that are those of the sample, each with other words in its texts."""
    rng = np.random.default_rng(0)

    def words() -> str:
        if page == "sequences":
            return "".join(rng.choice(list("ACGT"), 20))
        # Those of long documents fill several windows.
        return " " + " ".join(rng.choice(WORDS.split(), 130 if page == "long-documents" else rng.integers(3, 12)))

    match Path(name).suffix:
        case ".csv":
            header, *rows = csv.reader(io.StringIO(sample))
            texts, file = [column in TEXT_COLUMNS for column in header], io.StringIO()
            grown = [
                [cell + words() if text else cell for cell, text in zip(rows[i % len(rows)], texts, strict=True)]
                for i in range(ROWS)
            ]
            csv.writer(file, lineterminator="\n").writerows([header, *grown])
            return file.getvalue()
        case ".jsonl":
            rows = [json.loads(line) for line in sample.splitlines()]
            return "".join(f"{json.dumps(r | {'text': r['text'] + words()})}\n" for r in rows * (ROWS // len(rows)))
        case ".conll":
            sentences = sample.strip().split("\n\n")
            # The other words stand behind those of the sample, as nouns.
            return "\n\n".join(
                "\n".join([sentences[i % len(sentences)], *(f"{word} NN" for word in words().split())])
                for i in range(ROWS)
            )
        case ".fasta":
            rows = re.findall(r"^(>.+)\n(\w+)$", sample, re.MULTILINE)
            return "".join(f"{rows[i % len(rows)][0]}\n{rows[i % len(rows)][1]}{words()}\n" for i in range(ROWS))
    raise AssertionError(f"{name}: no way to make more of its rows")
