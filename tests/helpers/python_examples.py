"""Examples of docstrings and pages, run as a user would run them: a tiny checkpoint, a table, and a Hub at hand."""

from __future__ import annotations

import doctest
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from helpers import gate
from helpers.small_runs import text_rows
from helpers.tiny import tiny_text_checkpoint

# A folder of this name, so that examples can name a real checkpoint.
CHECKPOINT = "sentence-transformers/all-MiniLM-L6-v2"


def table(count: int, seed: int) -> pd.DataFrame:
    """Reviews of one to twenty words, and stars."""
    rows = text_rows(count, seed)
    return pd.DataFrame({"review": rows["text"][:], "stars": [("bad", "good")[i] for i in rows["label"]]})


def set_up() -> dict[str, Any]:
    """Write the checkpoint and reviews.csv to the working directory; return the names that examples use."""
    from hf_finetune.config import recipe

    gate.run_here()
    tiny_text_checkpoint(CHECKPOINT, max_position_embeddings=512)
    recipe.minilm = lambda: CHECKPOINT
    frame, test_frame = table(180, 0), table(40, 1)
    frame.to_csv("reviews.csv", index=False)
    test_frame.to_csv("test.csv", index=False)
    return {"frame": frame, "test_frame": test_frame}


def run_docstrings() -> None:
    """Run the examples of the public classes and functions of Python; exit with the number of failures."""
    from hf_finetune import Classifier, Result, train
    from hf_finetune.sklearn import FineTunedClassifier

    names = set_up() | {"train": train, "Classifier": Classifier, "Result": Result}
    names["clf"] = train(
        names["frame"], test=names["test_frame"], text="review", label="stars", epochs=1, output="runs/reviews"
    )
    runner, failures = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL), 0
    for public in (Classifier, Result, train, FineTunedClassifier):
        members = vars(public) if inspect.isclass(public) else {}
        functions = [getattr(m, "__func__", m) for n, m in members.items() if not n.startswith("_")]
        for member in (public, *filter(inspect.isfunction, functions)):
            text = (inspect.getdoc(member) or "").replace("me/reviews", "tester/reviews")
            examples = doctest.DocTestParser().get_doctest(text, dict(names), member.__qualname__, None, 0)
            # The methods of the estimator are scikit-learn's.
            if not examples.examples and (public is not FineTunedClassifier or member is public):
                print(f"{member.__qualname__} has no example")
                failures += 1
            failures += runner.run(examples).failed
    sys.exit(failures)


def run_page(page: str) -> None:
    """Run the Python of a page in one namespace, block by block."""
    names: dict[str, Any] = set_up()
    names.clear()
    blocks = re.findall(r"^```python\n(.*?)^```", Path(page).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks, start=1):
        exec(compile(block.replace("your-name/", "tester/"), f"{Path(page).name}, block {number}", "exec"), names)
