"""A run that starts from another one's model, whose classes are others."""

import csv
import dataclasses
import json
import logging
from pathlib import Path

import pytest
from helpers.small_runs import small_recipe, text_rows
from peft import PromptTuningConfig
from safetensors.torch import load_file

from hf_finetune import Hub, Launch, Model, TextData
from hf_finetune.errors import InputError
from hf_finetune.pipeline import run
from hf_finetune.pipeline.choose_kernels import default_kernels
from hf_finetune.pipeline.run import prepare
from hf_finetune.training.probe import KernelChoice

pytestmark = pytest.mark.usefixtures("gate_here")


def test_a_chain(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """LoRA on pairs of two classes, then texts of three others: the second run begins with the merged encoder and a
    head of its own, and is none of pairs."""
    plain = small_recipe(tmp_path)
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["sentence1", "sentence2", "label"])
        lines.writerows((row["text"], "a film", ("bad", "good")[row["label"]]) for row in text_rows(60))
    first = dataclasses.replace(
        plain,
        data=dataclasses.replace(plain.data, path=str(tmp_path / "pairs.csv")),
        model=dataclasses.replace(plain.model, base_model="me/tiny"),
        method="lora",
    )
    run.run(first, Launch(str(tmp_path / "first")))
    with (tmp_path / "sizes.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["text", "label"])
        for row in text_rows(60, seed=1):
            words = len(row["text"].split())
            lines.writerow([row["text"], "short" if words < 7 else "middling" if words < 14 else "long"])
    second = dataclasses.replace(
        first,
        name="sizes",
        data=TextData(path=str(tmp_path / "sizes.csv"), max_length=32),
        model=Model(checkpoint=str(tmp_path / "first")),
        method="head",
    )
    result = run.run(second, Launch(str(tmp_path / "second")))
    assert result["labels"] == ["long", "middling", "short"] and result["base_model"] == "me/tiny"
    assert result["started_from"] == {
        "name": "small",
        "labels": ["bad", "good"],
        "method": "lora",
        "problem_type": "single_label_classification",
    }
    assert any("its head was for 2 other classes (bad, good) and is replaced" in note for note in result["notes"])
    card = (tmp_path / "second" / "README.md").read_text()
    assert "on frozen features, after the run `small` for 2 classes." in card and str(tmp_path) not in card
    told = [json.loads((tmp_path / n / "model" / "config.json").read_text()) for n in ("first", "second")]
    assert [config.get("trained_on_pairs") for config in told] == [True, None]
    # Method head leaves the encoder as it was handed over.
    before, after = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("first", "second"))
    body = [n for n in before if n.startswith("bert.")]
    assert body and all(before[n].equal(after[n]) for n in body)
    assert before["classifier.weight"].shape[0] == 2 and after["classifier.weight"].shape[0] == 3

    # As many classes, but others: nor does their head decide about these.
    other = dataclasses.replace(first, model=Model(checkpoint=str(tmp_path / "first")), method="full")
    again = prepare(other)
    assert again.model.fresh == ()
    text = Path(first.data.path).read_text().replace("film,good", "film,fine").replace("film,bad", "film,poor")
    (tmp_path / "renamed.csv").write_text(text)
    renamed = dataclasses.replace(other, data=dataclasses.replace(first.data, path=str(tmp_path / "renamed.csv")))
    assert prepare(renamed).model.fresh == ("classifier",)

    # An adapter would need what the first run left: it is merged, pushed by its place on the Hub, or not at all.
    lora = dataclasses.replace(other, method="lora")
    with_place = dataclasses.replace(lora, model=dataclasses.replace(lora.model, base_model="me/first"))
    assert [prepare(one).origin.base_changed for one in (lora, with_place)] == ["an earlier run", None]
    prompt = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    alone = dataclasses.replace(other, adapter=prompt, hub=Hub(repo_id="me/second"))
    with pytest.raises(InputError, match=r"hub.repo_id: adapter/ .*the run 'small'.*--base-model"):
        prepare(alone)
    assert prepare(dataclasses.replace(alone, hub=Hub())).origin.base_changed is None
    assert prepare(dataclasses.replace(alone, model=with_place.model)).origin.base_model == "me/first"

    # What becomes of a head that was trained is said.
    with caplog.at_level(logging.INFO):
        run.fit_dry(again, tmp_path, KernelChoice(default_kernels(again)))
    (said,) = (message for message in caplog.messages if message.startswith("the head starts"))
    assert "the checkpoint's" in said and "random" not in said


def test_a_prompt_is_no_start(tmp_path: Path) -> None:
    """It cannot be merged: the message names what can be started from."""
    (tmp_path / "prompt" / "adapter").mkdir(parents=True)
    (tmp_path / "prompt" / "adapter" / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    after = dataclasses.replace(small_recipe(tmp_path), model=Model(checkpoint=str(tmp_path / "prompt")))
    with pytest.raises(
        InputError, match=r"prompt: a run whose adapter could not be merged; .* start from the checkpoint"
    ):
        run.run(after, Launch(str(tmp_path / "after")))
    assert not (tmp_path / "after").exists()
