"""Hub data sets, served by a loopback Hub, and a one-line error for every failure."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets.exceptions import DatasetNotFoundError
from helpers.hub_server import hub_server

from hf_finetune.data.readers.hub_dataset import hub_splits
from hf_finetune.errors import InputError

FEATURES = Features(
    {
        "premise": Value("string"),
        "hypothesis": Value("string"),
        "label": ClassLabel(names=["entailment", "neutral", "contradiction"]),
        "idx": Value("int32"),
    }
)

# Endpoints are read at import, hence another process.
CHILD = """
import json, sys
from hf_finetune.data.config import Source, SourceSplit, SplitOptions
from hf_finetune.data.loading import load
from hf_finetune.data.sources import sniff_kind
from hf_finetune.data.streaming import stream
from hf_finetune.errors import InputError

def answer(work):
    try:
        return work()
    except InputError as error:
        return str(error)

def splits(config, **options):
    splits = load(Source("nyu-mll/glue", config), "text", SplitOptions(**options))
    sizes = [len(splits.train), len(splits.validation), splits.test and len(splits.test)]
    return [sizes, splits.labels, splits.columns, splits.notes, splits.train[4], splits.validation[0]["text"]]

def scored(config, **options):
    labels = ("contradiction", "entailment", "neutral")
    parts = stream(SourceSplit("nyu-mll/glue", config, **options), "text", labels=labels)
    return [row["label"] for rows in parts for row in rows]

answers = [
    answer(lambda: sniff_kind(Source("nyu-mll/glue", "mnli"))),
    answer(lambda: sniff_kind(Source("nyu-mll/glue"))),
    answer(lambda: load(Source("nyu-mll/glue", "mnly"), "text")),
    answer(lambda: load(Source("nyu-mll/glue", "mnli", "v9"), "text")),
    answer(lambda: load(Source("nyu-mll/none"), "text")),
    answer(lambda: splits("mnli")),
    answer(lambda: splits("mnli", validation="validation_matched")),
    answer(lambda: splits("mrpc")),
    answer(lambda: scored("mrpc")),
    answer(lambda: scored("mnli")),
    answer(lambda: scored("mnli", split="test_matched")),
]
print(json.dumps(answers))
"""


def table(rows: int, start: int, label: int | None = None) -> Any:
    columns = {
        "premise": [f"premise {start + i}" for i in range(rows)],
        "hypothesis": [f"hypothesis {start + i}" for i in range(rows)],
        "label": [i % 3 if label is None else label for i in range(rows)],
        "idx": list(range(rows)),
    }
    return Dataset.from_dict(columns, features=FEATURES).data.table


def test_a_glue_like_data_set(tmp_path: Path) -> None:
    with hub_server() as hub:
        mnli = {"train": table(30, 0), "validation_matched": table(9, 100), "validation_mismatched": table(6, 200)}
        hub.add_dataset(
            "nyu-mll/glue",
            mnli | {"test_matched": table(5, 300, -1), "test_mismatched": table(5, 400, -1)},
            config="mnli",
        )
        hub.add_dataset(
            "nyu-mll/glue",
            {"train": table(30, 0), "validation": table(6, 100), "test": table(5, 300, -1)},
            config="mrpc",
        )
        environment = os.environ | hub.environment(tmp_path) | {"PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, timeout=1800
        )
    assert done.returncode == 0, done.stderr[-3000:]
    kind, config, wrong_config, revision, missing, several, mnli, mrpc, scored, unclear, unlabeled = json.loads(
        done.stdout.splitlines()[-1]
    )
    assert kind == "text"
    assert config == wrong_config == "nyu-mll/glue: name one of its configurations by --config-name: mnli, mrpc"
    assert revision == (
        "nyu-mll/glue: this Hub data set has no revision 'v9'; name a branch, tag or commit of it by --revision"
    )
    assert missing.startswith(
        "nyu-mll/none: no such file or folder here, and no such data set on the Hub; check the name"
    )
    assert several == (
        "nyu-mll/glue: several splits could be validation; name one by --validation: "
        "validation_matched, validation_mismatched"
    )
    sizes, labels, columns, notes, row, first = mnli
    assert sizes == [30, 9, None] and labels == ["entailment", "neutral", "contradiction"]
    assert columns == {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    assert row == {"text": "premise 4", "text_pair": "hypothesis 4", "label": 1, "row": 4} and first == "premise 100"
    assert "several splits could be test, none is used; name one by --test: test_matched, test_mismatched" in notes
    sizes, _, _, notes, _, _ = mrpc
    assert sizes == [30, 6, None]
    assert "test: no row of test has a label (all are -1 or empty), so it is not evaluated" in notes
    assert scored == [1, 2, 0, 1, 2, 0]
    assert unclear == (
        "nyu-mll/glue: several splits could be read; name one by --split: validation_matched, validation_mismatched"
    )
    assert unlabeled == (
        "nyu-mll/glue, split test_matched: every label in column 'label' is empty or -1; "
        "only predict can use these rows"
    )


FAULTS = """
import json, resource, signal
from hf_finetune.data.readers.hub_dataset import hub_splits
from hf_finetune.errors import InputError
from hf_finetune.utils import hub_requests

hub_requests.sleep = lambda seconds: None
hub_requests.WAITS_S = (1.0,)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def answer(name):
    try:
        return len(hub_splits(f"lab/{name}", None, None)["train"].rows)
    except InputError as error:
        return str(error)

answers = [answer(name) for name in ("reset", "lost", "cut")]
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
answers.append(answer("full"))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
import os
os.environ["HF_TOKEN"] = "hf_" + "x" * 34
answers.append(answer("stale"))
print(json.dumps(answers))
"""


def test_faults_of_the_hub(tmp_path: Path) -> None:
    """A download that breaks off is repeated; a lasting fault is one line with its own remedy."""
    with hub_server() as hub:
        for name in ("reset", "lost", "cut", "full", "stale"):
            hub.add_dataset(f"lab/{name}", {"train": table(2000 if name == "full" else 30, 0)})
        hub.reset_answer("GET", "lab/reset/resolve/.*parquet", after_bytes=100)
        hub.drop_answer("GET", "/api/datasets/lab/lost")
        hub.reset_answer("GET", "lab/cut/resolve/.*parquet", after_bytes=0, times=1000)
        environment = os.environ | hub.environment(tmp_path) | {"PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, timeout=1800
        )
        assert hub.token not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr[-3000:]
    reset, lost, cut, full, stale = json.loads(done.stdout.splitlines()[-1])
    assert (reset, lost) == (30, 30)
    assert cut.startswith("lab/cut: the download broke off (") and cut.endswith("; try again: finished files are kept")
    assert "cannot be written (File too large); make room there, or name another folder by HF_HOME" in full
    assert stale == "lab/stale: the Hub does not accept the token: run `hf auth login`, or set HF_TOKEN"


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub. You must be\nauthenticated"),
            "is gated; ask for access",
        ),
        (DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"), "no such data set on the Hub; check the name"),
        (
            ConnectionError("Couldn't reach 'a/b' on the Hub"),
            "the Hub cannot be reached (Couldn't reach 'a/b' on the Hub); check the name and the network",
        ),
        (
            ValueError("Config name is missing.\nPlease pick one among the available configs: ['x', 'y']\nExample"),
            "by --config-name: x, y",
        ),
        (ValueError("BuilderConfig 'z' not found. Available: ['x', 'y']"), "by --config-name: x, y"),
        (
            RuntimeError("Dataset scripts are no longer supported, but found b.py"),
            "try --revision refs/convert/parquet",
        ),
        (
            chained(RuntimeError("An error occurred"), ValueError("line 3\nis odd")),
            "cannot be read (line 3 is odd); open it on the Hub",
        ),
    ],
)
def test_every_exception_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError) as caught:
        hub_splits("a/b", None, None)
    assert str(caught.value).startswith("a/b: ") and expected in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_split(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_dict({"text": []})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": rows})
    with pytest.raises(InputError, match=r"^a/b, split train: there are no rows$"):
        list(hub_splits("a/b", None, None)["train"].chunks(["text"], 10))


def test_images_stay_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["a", "b"])})
    rows = Dataset.from_dict({"image": [{"bytes": b"x", "path": "p"}] * 3, "label": [0, 1, 0]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": rows})
    split = hub_splits("a/b", None, None)["train"]
    assert split.columns()["label"].names == ("a", "b") and split.columns()["image"].kind == "image"
    chunks = list(split.chunks(["image", "label"], 2))
    assert chunks[1].columns == {"image": [{"bytes": b"x", "path": "p"}], "label": [0]}
    assert chunks[1].place(0) == "a/b, split train, row 2 counted from 0"
