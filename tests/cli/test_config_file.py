"""`--config FILE` and flags: which one counts, and what they say of the data."""

import json
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from hf_finetune import ImageData, InputError, TextData, Train
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob, load_recipe
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.utils.plain import to_plain


def test_flags_take_precedence_over_yaml(tmp_path: Path) -> None:
    recipe = load_recipe("sst2_full")
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  learning_rate: 1e-3\n  seed: 7\ndata:\n  max_length: 64\n")
    job = parse_run(RunJob(recipe), ["--config", str(file), "--seed", "9"], "x")
    assert (job.recipe.train.learning_rate, job.recipe.train.seed, job.recipe.data.max_length) == (1e-3, 9, 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train:\n  learning_rat: 1\n", "train.learning_rat: no such field, did you mean 'learning_rate'"),
        ("train: [1\n", "--config .*mine.yaml: .*line"),
        ("optim: {optimizer: SGD}\noptim: {optimizer: Lion}\n", "--config .*mine.yaml: 'optim' stands twice .*line 2"),
        ("!!python/object/apply:os.system ['true']\n", "--config .*could not determine a constructor"),
        ("- 1\n", "--config .*: expected a mapping"),
    ],
)
def test_bad_yaml(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        parse_run(RunJob(load_recipe("sst2_full")), ["--config", str(file)], "x")
    with pytest.raises(InputError, match=r"cannot be read .No such file"):
        parse_run(RunJob(load_recipe("sst2_full")), ["--config", "nowhere.yaml"], "x")


def test_the_recipe_of_a_run_runs_again(tmp_path: Path) -> None:
    recipe = replace(load_recipe("sst2_lora"), name="mine", train=Train(learning_rate=3e-4, seed=5))
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"recipe": to_plain(recipe), "fingerprint": "ab", "versions": {"torch": "2"}}))
    assert load_recipe(str(file)) == load_recipe(str(tmp_path)) == recipe
    assert parse_run(RunJob(load_recipe("sst2_full")), ["--config", str(file)], "x").recipe == recipe
    job = parse_train(TrainJob, ["new.csv", "--config", str(file), "--lr", "1e-5"], "hf-finetune train")
    assert (job.recipe.data.path, job.recipe.train.learning_rate, job.recipe.train.seed) == ("new.csv", 1e-5, 5)
    again = parse_train(TrainJob, ["--config", str(file)], "hf-finetune train")
    assert again.recipe == recipe and again.source == recipe.data.path
    file.write_text('{"rows": 3}')
    with pytest.raises(InputError, match=r"recipe\.json: holds no recipe; expected the recipe.json of a run$"):
        load_recipe(str(file))


@pytest.mark.parametrize(
    ("content", "flags", "kind"),
    [
        ("data: {image: picture}", [], "ImageData"),
        ("data: {type: ImageData}", [], "ImageData"),
        ("data: {text: sentence, max_length: 32}", [], "TextData"),
        ("data: {type: TextData}", [], "TextData"),
        ("", ["--image", "picture"], "ImageData"),
        ("", ["--text=sentence"], "TextData"),
        ("", ["--data.no-decode-once"], "ImageData"),
        ("data: {decode_once: false}", [], "ImageData"),
    ],
)
def test_fields_decide_between_texts_and_images(
    tmp_path: Path, content: str, flags: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data are not read: they do not exist."""
    monkeypatch.setattr("hf_finetune.data.sources.sniff_kind", lambda *_, **__: pytest.fail("asked the data"))
    (tmp_path / "mine.yaml").write_text(content)
    job = parse_train(TrainJob, ["nowhere", "--config", str(tmp_path / "mine.yaml"), *flags], "hf-finetune train")
    assert type(job.recipe.data).__name__ == kind and job.recipe.data.path == "nowhere"
    assert kind == "TextData" or job.recipe.data.decode_once == ("once" not in f"{content} {flags}")


@pytest.mark.parametrize(
    ("operations", "kind", "message"),
    [
        ("[{type: Sometimes, operation: Flip}]", "image", None),
        ("[SwapWords]", "text", None),
        ("[Flip]", "text", r"^data\.augment\[0\]\.type: expected one of SwapWords, .*, got 'Flip'$"),
        ("[SwapWords]", "image", r"^data\.augment\[0\]\.type: expected one of Flip, .*, got 'SwapWords'$"),
    ],
)
@pytest.mark.parametrize("by_flag", [True, False])
def test_operations_do_not_decide_between_texts_and_images(
    tmp_path: Path, operations: str, kind: str, message: str | None, by_flag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_finetune.data.sources.sniff_kind", lambda *_, **__: kind)
    (tmp_path / "mine.yaml").write_text("" if by_flag else f"data: {{augment: {operations}}}")
    arguments = ["data", "--config", str(tmp_path / "mine.yaml"), *(["--data.augment", operations] if by_flag else [])]
    with nullcontext() if message is None else pytest.raises(InputError, match=message):
        job = parse_train(TrainJob, arguments, "hf-finetune train")
        assert isinstance(job.recipe.data, ImageData) == (kind == "image") and job.recipe.data.augment


@pytest.mark.parametrize("flags", [["--max-length", "32"], ["--text", "text"], ["--data.encoding", "latin-1"]])
def test_image_operation_with_a_text_field_is_refused(flags: list[str]) -> None:
    with pytest.raises(InputError, match=r"^data\.augment\[0\]\.type: expected one of SwapWords, .*, got 'Rotate'$"):
        parse_train(TrainJob, ["nowhere", "--data.augment", "[Rotate]", *flags], "hf-finetune train")


def test_the_kind_of_data_is_found_in_their_encoding(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("text,label\ncafé,a\nthé,b\n".encode("cp1252"))
    job = parse_train(TrainJob, [str(tmp_path / "rows.csv"), "--data.encoding", "cp1252"], "hf-finetune train")
    assert isinstance(job.recipe.data, TextData)


def test_config_is_read_once_from_a_pipe() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        file.write("data: {text: sentence}\ntrain: {seed: 7}\n")
    try:
        job = parse_train(TrainJob, ["nowhere", "--config", f"/dev/fd/{reading}"], "hf-finetune train")
    finally:
        os.close(reading)
    assert job.recipe.train.seed == 7
