"""The code of docs/adding.md passes the contract tests of what it adds."""

import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.checkpoints import load_classifier
from helpers.models import randomized
from sklearn.metrics import cohen_kappa_score
from torch import nn

from hf_finetune import InputError
from hf_finetune.cli import main
from hf_finetune.evaluation import intervals, metrics
from hf_finetune.models import families
from hf_finetune.models.surgery import hidden_width
from hf_finetune.models.surgery.gather_mean import GatherMean

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding.md").read_text()
BLOCKS = dict(re.findall(r"^`([\w./]+)`\n\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a new module of the page."""

    def load(path: str) -> Any:
        file = tmp_path / Path(path).name
        file.write_text(BLOCKS[path])
        return module_of(file, path.removesuffix(".py").replace("/", "."), monkeypatch)

    return load


def module_of(file: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a test module."""

    def load(path: str) -> Any:
        return module_of(Path(__file__).parents[1] / path, f"contract_{Path(path).stem}", monkeypatch)

    return load


def run_all(contract: ModuleType, argument: str, value: Any, **others: Any) -> None:
    """Run the tests that take this argument alone, or these others beside it, with the value."""
    tests = [test for name, test in vars(contract).items() if name.startswith("test_")]
    taken = [(test, set(inspect.signature(test).parameters)) for test in tests]
    chosen = [(test, names) for test, names in taken if argument in names and names <= {argument, *others}]
    assert len(chosen) >= 2
    for test, names in chosen:
        test(**{argument: value}, **{name: others[name] for name in names - {argument}})


def test_optimizer(added: Any, contract: Any, tmp_path: Path) -> None:
    signum = added("hf_finetune/training/optim/signum.py").Signum()
    run_all(contract("training/optim/test_optimizers.py"), "choice", signum, tmp_path=tmp_path)
    w = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = signum.build([{"params": [w], "lr": 0.1, "weight_decay": 0.1}], lr=0.1)
    w.grad = torch.tensor([0.5, -0.25])
    optimizer.step()
    assert w.tolist() == pytest.approx([0.99 - 0.1, -1.98 + 0.1])


def test_text_augmentation(added: Any, contract: Any) -> None:
    kind = added("hf_finetune/augmentation/text/reversal.py").ReverseSpan
    battery = contract("augmentation/text/test_operations.py")
    # A recipe takes the operation only from the union.
    del battery.test_json_round_trip
    run_all(battery, "operation", kind(0.6))
    assert battery.observed(kind(1.0), "a b  c") == {"c b  a"} and kind.from_strength(1.0) == kind(0.3)


def test_distillation_loss(added: Any, contract: Any) -> None:
    loss = added("hf_finetune/distillation/losses/absolute_difference.py").AbsoluteDifference()
    run_all(contract("distillation/losses/test_logit_kinds.py"), "kind", loss)


def test_metric(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = dict(vars(metrics))
    exec(BLOCKS["hf_finetune/evaluation/metrics.py"], tables)
    new = {name: tables[name] for name in ("COUNT_METRICS", "ROW_METRICS")}
    new["PROBABILITY_METRICS"] = (*new["ROW_METRICS"], *metrics.BIN_METRICS, *metrics.INFLUENCE_METRICS)
    new["METRICS"] = {metric.name: metric for metric in (*new["COUNT_METRICS"], *new["PROBABILITY_METRICS"])}
    for name, table in new.items():
        monkeypatch.setattr(metrics, name, table)
    for name in ("cohens_kappa", "brier"):
        contract("evaluation/test_metrics.py").test_greater_is_better_as_the_table_says(metrics.METRICS[name])
    contract("evaluation/test_intervals.py").test_values_and_bounds_are_in_order()
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(3, size=50), metrics.softmax(rng.normal(size=(50, 3)))
    actual = intervals.bootstrap(labels, probabilities)
    assert actual["cohens_kappa"].value == pytest.approx(cohen_kappa_score(labels, probabilities.argmax(1)))
    assert actual["brier"].value == pytest.approx(((np.eye(3)[labels] - probabilities) ** 2).sum(1).mean())


def test_family(contract: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (family,) = re.findall(r'^FAMILIES\["(\w+)"\]', PAGE, re.MULTILINE)
    for table in (families.FAMILIES, tiny._SHAPES):
        monkeypatch.setitem(table, family, None)
    # Computed from the table when the module was imported.
    monkeypatch.setattr(hidden_width, "ONE_WIDTH", (*hidden_width.ONE_WIDTH, family))
    exec(BLOCKS["hf_finetune/models/families.py"], dict(vars(families)))
    exec(BLOCKS["tests/helpers/tiny.py"], dict(vars(tiny)))
    checkpoint = tiny.tiny_text_checkpoint(tmp_path / family, family)

    def lively(_: str) -> Any:
        loaded = load_classifier(checkpoint, task="text-classification", labels=["bad", "good", "so-so"])
        return randomized(loaded.model)

    ids = torch.randint(5, 100, (2, 12), generator=torch.Generator().manual_seed(0))
    surgery = contract("models/surgery/test_operations.py")
    # It needs layers with fused kernels, which the page does not describe.
    operations = [(step, (*no, family) if isinstance(step, GatherMean) else no) for step, no in surgery.OPERATIONS]
    monkeypatch.setattr(surgery, "OPERATIONS", operations)
    surgery.test_results_load_with_plain_transformers(family, lively, lambda _: {"input_ids": ids}, tmp_path)


def test_command(
    added: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    added("hf_finetune/cli/labels.py")
    (line,) = re.findall(r"`(\"labels\": Command\(.*?\))`", PAGE)
    for name, command in eval(f"{{{line}}}", {"Command": main.Command}).items():
        monkeypatch.setitem(main.COMMANDS, name, command)
    (tmp_path / "result.json").write_text(json.dumps({"labels": ["bad", "good"]}))
    main.main_command(["labels", str(tmp_path)])
    main.main_command(["labels", str(tmp_path), "--json"])
    assert capsys.readouterr().out == 'bad\ngood\n["bad", "good"]\n'
    with pytest.raises(SystemExit, match="2"):
        main.main_command(["labels", str(tmp_path / "nowhere")])
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'nowhere'}: no result.json")
    with pytest.raises(SystemExit) as stop:
        main.main_command(["labels", "--help"])
    assert not stop.value.code and "Print the class names" in capsys.readouterr().out


def test_loss(added: Any) -> None:
    loss = added("hf_finetune/training/losses/brier.py").Brier()
    logits = torch.zeros(2, 2, requires_grad=True)
    assert loss(logits, torch.tensor([0, 1])).tolist() == [0.5, 0.5]
    assert loss(logits, torch.tensor([[0.5, 0.5], [2.0, 0.0]])).tolist() == [0.5, 1.0], "linear in soft labels"


def test_surgery_step(added: Any, tmp_path: Path) -> None:
    step = added("hf_finetune/models/surgery/norm_eps.py").SetNormEps(1e-3)
    model = step(tiny.one_layer_bert())
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-3}
    checkpoint = tiny.tiny_text_checkpoint(tmp_path, "distilbert")
    with pytest.raises(InputError, match=r"model.surgery: SetNormEps: distilbert has no"):
        step(load_classifier(checkpoint, task="text-classification", labels=["a", "b"]).model)


def test_hook(added: Any) -> None:
    hook, model = added("hf_finetune/training/regularization/weight_limit.py").WeightLimit(0.5), nn.Linear(4, 4)
    nn.init.constant_(model.weight, 2.0)
    hook.after_update(model, None, None, overflowed=False)
    assert all(weight.abs().max() <= 0.5 for weight in model.parameters())


def test_the_files_of_the_page_exist() -> None:
    """Files that are named in backticks, from the root or from the package, unless the page adds them."""
    named = {*re.findall(r"`((?:\w+/)+\w+\.(?:py|md))`", PAGE)} - {*BLOCKS}
    missing = {path for path in named if not ((ROOT / path).exists() or (ROOT / "hf_finetune" / path).exists())}
    assert missing == {"tests/cli/test_labels.py"}
