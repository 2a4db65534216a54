"""Which run takes the place of the result."""

from pathlib import Path

import pytest

from hf_finetune.errors import GateError
from hf_finetune.pipeline.promotion import promote
from hf_finetune.utils.files import write_json


def test_a_run_whose_gate_failed_does_not_replace_the_result(tmp_path: Path) -> None:
    """It has a result.json, by which a resumed climb takes it for finished."""
    rung, folder = tmp_path / "rungs" / "2-full", tmp_path / "run"
    for place in (rung, folder):
        place.mkdir(parents=True)
    failed = {"ok": False, "rows": 4, "max_abs_difference": 0.5, "tolerance": 1e-4}
    write_json(rung / "result.json", {"metrics": {}, "parity": {"reload": failed}})
    write_json(folder / "result.json", {"metrics": {}})
    with pytest.raises(GateError, match=r"parity: reload does not reproduce the trained model: 0\.5 over 4 rows"):
        promote(rung, folder, {})
    assert [path.name for path in folder.iterdir()] == ["result.json"]
