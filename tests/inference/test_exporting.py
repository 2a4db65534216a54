"""The rows that an export is compared with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from hf_finetune.compression.config import EXPORT_OPTIONS, QUANTIZATION_OPTIONS, ExportOptions
from hf_finetune.data.config import SourceSplit
from hf_finetune.errors import InputError, LossError
from hf_finetune.inference import alternatives, exporting
from hf_finetune.inference.alternatives import Alternative
from hf_finetune.inference.classifier import Classifier


def test_the_data_of_a_run_on_the_hub(tmp_path: Path) -> None:
    data = {"path": "nyu-mll/glue", "config_name": "sst2", "revision": "main", "max_length": 128}
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": {"data": data}}))
    (tmp_path / "config.json").write_text("{}")
    classifier: Any = SimpleNamespace(name="run", files={"config.json": tmp_path / "config.json"})
    assert exporting._own_data(classifier) == SourceSplit("nyu-mll/glue", config_name="sst2", revision="main")


def test_only_rows_without_labels_are_read_without_them(tmp_path: Path) -> None:
    classifier: Any = SimpleNamespace(
        kind="text",
        labels=("bad", "good"),
        label_values={},
        label_separator=None,
        sequence=None,
        pairs=False,
        columns={"text": "text", "label": "label"},
        task=SimpleNamespace(name="single-label"),
    )

    def rows(content: str, options: ExportOptions = EXPORT_OPTIONS) -> list[str]:
        (tmp_path / "rows.csv").write_text(content)
        return exporting._rows(classifier, SourceSplit(str(tmp_path / "rows.csv")), options).column_names

    assert "label" in rows("text,label\na film,good\na plot,bad\n")
    assert "label" not in rows("text\na film\na plot\n")
    with pytest.raises(InputError, match="int8 is judged by labeled rows"):
        rows("text\na film\na plot\n", ExportOptions(weights="int8"))
    # A label that is wrong is the user's mistake.
    with pytest.raises(InputError, match="'god'"):
        rows("text,label\na film,god\na plot,bad\n")


def test_rounded_weights_are_judged_by_more_rows_which_leave_some_for_calibration() -> None:
    assert (
        ExportOptions().most_rows,
        ExportOptions(weights="int8").most_rows,
        ExportOptions(weights="int8", rows=9).most_rows,
    ) == (
        512,
        4000,
        9,
    )
    parts = [Dataset.from_dict({"text": list("abcdef")})]
    assert len(exporting._drawn(iter(parts), 4000)) == 6 and len(exporting._drawn(iter(parts), 4000, half=True)) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": 0}, "ExportOptions.rows: expected at least 1, got 0"),
        ({"max_loss": -1}, "ExportOptions.max_loss: expected a number above 0, got -1"),
        ({"format": "tflite"}, "ExportOptions.format: expected one of onnx, openvino, torch, .*, got 'tflite'"),
        ({"weights": ["int8", QUANTIZATION_OPTIONS]}, "ExportOptions.weights: expected one of float32, .*, got "),
    ],
)
def test_a_value_that_an_option_cannot_have(fields: dict[str, Any], message: str) -> None:
    """Refused before anything is read of the model."""
    nothing: Any = None
    with pytest.raises(InputError, match=message):
        Classifier.export(nothing, **fields)


def test_a_loss_is_refused_with_measured_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_dict({"text": ["a"], "label": [0]})

    def lossy(*_: object) -> None:
        raise LossError("export: int8 loses 3.00 points")

    def closest(classifier: object, judged: Dataset, refused: ExportOptions, calibration: object) -> str:
        assert judged is rows and refused.weights == "int8"
        return "the closest of the others: --weights float16 (...)"

    for name in ("check_exportable", "check_options"):
        monkeypatch.setattr(exporting, name, lambda _: None)
    monkeypatch.setattr(exporting, "TrainedModel", SimpleNamespace)
    monkeypatch.setattr(exporting, "_rows", lambda *_: rows)
    monkeypatch.setattr(exporting, "export_rows", lossy)
    monkeypatch.setattr(exporting, "best_alternatives", closest)
    trained: Any = SimpleNamespace(name="run", files={"config.json": tmp_path / "config.json"})
    with pytest.raises(
        LossError, match=r"loses 3.00 points; the closest .* --weights float16 .*, or allow more"
    ) as error:
        exporting.export(trained, None, None, ExportOptions(weights="int8"))
    assert error.value.exit_status == 4


def test_a_loss_that_is_no_number_is_no_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {"int8": float("nan"), "int8-static": 3.0, "int8-weights": 1.0, "float16": 2.0}

    def measured(classifier: object, rows: object, options: ExportOptions, calibration: object) -> Alternative:
        value = -lost[options.weights] / 100
        comparison: Any = SimpleNamespace(
            points_lost=-100 * value, judged={"value": value, "low": value, "high": value}
        )
        return Alternative(options, comparison, 1_000_000)

    monkeypatch.setattr(alternatives, "_measured", measured)
    nothing: Any = None
    text = alternatives.best_alternatives(nothing, nothing, ExportOptions(weights="int4-weights"), lambda _: nothing)
    assert re.findall(r"--weights (\S+)", text) == ["int8-weights", "float16"] and text.endswith(
        "; float32 loses nothing"
    )


def test_a_format_without_float32_names_the_model_itself() -> None:
    nothing: Any = None
    refused = ExportOptions(format="safetensors", weights="bfloat16")
    text = alternatives.best_alternatives(nothing, nothing, refused, lambda _: nothing)
    assert text == "no other could be measured; the model itself loses nothing"
