"""Method classical, from a table of texts, numbers and names to a pushed pipeline and back, in a process of its own."""

from __future__ import annotations

from pathlib import Path

from helpers import forks

WHOLE = """
import io, json, re
from contextlib import redirect_stdout
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from helpers import gate
from hf_finetune import BoostedTrees, Classical, Classifier, GateError, InputError, train
from hf_finetune.cli.main import main_command
from hf_finetune.utils.manifest import Manifest

def table(count, seed):
    rng = np.random.default_rng(seed)
    classes = rng.integers(3, size=count)
    review = [" ".join([*rng.choice(list("abcdefgh"), size=5), ("dull", "fine", "fine")[c]]) for c in classes]
    price = np.where(classes == 2, 90.0, 10.0) + rng.normal(size=count)
    price[::9] = np.nan
    shop = rng.choice(["north", "south", None], size=count)
    stars = np.array(["bad", "good", "dear"])[classes]
    return pd.DataFrame({"review": review, "price": price, "shop": shop, "stars": stars})

frame, test = table(150, 0), table(60, 1)
frame.to_csv("rows.csv", index=False)
test.to_csv("test.csv", index=False)
options = dict(method="classical", text="review", label="stars", features=("price", "shop"))
clf = train(
    frame, test=test, output="run", push="tester/classical", **options,
    classical=Classical(BoostedTrees(rounds=20, rows_per_leaf=5), folds=2), evaluate={"resamples": 100},
)
result = json.loads(Path("run/result.json").read_text())
assert result["method"] == "classical" and result["artefacts"] == ["classical"] and not result["standalone"]
assert result["classical"]["columns"] == {"texts": ["review"], "numbers": ["price"], "names": ["shop"]}
assert len(result["classical"]["tried"]) == 2
assert result["metrics"]["test"]["accuracy"]["value"] > 0.8 > result["baselines"]["majority"]["accuracy"]["value"]
assert all(check["ok"] for check in result["parity"].values())
assert clf.predict(test).tolist() == pd.read_parquet("run/predictions.parquet").query("split == 'test'").predicted.tolist()
assert clf.predict_proba(test).sum(axis=1) == pytest.approx(np.ones(60))
assert clf.evaluate(test).metric("accuracy").value == result["metrics"]["test"]["accuracy"]["value"]
assert clf.evaluate(frame)["rows_trained_on"] == result["rows"]["train"]

# The lines of the card, on the Hub's copy.
card = Path("run/README.md").read_text()
blocks = [b.replace('"DIR"', '"run"') for b in re.findall(r"```python\\n(.*?)```", card, re.DOTALL)]
assert len(blocks) == 3, card
for block in blocks[:2]:
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(block, {})
    assert any(name in printed.getvalue() for name in clf.labels)
pulled = Classifier.load("tester/classical")
assert (pulled.predict_proba(test) == clf.predict_proba(test)).all()
clf.save("copy")
assert (Classifier.load("copy").predict_proba(test) == clf.predict_proba(test)).all()

# The same recipe from a shell, from recipe.json; the gate in this process.
gate.run_here()
printed = io.StringIO()
with redirect_stdout(printed):
    main_command(["train", "rows.csv", "--text", "review", "--label", "stars", "--features", "price", "shop", "--test",
        "test.csv", "--method", "classical", "--classifier", "DecisionTree", "--classical.classifier.depth", "3",
        "--output", "tree", "--evaluate.resamples", "100", "--json"])
    main_command(["plan", "rows.csv", "--text", "review", "--label", "stars", "--features", "price,shop", "--method",
        "classical"])
    main_command(["predict", "tree", "test.csv", "--output", "predicted.csv"])
    main_command(["evaluate", "tree", "test.csv", "--json"])
    main_command(["card", "tree"])
    main_command(["verify", "tree"])
assert "numbers__price" in Path("tree/README.md").read_text() or "price <=" in Path("tree/README.md").read_text()
assert pd.read_csv("predicted.csv").predicted.tolist() == Classifier.load("tree").predict(test).tolist()

assert "rows          135 train, 15 validation, 0 test, 3 classes" in printed.getvalue()
assert not list(Path().glob("runs/*"))

# What is refused.
for call, message in (
    (lambda: clf.predict(["a text"]), "price"),
    (lambda: clf.predict(test.assign(price="cheap")), "column 'price': expected a number"),
    (lambda: clf.embed(test), "no layer"),
    (lambda: clf.predict(test, precision="bf16"), "has no network"),
    (lambda: train("rows.csv", model="run", text="review", label="stars"), "method classical; expected a network"),
    (lambda: train(frame, **{**options, "method": "full"}), "data.features: expected none without"),
    (lambda: train(frame, **options, classical={"extractors": ("Pixels",)}), "Pixels expects images, got texts"),
):
    with pytest.raises(InputError, match=message):
        call()
pipeline = Path("run/classical/pipeline.skops")
content = pipeline.read_bytes()
pipeline.write_bytes(content[:-10] + bytes(10))
with pytest.raises(GateError, match="pipeline.skops: not the file that the run wrote"):
    Classifier.load("run")
"""


def test_classical(hub_environment: dict[str, str], tmp_path: Path) -> None:
    environment = hub_environment | {"HF_FINETUNE_CACHE": str(tmp_path / "cache")}
    answer = forks.run(WHOLE, environment=environment, cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-5000:]
