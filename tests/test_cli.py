"""What the command line says and how it leaves, without training anything."""

import re
from pathlib import Path

import pytest

from hf_finetune import InputError, cli, shipped
from hf_finetune.cli import main_command, public_command


def leave(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, list[str]]:
    """Exit status, stdout, lines of stderr."""
    status = 0
    try:
        main_command(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err.splitlines()


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = leave(capsys, "--help")
    assert status == 0
    for name in ("quickstart", "train", "run", "list", "cp", "plan", "evaluate", "predict", "card", "push"):
        assert f"  {name} " in out


def test_list_shows_each_recipe_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = leave(capsys, "list")
    assert status == 0
    assert "quickstart  " in out and "MiniLM on BBC news" in out
    assert len(out.splitlines()) == len(shipped.names()) >= 5


def test_cp_copies_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.py"
    assert leave(capsys, "cp", "sst2_lora", str(target))[0] == 0
    assert target.read_text() == shipped.names()["sst2_lora"].read_text()
    status, _, err = leave(capsys, "cp", "sst2_lora", str(target))
    assert status == 2 and "exists already" in err[0]
    status, _, err = leave(capsys, "cp", "sst2_lorra", str(tmp_path))
    assert status == 2 and "did you mean 'sst2_lora'" in err[0]


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["trian"], "hf-finetune trian: no such command"),
        (["run"], "usage: hf-finetune run RECIPE"),
        (["run", "no_such"], "no_such: no recipe of this name"),
        (
            ["run", "sst2_full", "--train.learning-rat", "1"],
            "hf-finetune run sst2_full: Unrecognized options: --train.learning-rat",
        ),
        (["run", "sst2_full", "--epochs", "x"], "hf-finetune run sst2_full: Error parsing --epochs"),
        (["run", "sst2_full", "--method", "lorra"], "hf-finetune run sst2_full: .*--method"),
        (["predict", "m"], "hf-finetune predict: missing DATA"),
        (["predict", "m", "d", "--output", "x.txt"], "--output x.txt: expected a name ending in .csv"),
        (["card", "nowhere"], "nowhere: no recipe.json"),
    ],
)
def test_bad_usage_is_one_line_first(
    arguments: list[str],
    first: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = leave(capsys, *arguments)
    assert status == 2 and out == ""
    assert re.match(first, err[0]), err
    assert len(err) <= 13
    assert not list(tmp_path.iterdir())


def test_yaml_sets_fields_and_flags_win(tmp_path: Path) -> None:
    recipe = shipped.load_recipe("sst2_full")
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  learning_rate: 1e-3\n  seed: 7\ndata:\n  max_length: 64\n")
    job = cli._parse(cli.RunJob, cli.RunJob(recipe), ["--config", str(file), "--seed", "9"], "x")
    assert (job.recipe.train.learning_rate, job.recipe.train.seed, job.recipe.data.max_length) == (1e-3, 9, 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train:\n  learning_rat: 1\n", "train.learning_rat: no such field; did you mean 'learning_rate'"),
        ("train: [1\n", "--config .*mine.yaml: .*line"),
        ("!!python/object/apply:os.system ['true']\n", "--config .*could not determine a constructor"),
        ("- 1\n", "recipe: expected a mapping"),
    ],
)
def test_bad_yaml(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        cli._parse(cli.RunJob, cli.RunJob(shipped.load_recipe("sst2_full")), ["--config", str(file)], "x")
    with pytest.raises(InputError, match="no such file"):
        cli._parse(cli.RunJob, cli.RunJob(shipped.load_recipe("sst2_full")), ["--config", "nowhere.yaml"], "x")


def test_public_command_keeps_no_path_of_this_machine(tmp_path: Path) -> None:
    data = tmp_path / "movie"
    data.mkdir()
    command = [
        "hf-finetune",
        "train",
        str(data),
        f"--model={data}",
        "--output",
        str(tmp_path),
        "--push=me/x",
        "--resume",
    ]
    assert public_command([*command, "--epochs", "2"]) == "hf-finetune train movie --model=movie --epochs 2"


@pytest.mark.parametrize("name", sorted(shipped.names()))
def test_every_recipe_builds_and_its_values_hold(name: str) -> None:
    from hf_finetune import codec
    from hf_finetune.recipe import check

    recipe = shipped.load_recipe(name)
    check(recipe)
    blank = cli.Recipe(name="", data=cli.TextData(path=""), model=cli.Model(checkpoint=""))
    assert codec.merge(blank, codec.to_plain(recipe)) == recipe
    assert len(shipped.names()[name].read_text().splitlines()) <= 50


@pytest.mark.parametrize("path", sorted((shipped.folder() / "accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_accelerate_configs_parse(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == (2 if path.stem in ("cpu-2", "multi-gpu") else 1)
    assert config.use_cpu == path.stem.startswith("cpu")
    assert config.mixed_precision == {"bf16": "bf16", "fp16": "fp16", "multi-gpu": "bf16"}.get(path.stem, "no")
