"""`compress`: candidates, gates, the card and what predict takes; stopped and resumed."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import gate
from helpers.hub_server import HubServer
from helpers.small_runs import small_recipe, text_rows

import hf_finetune
from hf_finetune import Classifier, Compress, Hub, Launch, Recipe
from hf_finetune.cli.main import main_command
from hf_finetune.compression import formats
from hf_finetune.compression.pruning.feed_forward import PruneFeedForward
from hf_finetune.compression.pruning.vocabulary import TrimVocabulary
from hf_finetune.compression.steps import Chain, StepRows
from hf_finetune.errors import GateError, InputError, StoppedBySignal
from hf_finetune.hub.push import push
from hf_finetune.inference.compressing import run as compressing
from hf_finetune.pipeline import push as pipeline_push
from hf_finetune.pipeline import resume
from hf_finetune.search import run as search_run
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.utils.folder_lock import owned


class Permuted(formats.Safetensors):
    """What writes a network whose head is permuted."""

    name = "permuted"

    def write(self, classifier: TrainedModel, rows: StepRows, folder: Path) -> None:
        layer = classifier.model.classifier
        kept = layer.weight.data.clone(), layer.bias.data.clone()
        layer.weight.data, layer.bias.data = kept[0].roll(1, 0), kept[1].roll(1, 0)
        super().write(classifier, rows, folder)
        layer.weight.data, layer.bias.data = kept


def recipe_in(folder: Path) -> Recipe:
    """A small recipe with validation and test rows."""
    recipe = small_recipe(folder)
    for name, count in (("validation", 40), ("test", 60)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["text", "label"])
            lines.writerows((row["text"], ("bad", "good")[row["label"]]) for row in text_rows(count, seed=len(name)))
    data = replace(recipe.data, validation=str(folder / "validation.csv"), test=str(folder / "test.csv"))
    return replace(recipe, data=data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run and of its rows."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        gate.run_here(patch.setattr)
        hf_finetune.run(recipe_in(folder), Launch(str(folder / "run")))
    return folder


@pytest.fixture(autouse=True)
def measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is measured in this process."""
    gate.run_here(monkeypatch.setattr)
    gate.measure_here(monkeypatch.setattr)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The run in a copy of this folder."""
    return Path(shutil.copytree(finished, tmp_path / "copy")) / "run"


def with_chains(monkeypatch: pytest.MonkeyPatch, *chains: Chain) -> None:
    monkeypatch.setattr(compressing, "chains_of", lambda classifier: chains)
    monkeypatch.setattr(compressing.Compression, "_further_chains", lambda self: iter(()))


def use_by_every_door(place: Path, rows: Path, repository: str, capsys: pytest.CaptureFixture) -> None:
    """Use a compressed model by commands, as any other; the push pulls it again, and compares bytes and logits."""
    main_command(["evaluate", str(place), str(rows), "--json"])
    assert json.loads(capsys.readouterr().out)["rows"] == 60
    predicted = rows.with_name(f"{place.name}.csv")
    main_command(["predict", str(place), str(rows), "--output", str(predicted)])
    assert len(predicted.read_text().splitlines()) == 61
    (place / "README.md").unlink()
    main_command(["card", str(place)])
    assert "compressed copy of the network" in (place / "README.md").read_text()
    main_command(["push", str(place), repository])
    capsys.readouterr()


def test_candidates_and_their_gates(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, hub: HubServer
) -> None:
    pruned = (TrimVocabulary(spare=0), PruneFeedForward())
    with_chains(
        monkeypatch,
        Chain((), formats.Onnx("int8")),
        Chain(pruned, formats.Safetensors()),
        Chain((), Permuted()),
    )
    small = "vocabulary-0+feed-forward+float32"
    # A candidate is lost to a signal, and not tried again after it.
    tried: list[str] = []
    run_one = compressing.Trials.run

    def stopping(self: compressing.Trials, chain: Chain, seconds: float | None) -> compressing.Candidate:
        tried.append(chain.name)
        if tried == ["onnx-int8", small]:
            raise KeyboardInterrupt
        return run_one(self, chain, seconds)

    monkeypatch.setattr(compressing.Trials, "run", stopping)
    with pytest.raises(SystemExit) as stop:
        main_command(["compress", str(run), "--max-loss", "100"])
    folder = run / "compressed"
    assert stop.value.code == 3 and "stopped; 2 candidates of 4 in" in capsys.readouterr().err
    assert Classifier.load(folder / "candidates" / "onnx-int8").predict("a good film") in ("bad", "good")
    with pytest.raises(SystemExit) as stop:
        main_command(["compress", str(run)])
    assert stop.value.code == 2 and "continue by --resume" in capsys.readouterr().err

    main_command(["compress", str(run), "--max-loss", "100", "--resume", "--json"])
    section = json.loads(capsys.readouterr().out)
    assert tried == ["onnx-int8", small, small, "permuted"], "what was finished is not tried again"
    verdicts = {each["name"]: each["verdict"] for each in section["candidates"]}
    assert verdicts == {"source": "source", "onnx-int8": "kept", small: "kept", "permuted": "refused"}
    permuted = section["candidates"][3]
    assert "what was stored does not compute what the network does" in permuted["reason"]
    # Rows that are training rows, too, do not count.
    assert section["rows"] == {"choosing": 39, "final": 57, "final_is_test": True}
    assert section["candidates"][1]["final"]["difference"]["n"] == 57 and section["smaller"] > 0

    # The chosen one is the result of a run like any other.
    result = json.loads((folder / "result.json").read_text())
    assert result["compression"]["chosen"] == section["chosen"] and result["rows"]["test"] == 57
    card = (folder / "README.md").read_text()
    scaling = [json.loads((each / "result.json").read_text()).get("temperature_scaling") for each in (run, folder)]
    assert scaling[0] is not None and scaling[1] is None, "it has the log loss of the network before"
    graph = (folder / "candidates" / "onnx-int8" / "README.md").read_text()
    assert "was run by ONNX Runtime in a fresh process" in graph and "library_name" not in graph
    assert "## Compression" in card and "| permuted |" in card and "![What compression cost and gave]" not in card
    classifier = Classifier.load(folder)
    assert classifier.predict("a good film") in ("bad", "good") and "times the rows per second" in str(
        classifier.result
    )
    assert not (folder / "candidates" / "permuted").exists() and not list(folder.glob("**/.*"))
    main_command(["verify", str(folder)])
    main_command(["compare", str(run), str(folder)])
    assert "shared rows of the test split" in capsys.readouterr().out
    hub.connect(monkeypatch, run.parent / "home")
    monkeypatch.setattr(pipeline_push, "push", lambda *args, **fields: push(*args, endpoint=hub.endpoint, **fields))
    for number, name in enumerate(("onnx-int8", small)):
        use_by_every_door(folder / "candidates" / name, run.parent / "test.csv", f"tester/compressed-{number}", capsys)
    with pytest.raises(InputError, match="finished, there is nothing to resume"):
        Classifier.load(run).compress(resume=True)


@pytest.mark.parametrize("door", ["export", "compress"])
def test_nothing_is_made_of_a_run_whose_gate_failed(door: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has a result.json, by which it is finished."""
    result = json.loads((run / "result.json").read_text())
    result["parity"]["reload"] |= {"ok": False, "max_abs_difference": 0.5}
    (run / "result.json").write_text(json.dumps(result))
    before = sorted(run.iterdir())
    with pytest.raises(SystemExit) as stop:
        main_command([door, str(run)])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 4 and len(lines) == 1
    assert "run: parity: reload does not reproduce the trained model: 0.5 over 4 rows; train again" in lines[0]
    classifier = Classifier.load(run)
    with pytest.raises(GateError, match="parity: reload does not reproduce"):
        (classifier.export if door == "export" else classifier.compress)()
    assert sorted(run.iterdir()) == before


def test_nothing_within_the_limits(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neurons are removed in a training; what was tried is not tried again with other limits."""
    classifier, steps = Classifier.load(run), "feed-forward-movement=0.75,float32"
    with pytest.raises(GateError, match=r"none could be measured; .*resume.* with a longer .*budget.* tries them"):
        classifier.compress(run / "small", budget="1s", steps=steps)
    name = r"feed-forward-movement-0.75\+float32"
    message = (
        rf"`max_loss=100` \(100 points of .*\) and a latency of 0.0001ms: the closest is {name} \(loses .*, p95 .* MB\)"
    )
    with pytest.raises(GateError, match=message):
        classifier.compress(run / "small", max_loss=100, latency="0.0001ms", steps=steps, resume=True)
    assert not (run / "small" / "result.json").exists()
    options = ["--output", str(run / "small"), "--steps", steps, "--max-loss", "100", "--resume", "--json"]
    main_command(["compress", str(run), *options])
    assert json.loads(capsys.readouterr().out)["chosen"] == name.replace("\\", "")
    before, after = (json.loads((each / "model" / "config.json").read_text()) for each in (run, run / "small"))
    assert 4 * after["intermediate_size"] == before["intermediate_size"]


def test_a_recipe_compresses_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the recipe `compress_joint` does; stopped between training and the first candidate, and resumed."""
    recipe = replace(recipe_in(tmp_path), compress=Compress(steps="layers,float32", max_loss=100))
    folder, run_one = tmp_path / "run", compressing.Trials.run

    def stopping(self: compressing.Trials, chain: Chain, seconds: float | None) -> compressing.Candidate:
        monkeypatch.setattr(compressing.Trials, "run", run_one)
        raise KeyboardInterrupt

    monkeypatch.setattr(compressing.Trials, "run", stopping)
    with pytest.raises(StoppedBySignal, match=r"stopped; 1 candidate of 2 in .*compressed; --resume goes on"):
        hf_finetune.run(recipe, Launch(str(folder)))
    trained = (folder / "model" / "model.safetensors").read_bytes()
    other = replace(recipe, train=replace(recipe.train, learning_rate=1.0))
    with pytest.raises(InputError, match=r"learning_rate: the run in .* has .*, now it is 1\.0"):
        hf_finetune.run(other, Launch(str(folder), resume=True))

    result = hf_finetune.run(recipe, Launch(str(folder), resume=True))
    assert result is not None and result["compression"]["chosen"] == "layers+float32"
    assert (folder / "model" / "model.safetensors").read_bytes() == trained, "it was not trained again"
    written = json.loads((folder / "compressed" / "result.json").read_text())
    names = [each["name"] for each in written["compression"]["candidates"]]
    assert names == ["source", "layers+float32"] and "layers+float32" in written["compression"]["front"]
    places = (folder, folder / "compressed")
    before, after = (json.loads((each / "model" / "config.json").read_text()) for each in places)
    assert after["num_hidden_layers"] < before["num_hidden_layers"]
    with pytest.raises(InputError, match="the compression in it is finished, there is nothing to resume"):
        hf_finetune.run(recipe, Launch(str(folder), resume=True))


def test_a_finished_run_is_taken_up_as_it_would_have_ended(
    finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is compressed only if its gate holds. Its push may have failed, and a kill may have left its checkpoints."""
    events: list[str] = []

    def compressed(*_: object, **__: object) -> SimpleNamespace:
        events.append("compress")
        return SimpleNamespace(document={})

    monkeypatch.setattr(resume, "check_target", lambda hub: None)
    monkeypatch.setattr(resume, "push_if_asked", lambda folder, hub: events.append(f"push {folder.name} {hub.repo_id}"))
    monkeypatch.setattr(search_run, "compress", compressed)
    recipe = replace(recipe_in(finished), compress=Compress(), hub=Hub(repo_id="tester/run"))
    launch, file = Launch(str(run), resume=True), run / "result.json"
    (run / "checkpoints" / "checkpoint-7").mkdir(parents=True)
    passed = json.loads(file.read_text())
    failed = passed["parity"]["reload"] | {"ok": False, "max_abs_difference": 0.5}
    file.write_text(json.dumps(passed | {"parity": {"reload": failed}}))
    with pytest.raises(GateError, match=r"parity: reload does not reproduce the trained model: 0\.5 over"):
        hf_finetune.run(recipe, launch)
    file.write_text(json.dumps(passed))
    with owned(run), pytest.raises(InputError, match="has been writing there since"):
        hf_finetune.run(recipe, launch)
    (run / "compressed").mkdir()
    (run / "compressed" / "compression.json").write_text('{"chosen": "onnx"}')
    with pytest.raises(InputError, match="the compression in it is finished, there is nothing to resume"):
        hf_finetune.run(recipe, launch)
    shutil.rmtree(run / "compressed")
    assert not events
    result = hf_finetune.run(recipe, launch)
    assert result is not None and result["metrics"] == passed["metrics"]
    assert events == ["push run tester/run", "compress"] and not (run / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "auto"}, "compress: expected null with method auto"),
        ({"compress": Compress(steps="qat-int8,layers")}, "--steps: qat-int8: expected it as the last step"),
    ],
)
@pytest.mark.parametrize("is_resumed", [False, True])
def test_what_cannot_be_compressed_is_refused_first(
    finished: Path, run: Path, changes: dict[str, Any], message: str, is_resumed: bool
) -> None:
    recipe = replace(recipe_in(finished), **{"compress": Compress(), **changes})
    folder = run if is_resumed else run / "new"
    with pytest.raises(InputError, match=message):
        hf_finetune.run(recipe, Launch(str(folder), resume=is_resumed))
    assert not (run / "new").exists()
