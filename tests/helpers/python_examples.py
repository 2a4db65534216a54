"""Examples of docstrings and pages, run as a user would run them: a tiny checkpoint, a table, and a Hub at hand."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from helpers import gate
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint

from hf_finetune.pipeline import choose_length, document

# A folder of this name comes before the installed checkpoint, which is the default.
CHECKPOINT = "sentence-transformers/all-MiniLM-L6-v2"


def table(count: int, seed: int) -> pd.DataFrame:
    """Reviews of one to twenty words, and stars."""
    rows = text_rows(count, seed)
    return pd.DataFrame({"review": rows["text"][:], "stars": [("bad", "good")[i] for i in rows["label"]]})


def set_up() -> dict[str, Any]:
    """Write the checkpoint and reviews.csv to the working directory; return the names that examples use."""
    gate.run_here()
    gate.measure_here()
    # Enough for examples, whose rows are few.
    choose_length.LEAST_STEPS = 10
    tiny_text_checkpoint(CHECKPOINT, max_position_embeddings=512)
    frame, test_frame = table(180, 0), table(40, 1)
    frame.to_csv("reviews.csv", index=False)
    test_frame.to_csv("test.csv", index=False)
    return {"frame": frame, "test_frame": test_frame}


def run_docstrings() -> None:
    """Run the examples of the public classes and functions of Python; exit with the number of failures."""
    from hf_finetune import Classifier, Result, paired_difference, train, verdict
    from hf_finetune.sklearn import FineTunedClassifier, FineTunedRegressor

    public = (Classifier, Result, paired_difference, train, verdict)
    names = set_up() | {value.__name__: value for value in public}
    names["clf"] = train(
        names["frame"], test=names["test_frame"], text="review", label="stars", epochs=1, output="runs/reviews"
    )
    runner, failures = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL), 0
    estimators = (FineTunedClassifier, FineTunedRegressor)
    for value in (*public, *estimators):
        # Of classes of the package that it inherits from, too.
        own = [m for n, m in inspect.getmembers(value, inspect.isroutine) if not n.startswith("_")]
        functions = [getattr(m, "__func__", m) for m in own if (m.__module__ or "").startswith("hf_finetune")]
        for member in (value, *filter(inspect.isfunction, functions)):
            text = (inspect.getdoc(member) or "").replace("me/reviews", "tester/reviews")
            examples = doctest.DocTestParser().get_doctest(text, dict(names), member.__qualname__, None, 0)
            # The methods of the estimators are scikit-learn's.
            if not examples.examples and (value not in estimators or member is value):
                print(f"{member.__qualname__} has no example")
                failures += 1
            failures += runner.run(examples).failed
    sys.exit(failures)


def without_plots() -> None:
    """Draw no plots of runs in this process: they take longer than a run on a tiny checkpoint."""
    document.draw_plots = lambda folder, facts: {}


def run_page(page: str, *, with_shell: bool = False) -> None:
    """Run the blocks of Python of a page in one namespace, and its `hf-finetune` commands, in their order."""
    set_up()
    text, names = Path(page).read_text(), dict[str, Any]()
    if ".plots" not in text:
        without_plots()
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for number, (language, block) in enumerate(blocks, start=1):
        block = block.replace("your-name/", "tester/")
        if language == "python":
            exec(compile(block, f"{Path(page).name}, block {number}", "exec"), names)
        elif with_shell:
            for command in commands(block):
                run_command(command)


def commands(block: str) -> list[list[str]]:
    """The `hf-finetune` commands of a block of shell, without their comments."""
    lines = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line[:1] == ["hf-finetune"]]


def run_command(words: list[str]) -> None:
    """Run a command in this process; a redirection writes its output to a file."""
    from hf_finetune.cli.main import main_command

    words, target = (words[: words.index(">")], words[-1]) if ">" in words else (words, os.devnull)
    with open(target, "w", encoding="utf-8") as output, contextlib.redirect_stdout(output):
        main_command(words[1:])
