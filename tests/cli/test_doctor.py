"""`hf-finetune doctor` on the command line, and that its preview is what training sees."""

import json
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from helpers.checkpoints import load_tokenizer
from helpers.hand_made import clean, write
from helpers.language_models import masked_model
from helpers.small_runs import image_rows
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from PIL import Image
from transformers import CLIPImageProcessor

from hf_finetune.augmentation.online import AugmentedRows, MixedRows, collate_mixed
from hf_finetune.cli import doctor
from hf_finetune.cli.main import main_command
from hf_finetune.data.inputs import with_labels
from hf_finetune.doctor.preview import first_views, preview_rows
from hf_finetune.pipeline.augment import run_augmenter
from hf_finetune.pipeline.run import prepare
from hf_finetune.training.trainer import ClassifierTrainer
from hf_finetune.utils.plain import merge


def run_doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, list[str]]:
    """Exit status, stdout, lines of stderr."""
    status = 0
    try:
        main_command(["doctor", *arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err.splitlines()


@pytest.fixture
def texts(tmp_path: Path) -> str:
    write(tmp_path / "rows.csv", clean(40))
    return str(tmp_path / "rows.csv")


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    rows = image_rows(24).remove_columns("row").cast_column("image", datasets.Image(decode=False))
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    return str(tmp_path / "rows.parquet")


def test_a_report_and_its_json(texts: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Path(texts).open("a") as file:
        file.write(",no\n")
    status, out, err = run_doctor(capsys, texts)
    dropped = "train: 1 of 41 rows dropped: 1 text missing (the first: row 40 counted from 0, the text is empty)"
    assert (status, err) == (0, ["inferred: text from column 'text', label from column 'label'", dropped])
    assert "serious: the text of 1 of 41 rows cannot be used: training would refuse them" in out
    status, out, _ = run_doctor(capsys, texts, "--json")
    result = json.loads(out)
    assert result["splits"] == {"train": {"rows": 40, "source": texts}}
    assert [(f["name"], f["count"], f["of"]) for f in result["findings"]] == [("unusable_text", 1, 41)]


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["nowhere.csv"], "nowhere.csv: "),
        (["{texts}", "--text", "txt"], "--text txt: "),
        (["{texts}", "--views", "0"], "--views 0: expected at least 1"),
        (["{texts}", "--seed", "-1"], "--seed -1: expected at least 0"),
        (["{texts}", "--show-augmentation", "[Flip]"], "data.augment[0].type: expected one of SwapWords"),
        (
            ["{texts}", "--show-augmentation", "{type: OneOf, choices: [Flip]}"],
            "data.augment: Flip is not for texts",
        ),
        (["{texts}", "--show-augmentation", "[Swap]"], "data.augment[0].type: expected one of"),
        (["{texts}", "--show-augmentation", "{type: SwapWords, p: 3}"], "data.augment[0].p: expected 0 to 1, got 3"),
        (["{texts}", "--show-augmentation", "[]"], "--show-augmentation []: it augments nothing"),
        (["{texts}", "--show-augmentation", "# none helps"], "--show-augmentation # none helps: it augments nothing"),
        (
            ["{texts}", "--show-augmentation", "{data: {type: ImageData, augment: [Flip]}}"],
            "data.path: this field is needed by ImageData",
        ),
        (["{texts}", "--show-augmentation", "7"], "--show-augmentation 7: expected a recipe, or operations"),
        (["{texts}", "--show-augmentation", "[a: {"], "--show-augmentation [a: {: "),
        (["{texts}", "--show-augmentation", "no.yaml"], "--show-augmentation no.yaml: cannot be read"),
        (["{texts}", "--show-augmentation", "no.py"], "no.py: no such recipe file"),
        (
            ["{texts}", "--show-augmentation", "beans_full"],
            "--show-augmentation beans_full: this recipe is for images",
        ),
        (["{texts}", "--show-augmentation", "[CutMix]"], "objective.mix: expected Mixup for texts"),
        (
            ["{texts}", "--show-augmentation", "{type: Mixup, alpha: -1}"],
            "objective.mix[0].alpha: expected 0 to 100, got -1",
        ),
        (
            ["{pictures}", "--show-augmentation", "[Mixup]", "--rows", "1"],
            "--rows 1: expected at least 2, as rows are mixed with one another",
        ),
        (["{texts}", "--show-augmentation", "[SwapWords]", "--output", "{texts}"], "--output {texts}: this is a file"),
        (
            ["{pictures}", "--show-augmentation", "[Flip]", "--output", "{texts}/sub"],
            "--output {texts}/sub: nothing can be written to",
        ),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], first: str, texts: str, pictures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run_doctor(
        capsys, *(a.replace("{texts}", texts).replace("{pictures}", pictures) for a in arguments)
    )
    assert (status, out, len(err)) == (2, "", 1)
    assert err[0].startswith(first.replace("{texts}", texts))


def test_the_preview_of_texts_is_what_training_reads(
    texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], gate_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row in three epochs, of a run that draws its rows and has a seed of its own."""
    checkpoint = str(tiny_text_checkpoint(tmp_path / "bert"))
    config = tmp_path / "run.yaml"
    config.write_text(
        "data: {augment: [{type: SwapWords, p: 0.3}, {type: DeleteWords, p: 0.2}], max_length: 64, max_train_rows: 20}\n"
        "train: {seed: 5, num_train_epochs: 3, per_device_train_batch_size: 4}\n"
        "evaluate: {baselines: false, resamples: 100}\nprecision: {mixed_precision: 'no'}\nbatching: {unpadded: false}\n"
    )
    read: list[tuple[int, ...]] = []
    step = ClassifierTrainer.training_step

    def recording(self, model, inputs, *rest):
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        read.extend(tuple(ids[m == 1].tolist()) for ids, m in zip(inputs["input_ids"], mask, strict=True))
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(ClassifierTrainer, "training_step", recording)
    main_command(["train", texts, "--config", str(config), "--model", checkpoint, "--output", str(tmp_path / "run")])
    capsys.readouterr()
    status, out, _ = run_doctor(capsys, texts, "--show-augmentation", str(config), "--rows", "20", "--json")
    result = json.loads(out)
    assert status == 0 and result["seed"] == 5 and len(result["rows"]) == 20 and len(read) == 60
    tokenizer = load_tokenizer(checkpoint, max_length=64, sample=[])
    for epoch in range(3):
        expected = tokenizer([row["views"][f"epoch {epoch}"] for row in result["rows"]])["input_ids"]
        assert sorted(read[20 * epoch : 20 * epoch + 20]) == sorted(map(tuple, expected)), epoch
    assert any(row["views"]["epoch 0"] != row["text"] for row in result["rows"])


def test_the_preview_of_images_is_what_training_reads(pictures: str, tmp_path: Path) -> None:
    job = doctor.DoctorJob(pictures, model=str(tiny_image_checkpoint(tmp_path / "vit", "vit")), seed=3)
    recipe = doctor.augmented_recipe(job, "[Flip, {type: Rotate, degrees: 20}]", "image")
    prepared = prepare(merge(recipe, {"data": {"decode_once": False}}))
    train, inputs = prepared.data.splits.train, prepared.data.inputs
    views = AugmentedRows(inputs.encode(train), inputs, run_augmenter(prepared))
    rows = [2, 7, 11]
    shown = preview_rows(
        train,
        prepared.data.splits.labels,
        rows,
        run_augmenter(prepared),
        first_views(3, 0),
        inputs,
    )
    for epoch in range(3):
        views.set_epoch(epoch)
        assert torch.equal(views.__getitems__(rows)["pixels"], shown.batches[epoch])
    assert not torch.equal(shown.batches[0], shown.batches[1]) and recipe.train.seed == 3


def test_images_are_written_to_a_sheet(pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, output = str(tiny_image_checkpoint(tmp_path / "vit", "vit")), tmp_path / "new" / "folder"
    flags = ["--show-augmentation", "[{type: Flip, p: 1.0}]", "--model", checkpoint, "--output", str(output)]
    status, out, _ = run_doctor(capsys, pictures, *flags, "--rows", "3", "--views", "2")
    assert status == 0
    assert out.splitlines()[-1] == f"3 images, 2 views of each -> {output / 'augmentation.png'}"
    assert [path.name for path in output.iterdir()] == ["augmentation.png"]
    sheet = np.asarray(Image.open(output / "augmentation.png"))
    # Images of 32 pixels at four times their size, between gaps of 6, under two lines of text.
    original, view = sheet[42 : 42 + 128, 6:134], sheet[42 : 42 + 128, 140:268]
    assert np.array_equal(view, original[:, ::-1]) and not np.array_equal(view, original)


def test_texts_are_printed_with_their_operations(texts: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run_doctor(capsys, texts, "--show-augmentation", "SwapWords", "--rows", "2", "--seed", "4")
    lines = out.splitlines()
    assert (status, lines[0]) == (0, "SwapWords(); seed 4")
    assert sum(line.startswith("row ") for line in lines) == 2
    assert out == run_doctor(capsys, texts, "--show-augmentation", "[SwapWords]", "--rows", "2", "--seed", "4")[1]
    assert out != run_doctor(capsys, texts, "--show-augmentation", "[SwapWords]", "--rows", "2", "--seed", "5")[1]


def test_a_recipe_is_shown_on_other_data(texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its columns and splits are its own data's; its augmentation and seed hold."""
    (tmp_path / "mine.py").write_text(
        "from hf_finetune import Model, Recipe, SwapWords, TextData, Train\n\n\n"
        "def recipe():\n"
        "    data = TextData(path='far/away', text='sentence', test='unlabelled', augment=(SwapWords(p=0.5),))\n"
        "    return Recipe(name='mine', data=data, model=Model(checkpoint='far/model'), train=Train(seed=9))\n"
    )
    status, out, _ = run_doctor(capsys, texts, "--show-augmentation", str(tmp_path / "mine.py"), "--json")
    assert status == 0
    result = json.loads(out)
    assert (result["operations"], result["seed"], len(result["rows"])) == (["SwapWords(p=0.5)"], 9, 6)


def test_stored_copies_are_shown(texts: str, capsys: pytest.CaptureFixture[str]) -> None:
    augmentation = "data: {augment: [SwapWords], augment_copies: 2}"
    status, out, _ = run_doctor(capsys, texts, "--show-augmentation", augmentation, "--json")
    assert status == 0 and json.loads(out)["views"] == ["copy 1", "copy 2"]


def test_of_what_a_language_model_changes_as_many_copies_are_shown_as_views(
    texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    augmentation = f"[{{type: SubstituteByModel, checkpoint: {masked_model(tmp_path / 'mlm', good=20.0)}, p: 1.0}}]"
    status, out, _ = run_doctor(
        capsys, texts, "--show-augmentation", augmentation, "--views", "2", "--rows", "2", "--json"
    )
    result = json.loads(out)
    assert status == 0 and result["views"] == ["copy 1", "copy 2"]
    assert all("good" in row["views"]["copy 2"] for row in result["rows"])


def test_phases_are_those_of_the_steps_that_are_given(texts: str, capsys: pytest.CaptureFixture[str]) -> None:
    """36 training rows in steps of 4: 9 steps an epoch, so that the second epoch begins behind the half of 11 steps."""
    phases = "{type: Phases, phases: [{type: ChangeCase, p: 1.0, to: upper}, {type: Compose, steps: []}]}"
    fields = f"data: {{augment: [{phases}]}}, train: {{per_device_train_batch_size: 4, %s}}"

    def capitals(train: str) -> list[bool]:
        augmentation = "{" + fields % train + "}"
        status, out, _ = run_doctor(capsys, texts, "--show-augmentation", augmentation, "--views", "2", "--json")
        assert status == 0
        shown = [list(row["views"].values()) for row in json.loads(out)["rows"]]
        return [all(text.isupper() for text in texts) for texts in zip(*shown, strict=True)]

    assert capitals("num_train_epochs: 3") == [True, True]
    assert capitals("max_steps: 11") == [True, False]
    assert capitals("max_steps: 11, gradient_accumulation_steps: 2") == [True, True]
    by_tokens = "{" + fields % "max_steps: 10" + ", batching: {token_budget: 999}}"
    status, out, err = run_doctor(capsys, texts, "--show-augmentation", by_tokens)
    assert (status, out, len(err)) == (2, "", 1)
    assert err[0].startswith("train.max_steps 10: expected train.num_train_epochs for a preview of Phases beside")


@pytest.mark.parametrize("command", ["doctor", "train", "train as they are"])
def test_images_that_come_out_in_several_sizes_are_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, size in enumerate([(50, 50), (33, 17), (40, 80)] * 4):
        picture = tmp_path / "rows" / "ab"[i % 2] / f"{i}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), i, dtype=np.uint8)).save(picture)
    checkpoint, output = tiny_image_checkpoint(tmp_path / "vit"), tmp_path / "run"
    CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False).save_pretrained(checkpoint)
    flags = ["--model", str(checkpoint), "--output", str(output)]
    if command == "doctor":
        flags += ["--show-augmentation", "[Flip]"]
    elif command == "train":
        flags += ["--data.augment", "[Flip]"]
    with pytest.raises(SystemExit) as left:
        main_command([command.split()[0], str(tmp_path / "rows"), *flags])
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and not output.exists()
    assert line.startswith("the checkpoint's CLIPImageProcessor makes images of several sizes (32x32, 32x64, 62x32)")


@pytest.mark.parametrize("mix", ["Mixup", "CutMix", "ResizeMix"])
def test_images_are_mixed_as_training_mixes_a_forward_pass(mix: str, pictures: str, tmp_path: Path) -> None:
    """Those of some rows, in the epochs that are shown, after the operations that change each by itself."""
    job = doctor.DoctorJob(pictures, model=str(tiny_image_checkpoint(tmp_path / "vit", "vit")), seed=3)
    augmentation = f"[{{type: Flip, p: 1.0}}, {{type: {mix}, alpha: 1.0}}]"
    recipe = doctor.augmented_recipe(job, augmentation, "image")
    prepared = prepare(merge(recipe, {"data": {"decode_once": False}}))
    train, inputs, chosen = prepared.data.splits.train, prepared.data.inputs, recipe.objective.mix
    rows = [2, 7, 11]
    shown = preview_rows(
        train,
        prepared.data.splits.labels,
        rows,
        run_augmenter(prepared),
        first_views(2, 0),
        inputs,
        chosen,
    )
    trained = MixedRows(
        AugmentedRows(
            inputs.encode(train),
            inputs,
            run_augmenter(prepared),
        ),
        recipe.train.seed,
    )
    collate = partial(with_labels, inputs.collate)
    for epoch, mixture in enumerate(shown.mixtures):
        trained.set_epoch(epoch)
        batch = collate_mixed(chosen, collate, trained.__getitems__(rows))
        # A level of 255 is .0078 after the normalisation; half of one is lost by rounding.
        assert torch.allclose(
            inputs.collate({"pixels": shown.batches[epoch]})["pixel_values"], batch["pixel_values"], atol=4e-3
        )
        assert mixture.partners == tuple(batch["partners"].tolist())
        assert mixture.share == float(batch["shares"][0])
    assert shown.mixtures[0] != shown.mixtures[1]


def test_a_sheet_of_mixed_images(pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(tiny_image_checkpoint(tmp_path / "vit", "vit")), "--output", str(tmp_path), "--rows", "4"]
    shown_flags = ["--show-augmentation", "[{type: Mixup, alpha: 1.0}]", *flags]
    status, out, _ = run_doctor(capsys, pictures, *shown_flags)
    assert status == 0
    sheet = tmp_path / "augmentation.png"
    assert out == f"Mixup(alpha=1.0); seed 0\n4 images, 3 views of each, mixed with one another -> {sheet}\n"
    result = json.loads(run_doctor(capsys, pictures, *shown_flags, "--json")[1])
    assert (result["operations"], result["mix"], result["sheet"]) == ([], ["Mixup(alpha=1.0)"], str(sheet))
    labels = {row["row"]: row["label"] for row in result["rows"]}
    for row in result["rows"]:
        for parts in row["mixed"].values():
            assert sum(part["share"] for part in parts) == pytest.approx(1.0)
            assert all(labels[part["row"]] == part["label"] for part in parts) and parts[0]["row"] == row["row"]


def test_of_texts_that_are_mixed_there_is_nothing_to_see(texts: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = "objective.mix: no preview for texts, as it mixes word embeddings"
    status, out, _ = run_doctor(capsys, texts, "--show-augmentation", "[Mixup]")
    assert (status, out) == (0, f"Mixup(); seed 0\n{line}\n")
    status, out, _ = run_doctor(capsys, texts, "--show-augmentation", "[Mixup]", "--json")
    assert json.loads(out) == {"operations": [], "mix": ["Mixup()"], "seed": 0, "rows": []}
    # Beside operations on words these are shown.
    status, out, _ = run_doctor(
        capsys, texts, "--show-augmentation", "{data: {augment: [SwapWords]}, objective: {mix: [Mixup]}}"
    )
    lines = out.splitlines()
    assert (status, lines[0], lines[-1]) == (0, "SwapWords(), Mixup(); seed 0", line)
    assert sum(row.startswith("row ") for row in lines) == 6


def test_nothing_is_trained_or_kept(texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    run_doctor(capsys, texts)
    run_doctor(capsys, texts, "--show-augmentation", "[SwapWords]")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
