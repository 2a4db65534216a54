"""The rows that an export is compared with."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hf_finetune.data.config import SourceSplit
from hf_finetune.inference import exporting


def test_the_data_of_a_run_on_the_hub(tmp_path: Path) -> None:
    data = {"path": "nyu-mll/glue", "config_name": "sst2", "revision": "main", "max_length": 128}
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": {"data": data}}))
    (tmp_path / "config.json").write_text("{}")
    classifier: Any = SimpleNamespace(name="run", files={"config.json": tmp_path / "config.json"})
    assert exporting._own_data(classifier) == SourceSplit("nyu-mll/glue", config_name="sst2", revision="main")
