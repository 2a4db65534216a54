"""The card: valid metadata, the facts of recipe and result, deterministic bytes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cards import card_of
from helpers.hub_run import RECIPE, example_result, interval
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from hf_finetune import Hub, ImageData, Model, Recipe, TextData, Train
from hf_finetune.config.recipe import recipe_from_plain
from hf_finetune.hub.card import render_card
from hf_finetune.hub.run_facts import RunFacts
from hf_finetune.utils.plain import merge, to_plain


def section(card: ModelCard, title: str) -> str:
    return card.text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_metadata(tmp_path: Path) -> None:
    card = card_of()
    (tmp_path / "README.md").write_text(str(card))
    metadata = metadata_load(tmp_path / "README.md")
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "text-classification"
    assert metadata["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert (metadata["language"], metadata["license"]) == ("en", "apache-2.0")
    assert metadata["metrics"] == ["accuracy", "f1", "ece"]
    assert metadata["tags"] == ["hf_finetune"]
    assert "datasets" not in metadata
    results = {r.metric_name: r for r in card.data.eval_results}
    assert {name: r.metric_value for name, r in results.items()} == {
        "Accuracy": 0.8461,
        "Macro F1": 0.83,
        "Expected calibration error": 0.04,
    }
    accuracy = results["Accuracy"]
    assert (accuracy.dataset_split, accuracy.dataset_name, accuracy.dataset_type) == (
        "test",
        "movie, test split",
        "local",
    )
    assert results["Macro F1"].metric_args == {"average": "macro"}
    assert card.data.model_name == "movie-full"
    assert "verify" not in str(card)


def test_without_a_test_split_the_results_are_of_validation() -> None:
    result = example_result()
    del result["metrics"]["test"], result["rows"]["test"], result["data"]["duplicates"]["test"]
    card = card_of(result=result)
    assert {r.dataset_split for r in card.data.eval_results} == {"validation"}
    assert card.data.eval_results[0].metric_value == 0.85
    assert "Validation split, 100 rows" in section(card, "Results")
    assert "nothing is claimed about new data" in section(card, "Results")
    assert "this model, validation" not in card.text
    assert section(card, "Limitations").lstrip().startswith("- No test split: ")


def test_metrics_have_intervals_and_baselines() -> None:
    results = section(card_of(), "Results")
    assert "Test split, 200 rows" in results
    lines = results.strip().splitlines()[2:]
    assert lines[0] == "| metric | this model | majority | linear (tfidf+logistic) | this model, validation |"
    assert lines[2] == (
        "| Accuracy | 0.846 [0.816, 0.876] | 0.500 [0.470, 0.530] | 0.740 [0.710, 0.770] | 0.850 [0.820, 0.880] |"
    )
    assert lines[3] == "| Macro F1 | 0.830 [0.800, 0.860] |  | 0.730 [0.700, 0.760] | 0.840 [0.810, 0.870] |"


def test_most_frequent_confusions() -> None:
    result = example_result()
    result["confused"] = [{"label": "a", "predicted": "b", "count": 12, "support": 1200}]
    assert "confusions" not in section(card_of(result=result), "Results")  # two classes: the metrics tell as much
    result["labels"] = [*result["labels"], "a third"]
    assert "\n- Most frequent confusions: 12 of 1,200 `a` as `b`." in section(card_of(result=result), "Results")


def test_the_other_sections() -> None:
    card = card_of()
    assert "0.040 [0.010, 0.070]" in section(card, "Calibration") and "by 1.25 " in section(card, "Calibration")
    assert "| 0.50 to 0.60 | 0.550 | 0.500 | 1,234 |" in section(card, "Calibration")
    assert "22,713,986 of 22,713,986 parameters" in card.text
    data = section(card, "Training data")
    assert "Local data: `movie`, license: cc-by-4.0." in data
    assert "| test | 200 | 3 |" in data and "- 'notes.txt' is no split: ignored" in data and "ab" * 32 in data
    assert "| train.learning_rate | 8e-05 |" in section(card, "Training procedure")
    assert "| train rows | 312.7/s |" in section(card, "Time and hardware")
    assert "flop" not in card.text
    assert "| reload | 1.2e-06 | 1e-04 | 64 | yes |" in section(card, "Parity")
    assert "\nhf-finetune train movie --model minilm\n" in section(card, "Reproduce")
    assert "hf_finetune 0.1.0" in section(card, "Reproduce") and "`0123abc`" in section(card, "Reproduce")
    limits = section(card, "Limitations")
    assert "1.2% of the training texts are longer than 128 tokens" in limits
    assert "3 of 200 test rows are also in train" in limits and "validation rows" not in limits
    assert "overlap" not in limits and "Not stated" not in limits


def test_no_signal_over_a_baseline() -> None:
    result = example_result()
    result["baselines"]["linear"]["accuracy"] = interval(0.80)
    limits = section(card_of(result=result), "Limitations")
    assert "No signal over the linear baseline: its accuracy 0.800 [0.770, 0.830]" in limits
    assert "majority baseline" not in limits


def test_unknown_facts_are_listed() -> None:
    result = example_result()
    result["base_model"] = result["data"]["license"] = None
    recipe = replace(RECIPE, hub=Hub(), data=replace(RECIPE.data, license=None))
    card = card_of(recipe, result)
    assert card.data.base_model is None and card.data.license is None and card.data.language is None
    assert "the local checkpoint `minilm`" in card.text and "/home" not in card.text
    limits = section(card, "Limitations")
    for unknown in ("base model's id", "language of the texts", "license of the model", "license of the data"):
        assert unknown in limits


def test_result_without_optional_keys() -> None:
    kept = ("schema", "name", "task", "checkpoint", "method", "seed", "labels", "rows", "metrics")
    card = card_of(result={k: v for k, v in example_result().items() if k in kept})
    for title in ("Parity", "Time and hardware", "Reproduce"):
        assert f"## {title}" not in card.text
    assert card.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize(
    ("checkpoint", "given", "known", "expected"),
    [
        ("google-bert/bert-base-uncased", None, {}, "google-bert/bert-base-uncased"),
        ("/models/bert", "google-bert/bert-base-uncased", {}, "google-bert/bert-base-uncased"),
        ("/models/bert", None, {}, None),
        ("/models/bert", None, {"base_model": "a/b"}, "a/b"),
        ("runs/model", None, {"base_model": None}, None),
        ("runs/model", None, {"checkpoint": "model"}, None),
        ("runs/model", None, {"base_model": "/runs/model"}, None),
        ("./runs", "../other", {}, None),
    ],
)
def test_base_model_is_an_id_or_left_out(checkpoint: str, given: str | None, known: dict, expected: str | None) -> None:
    result = {k: v for k, v in example_result().items() if k not in ("base_model", "checkpoint")} | known
    card = card_of(replace(RECIPE, model=Model(checkpoint=checkpoint, base_model=given)), result)
    assert card.data.base_model == expected
    assert ("base model's id" in section(card, "Limitations")) == (expected is None)


def test_only_hub_data_are_linked() -> None:
    data = TextData(path="nyu-mll/glue", config_name="mnli", revision="abc", validation="validation_matched")
    result = example_result()
    result["data"]["path_name"] = "nyu-mll/glue"
    del result["metrics"]["test"]
    card = card_of(replace(RECIPE, data=data), result)
    assert card.data.datasets == ["nyu-mll/glue"]
    first = card.data.eval_results[0]
    assert (first.dataset_type, first.dataset_config, first.dataset_revision) == ("nyu-mll/glue", "mnli", "abc")
    assert first.dataset_split == "validation_matched"
    assert "[nyu-mll/glue](https://huggingface.co/datasets/nyu-mll/glue), configuration `mnli`" in card.text
    result["data"]["path_name"] = "glue"
    card = card_of(replace(RECIPE, data=data), result)
    assert card.data.datasets is None and card.data.eval_results[0].dataset_type == "local"
    del result["data"]["path_name"]
    assert card_of(replace(RECIPE, data=TextData(path="data/train.csv")), result).data.datasets is None


def test_images_and_adapters() -> None:
    recipe = replace(RECIPE, data=ImageData(path="zalando/fashion"), method="lora", hub=Hub(repo_id="me/fashion"))
    card = card_of(recipe, task="image-classification", method="lora", labels=["boot", "bag", "shirt"])
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.tags == ["hf_finetune", "lora", "peft"]
    use = section(card, "How to use")
    assert 'pipeline("image-classification", model="me/fashion")' in use and 'classify("image.jpg")' in use
    assert (
        'AutoModelForImageClassification.from_pretrained("sentence-transformers/all-MiniLM-L6-v2", num_labels=3' in use
    )
    assert 'PeftModel.from_pretrained(base, "me/fashion", subfolder="adapter")' in use
    assert "lora adapters, merged into the weights" in card.text
    alone = card_of(recipe, task="image-classification", method="prompt_tuning", standalone=False)
    assert alone.data.library_name == "peft" and "pipeline(" not in alone.text


def test_the_adapters_configuration_is_shown() -> None:
    from peft import LoraConfig

    recipe = replace(RECIPE, adapter=LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["value", "query"]))
    card = card_of(recipe, method="lora")
    block = re.search(r"```yaml\n(.*?)\n```", card.text, re.DOTALL)
    assert block is not None
    shown = yaml.safe_load(block[1])
    assert (shown["peft_type"], shown["r"], sorted(shown["target_modules"])) == ("LORA", 4, ["query", "value"])


NASTY = [
    "a: b\n---\n# not a heading",
    "`tick` ``two``",
    "pi|pe",
    "<script>x</script>",
    "{{ name }} {% if %}",
    "no",
    "'\"",
    "*b* _i_ [l](u)",
    "ünï ✓",
    "",
]


def test_special_characters_break_neither_yaml_nor_markdown() -> None:
    for word in NASTY:
        recipe = replace(
            RECIPE, name=word or "x", hub=Hub(license=word, language=word), data=replace(RECIPE.data, license=word)
        )
        result = example_result()
        result["labels"] = ["one", word]
        result["data"] |= {"notes": [word], "rows_per_class": {"one": 500, word: 3}, "license": word}
        text = render_card(RunFacts(recipe, result))
        card = ModelCard(text)
        assert card.data.model_name == (word or "x")
        assert card.data.eval_results[0].metric_value == 0.8461
        assert card.text.count("\n## ") == 9 and card.text.count("\n# ") == 1
        assert len(re.findall(r"^```", card.text, re.MULTILINE)) == 4
        rows = [re.sub(r"\\\|", "", line) for line in card.text.splitlines() if line.startswith("| ")]
        assert {line.count("|") for line in rows} == {3, 4, 5, 6}
        assert "1 class has fewer than 20" in card.text
        if "<" in word:
            assert "<script>" not in re.sub(r"`[^`]*`", "", card.text).replace("\\<", "")


def test_many_labels_are_not_all_listed() -> None:
    card = card_of(labels=[f"intent {i}" for i in range(77)])
    assert "distinguishes 77 classes, among them `intent 0`" in card.text and "`intent 10`" not in card.text


def test_rendering_is_deterministic() -> None:
    recipe = replace(RECIPE, train=Train(num_train_epochs=2, extra={"optim": "adamw_torch", "hub_token": "secret"}))
    text = render_card(RunFacts(recipe, example_result()))
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    again = merge(blank, json.loads(json.dumps(to_plain(recipe))))
    assert render_card(RunFacts(again, json.loads(json.dumps(example_result())))) == text
    assert "| train.optim | `adamw_torch` |" in text and "secret" not in text


def test_a_model_below_its_baseline_is_called_worse() -> None:
    result = example_result()
    result["metrics"]["test"]["accuracy"] = {"value": 0.2, "low": 0.15, "high": 0.25, "n": 200}
    result["baselines"]["linear"]["accuracy"] = {"value": 0.6, "low": 0.55, "high": 0.65, "n": 200}
    card = render_card(RunFacts(RECIPE, result))
    assert "Worse than the linear baseline: its accuracy is 0.600 [0.550, 0.650]" in card
    assert "No signal over the linear baseline" not in card


@pytest.mark.parametrize(
    ("low", "high", "verdict", "limitation"),
    [
        (0.05, 0.15, "better", None),
        (-0.005, 0.205, "no worse", "No signal over the linear baseline: +10.0 [-0.5, +20.5] points"),
        (-0.15, 0.35, "undecided", "No signal over the linear baseline: +10.0 [-15.0, +35.0] points"),
        (-0.3, -0.1, "worse", "Worse than the linear baseline: -20.0 [-30.0, -10.0] points"),
    ],
)
def test_paired_difference_decides_over_overlapping_intervals(
    low: float, high: float, verdict: str, limitation: str | None
) -> None:
    result = example_result()
    result["baselines"]["linear"]["accuracy"] = result["metrics"]["test"]["accuracy"]
    difference = {"value": (low + high) / 2, "low": low, "high": high, "n": 200, "verdict": verdict}
    result["baselines"]["linear"]["difference"] = difference
    card = card_of(result=result)
    assert "Against the linear baseline, row by row: " in section(card, "Results")
    assert f"points of accuracy, {verdict}." in section(card, "Results")
    limits = section(card, "Limitations")
    assert "overlap" not in limits
    assert limitation in limits if limitation else "linear baseline" not in limits


def of_class(f1: float | None, support: int) -> dict[str, Any]:
    score = None if f1 is None else interval(f1, support)
    return {"precision": score, "recall": score, "f1": score, "support": support, "predicted": support}


def test_classes_are_shown_worst_first_and_many_are_folded() -> None:
    result = example_result()
    result["per_class"] = {
        "test": {"negative": of_class(0.9, 100), "pos|itive": of_class(0.8, 90), "x": of_class(None, 0)}
    }
    card = render_card(RunFacts(RECIPE, result))
    section = card.partition("### Per class")[2].partition("##")[0]
    assert [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")] == [
        "`pos\\",
        "`negative`",
        "`x`",
    ]
    assert "All classes, the lowest first." in section and "<details>" not in section
    result["per_class"]["test"] = {f"class {i}": of_class(i / 40, 50) for i in range(30)}
    section = render_card(RunFacts(RECIPE, result)).partition("### Per class")[2].partition("\n## ")[0]
    assert "The 10 of 30 classes with the lowest F1" in section and "The other 20 classes" in section
    assert section.index("`class 9`") < section.index("<details>") < section.index("`class 10`")
    result["per_class"]["test"] = {f"class {i}": of_class(i / 400, 50) for i in range(300)}
    section = render_card(RunFacts(RECIPE, result)).partition("### Per class")[2].partition("\n## ")[0]
    assert "`result.json` lists all." in section and section.count("| `class") == 10


def test_doubts_are_limitations() -> None:
    """In place of what an earlier version said about the baselines and the truncated texts."""
    result = example_result() | {"doubts": [{"name": "n", "message": "'a_b' is never predicted", "remedy": "--epochs"}]}
    limitations = render_card(RunFacts(RECIPE, result)).partition("## Limitations")[2]
    assert "- 'a\\_b' is never predicted. Remedy: --epochs.\n" in limitations
    assert "truncated" not in limitations and "truncated" in render_card(RunFacts(RECIPE, example_result()))


def test_a_mean_that_leaves_classes_out_says_so() -> None:
    result = example_result()
    result["metrics"]["test"]["macro_f1"]["classes"] = [2, 3]
    assert "| Macro F1 | 0.830 [0.800, 0.860] over 2 of 3 classes |" in render_card(RunFacts(RECIPE, result))


def test_only_a_single_seed_is_a_limitation() -> None:
    assert "- One run with seed 0: the intervals cover" in section(card_of(), "Limitations")
    card = card_of(seeds={"runs": [{"seed": 0}, {"seed": 1}], "summary": "2 seeds: accuracy 0.846 [0.800, 0.890]"})
    assert "- With seeds 0, 1: 2 seeds: accuracy 0.846" in section(card, "Results")
    assert "One run" not in card.text and "- The intervals of the tables cover" in section(card, "Limitations")


def test_plots_are_shown_where_they_belong() -> None:
    card = card_of(result={**example_result(), "plots": ["learning_curves", "confusion_matrix", "reliability"]})
    assert "![Confusion matrix](plots/confusion_matrix.png)" in section(card, "Results")
    assert "![Reliability diagram](plots/reliability.png)\n\n| confidence" in section(card, "Calibration")
    assert "![Learning curves](plots/learning_curves.png)" in section(card, "Training procedure")
    assert card.content.count("](plots/") == 3 and "](plots/" not in card_of().content


def test_compression_of_a_regression_has_its_limit_in_the_unit_of_r2() -> None:
    stored = json.loads((Path(__file__).parents[2] / "model_cards" / "compress-joint.json").read_text())
    stored["result"]["compression"] |= {"metric": "r2", "max_loss": 0.5}
    stored["result"]["compression"]["candidates"][-1] |= {"verdict": "left", "reason": "no time"}
    card = render_card(RunFacts(recipe_from_plain(stored["recipe"]), stored["result"]))
    assert "The fastest candidate that loses at most 0.005 of R² on" in card and ": left out: no time." in card
