"""The whole way in Python, in a process of its own, with a Hub on the loopback interface."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers import forks

ROOT = Path(__file__).parents[2]
EXAMPLES = "from helpers import python_examples as examples\n"
PAGES = ["docs/python.md", "docs/start-csv.md", "docs/start-ship.md", "docs/start-experiment.md", "README.md"]
Run = Callable[[Path, str], CompletedProcess]


@pytest.fixture(scope="module")
def run(hub_environment: dict[str, str]) -> Run:
    """Run code in a folder."""

    def run_there(folder: Path, code: str) -> CompletedProcess:
        environment = hub_environment | {"HF_FINETUNE_CACHE": str(folder / "cache")}
        answer = forks.run(EXAMPLES + code, environment=environment, cwd=folder)
        assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
        return answer

    return run_there


def test_examples_of_docstrings(run: Run, tmp_path: Path) -> None:
    run(tmp_path, "examples.run_docstrings()")


@pytest.mark.parametrize("page", PAGES)
def test_pages(run: Run, tmp_path: Path, page: str) -> None:
    run(tmp_path, f"examples.run_page({str(ROOT / page)!r}, with_shell={'start-' in page})")


STOPPED = """
import time
import pytest
from helpers.small_runs import stop_after
from hf_finetune import StoppedBySignal, InputError, train
frame = examples.set_up()["frame"]
options = {"text": "review", "label": "stars", "epochs": 2, "mixed_precision": "no", "per_device_train_batch_size": 16}
options |= {"evaluate": {"resamples": 100, "baselines": False, "plots": False}}
begun = time.time()
whole = train("reviews.csv", output="whole", **options)
assert whole.result.time["total_s"] <= time.time() - begun, "not from the start of the process"
with pytest.MonkeyPatch.context() as patch:
    stop_after(patch, 7)
    with pytest.raises(StoppedBySignal):
        train(frame, output="stopped", **options)
for data in (frame.replace({"review": {frame["review"][5]: "another text"}}), frame.iloc[:-1]):
    with pytest.raises(InputError, match="data fingerprint: the run in"):
        train(data, output="stopped", resume=True, **options)
again = train(frame, output="stopped", resume=True, **options)
assert again.result["metrics"] == whole.result["metrics"]
assert (again.predict_proba(frame) == whole.predict_proba(frame)).all()
with pytest.raises(InputError, match="these are the training rows"):
    train(frame, validation=frame)
"""


def test_resumed_and_equal_to_a_file(run: Run, tmp_path: Path) -> None:
    """The rows are compared, not their copy: nothing of them is in recipe.json or on the card."""
    run(tmp_path, STOPPED)
    record = json.loads((tmp_path / "stopped" / "recipe.json").read_text())
    assert record["recipe"]["data"]["path"] == "memory:data" and record["recipe"]["name"] == "data-full"
    words = " ".join((tmp_path / "reviews.csv").read_text().splitlines()[1].split(",")[0].split()[:4])
    for file in ("recipe.json", "README.md", "result.json"):
        assert words not in (tmp_path / "stopped" / file).read_text()
    assert "rows in memory" in (tmp_path / "stopped" / "README.md").read_text()


FOLDS = """
import pickle
from sklearn.model_selection import cross_validate
from hf_finetune.sklearn import FineTunedClassifier
frame = examples.set_up()["frame"]
texts, labels = frame["review"].tolist(), (frame["stars"] == "good").astype(int)
estimator = FineTunedClassifier(examples.CHECKPOINT, epochs=1, evaluate={"resamples": 100, "baselines": False, "plots": False})
folds = cross_validate(estimator, texts, labels, cv=2, return_estimator=True)
assert folds["test_score"].shape == (2,) and (folds["test_score"] > 0.3).all()
fitted = folds["estimator"][0]
assert fitted.classes_.tolist() == [0, 1]
expected, folder = fitted.predict_proba(texts), fitted.classifier_.folder
copy = pickle.loads(pickle.dumps(fitted))
assert folder.exists()
del fitted, folds
assert not folder.exists(), "the folder of a run is removed with its estimator"
assert (copy.predict_proba(texts) == expected).all()
"""


def test_estimator(run: Run, tmp_path: Path) -> None:
    answer = run(tmp_path, FOLDS)
    assert "train:" not in answer.stderr and "held out" not in answer.stderr, "quiet unless verbose"
