"""The first minute: `hf-finetune quickstart`, with `--image` and without, on fewer rows, the commands that it ends with, and the same in Python."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageClassification

import hf_finetune
from hf_finetune.cli.main import main_command

pytestmark = pytest.mark.usefixtures("gate_here")
ROOT = Path(__file__).parent.parent.parent
# A full run, with all rows and its gate, is in `.ci/run`.
FEW = {"epochs": 1, "resamples": 100, "parity_rows": 4, "test_fraction": 0.02, "validation_fraction": 0.02}
FEW |= {"plots": False, "baselines": False}
FLAGS = ["--epochs", "1", "--evaluate.resamples", "100", "--evaluate.parity-rows", "4"]
FLAGS += ["--evaluate.no-plots", "--evaluate.no-baselines"]
FLAGS += ["--data.test-fraction", "0.02", "--data.validation-fraction", "0.02"]


def test_the_commands_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    main_command(["quickstart", "--max-train-rows", "200", *FLAGS, "--output", "runs/the first"])
    predict, train, push = capsys.readouterr().out.splitlines()[-3:]
    assert train.split()[2:5] == ["hf-finetune", "train", "YOUR.csv"]
    assert push.split(maxsplit=1)[1] == "hf-finetune push 'runs/the first' YOUR-NAME/headlines"
    main_command(shlex.split(predict)[2:])
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "business"


def test_the_commands_at_the_end_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    main_command(["quickstart", "--max-train-rows", "18", *FLAGS, "--image", "--output", "first"])
    predict, train, push = capsys.readouterr().out.splitlines()[-3:]
    assert push.split(maxsplit=1)[1] == "hf-finetune push first YOUR-NAME/emoji"
    model = AutoModelForImageClassification.from_pretrained("first/model")
    assert model.config.model_type == "efficientnet" and model.config.image_size == 96
    main_command(shlex.split(predict)[2:])
    assert capsys.readouterr().out.splitlines()[1].startswith(tuple(model.config.id2label.values()))
    checkpoint = shlex.split(train, comments=True)[shlex.split(train).index("--model") + 1]
    assert (Path(checkpoint) / "config.json").is_file()


def test_the_lines_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    code, images = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    full, fewer = hf_finetune.train, {"max_train_rows": 200, **FEW}
    pushed: list[str] = []

    def quick(data: Any, **fields: Any) -> hf_finetune.Classifier:
        return full(data, **{**fields, **fewer})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hf_finetune, "train", quick)
    monkeypatch.setattr(hf_finetune.Classifier, "push_to_hub", lambda _, repo: pushed.append(repo))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["clf"].predict("Shares fall as the price of oil rises") == "business"
    fewer["max_train_rows"] = 18
    exec(images, names)
    assert names["clf"].result["labels"][0] == "Activities"
    assert pushed == ["your-name/headlines", "your-name/emoji"]
