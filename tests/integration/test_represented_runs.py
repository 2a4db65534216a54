"""Whole runs of students that are to have more of their teacher than its logits: each kind from the command line to
the saved model, resumed, with what it goes with, and what is refused."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.forks import COMMAND_WITHOUT_GATE
from helpers.ranks import run_in_two_processes
from helpers.represented import classifier, furthest, refused, result_of, saved, trained, with_kinds
from helpers.small_runs import small_recipe, stop_after
from safetensors.torch import load_file

from hf_finetune import Batching, Distill, Launch, Model, Precision, Recipe, Supervised, Train
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.cli import main
from hf_finetune.cli.overrides import parse_run
from hf_finetune.cli.run_job import RunJob
from hf_finetune.distillation.config import (
    AttentionMaps,
    AttentionRelations,
    Contrastive,
    DistillationKind,
    Embedding,
    HiddenStates,
    MatchLogits,
    RelationalKD,
    SoftTargets,
)
from hf_finetune.distillation.feature_matching import layer_search
from hf_finetune.distillation.feature_matching.teacher_features import ComputedFeatures
from hf_finetune.distillation.losses.base import Features
from hf_finetune.distillation.teachers import network as network_teacher
from hf_finetune.distillation.trainer import FEATURE_LOSSES
from hf_finetune.distillation.weight_schedules import Ramp
from hf_finetune.errors import InputError, StoppedBySignal
from hf_finetune.models.surgery.layers import KeepLayers
from hf_finetune.pipeline import run as pipeline
from hf_finetune.pipeline.plan import plan
from hf_finetune.pipeline.run import prepare
from hf_finetune.training import precision
from hf_finetune.utils.plain import merge, short_repr

pytestmark = pytest.mark.usefixtures("gate_here")
WIDER = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 64}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny BERT, beside a wider and deeper one whose tokenizer is the same."""
    folder = tmp_path_factory.mktemp("texts")
    return dataclasses.replace(
        small_recipe(folder),
        train=Train(num_train_epochs=1.0, per_device_train_batch_size=8, learning_rate=1e-3, logging_steps=1),
        objective=Distill(teacher=str(classifier(folder / "big", "bert", **WIDER)), labels_weight=1.0),
    )


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher that cuts texts into other pieces, by name."""
    return str(classifier(tmp_path_factory.mktemp("roberta"), "roberta", **WIDER))


@pytest.fixture
def alone(texts: Recipe, tmp_path_factory: pytest.TempPathFactory, gate_here: None) -> dict[str, torch.Tensor]:
    """What the labels by themselves teach, once for all tests."""
    folder = tmp_path_factory.getbasetemp() / "alone"
    if not folder.exists():
        pipeline.run(dataclasses.replace(texts, objective=Supervised()), Launch(str(folder)))
    return saved(folder)


def flags_of(texts: Recipe, run: Path) -> list[str]:
    """What trains the recipe into `run` from the command line."""
    flags = f"--epochs 1 --train.learning-rate 1e-3 --train.logging-steps 1 --max-length 32 --output {run}"
    flags += f" --teacher {texts.objective.teacher} --objective.labels-weight 1 --mixed-precision no"
    flags += f" --model {texts.model.checkpoint} --evaluate.resamples 100 --evaluate.no-baselines --evaluate.no-plots"
    return [texts.data.path, *flags.split()]


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        ("[HiddenStates]", HiddenStates()),
        ("[{type: HiddenStates, layers: [[0, 0], [3, 4]], weight: {start: 1, end: 0.1, form: cosine}}]",
         HiddenStates(((0, 0), (3, 4)), Ramp(1.0, 0.1, "cosine"))),
        ("{type: AttentionMaps, layers: last, form: mse}", AttentionMaps("last", "mse")),
        ("[{type: AttentionRelations, relation_heads: 8, teacher_layer: 3}]", AttentionRelations(3, 8)),
        ("[Embedding]", Embedding()),
        ("[{type: RelationalKD, pooling: cls}]", RelationalKD(pooling="cls")),
        ("[{type: Contrastive, temperature: {start: 1e-0, end: 0.1}}]", Contrastive(Ramp(1.0, 0.1))),
    ],
)  # fmt: skip
def test_each_kind_from_the_command_line(
    texts: Recipe, alone: dict[str, torch.Tensor], tmp_path: Path, flag: str, kind: DistillationKind
) -> None:
    """Other weights than the labels' alone, in a folder that plain transformers loads and that holds no projection;
    said in recipe.json and on the card."""
    flag = flag if flag.startswith("[") else f"[{flag}]"
    run = tmp_path / "run"
    main.COMMANDS["train"].run(
        [*flags_of(texts, run), "--train.per-device-train-batch-size", "8", "--objective.kinds", flag]
    )
    assert furthest(saved(run), alone) > 1e-4
    stored = json.loads((run / "recipe.json").read_text())["recipe"]
    assert merge(texts, stored).objective.kinds == (kind,)
    assert f"| objective.kinds | `{short_repr(kind)}` |" in (run / "README.md").read_text()


def test_a_resumed_run_ends_with_the_same_weights(
    texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, projections, layer maps and what the weights (that of the labels, too) are by then among it; stopped
    within an epoch and after one.

    What was searched before is not searched again."""
    kinds = (
        HiddenStates("learned", Ramp(1.0, 0.0)),
        HiddenStates("searched"),
        AttentionMaps("searched"),
        AttentionRelations(relation_heads=4),
        Embedding(),
        RelationalKD(),
        Contrastive(Ramp(1.0, 0.1), "cls"),
        SoftTargets(Ramp(4.0, 1.0, "cosine")),
    )
    recipe = with_kinds(texts, *kinds, labels_weight=Ramp(0.9, 0.1))
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, num_train_epochs=2.0))
    straight = trained(recipe, tmp_path / "straight")
    stop_after(monkeypatch, 3, 10)
    stopped = Launch(str(tmp_path / "stopped"), resume=True)
    with pytest.raises(StoppedBySignal):
        pipeline.run(recipe, stopped)
    with monkeypatch.context() as patch:
        patch.setattr(layer_search, "search_layers", None)
        with pytest.raises(StoppedBySignal):
            pipeline.run(recipe, stopped)
        newest = max((tmp_path / "stopped" / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
        held = [name for name in load_file(newest / "model.safetensors") if name.startswith(FEATURE_LOSSES)]
        # The projections of the first two kinds and the map that is learned, then those of the embeddings.
        assert len(held) == 2 * 3 + 1 + 1 + 1
        assert furthest(straight, trained(recipe, tmp_path / "stopped")) == 0.0
    maps = [result_of(tmp_path / name)["teacher"]["layer_maps"] for name in ("straight", "stopped")]
    assert maps[0] == maps[1] and [found["place"] for found in maps[0]] == [1, 2]
    card = (tmp_path / "stopped" / "README.md").read_text()
    assert card.count("objective.labels_weight") == 1
    assert "| objective.labels_weight | `Ramp(start=0.9, end=0.1)` |" in card
    made = plan(prepare(recipe))
    assert made.steps == 14 and made.parts["layer_search_s"] > 0


def test_layers_that_are_searched(texts: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A student of its teacher's first, second and last layer: the first two have their own, whose states and attention
    are the very same, and it ends as with these layers by number. Said in result.json and on the card; used as any
    other run."""
    big = classifier(tmp_path / "big", "bert", **WIDER, initializer_range=0.3)
    recipe = dataclasses.replace(
        texts,
        model=Model(str(big), surgery=(KeepLayers(layers=(0, 1, 3)),)),
        objective=dataclasses.replace(texts.objective, teacher=str(big)),
    )
    searched = with_kinds(recipe, HiddenStates("searched"), AttentionMaps("searched"))
    one = trained(searched, tmp_path / "searched")
    result, card = result_of(tmp_path / "searched"), (tmp_path / "searched" / "README.md").read_text()
    states, attention = result["teacher"]["layer_maps"]
    assert states["layers"] == attention["layers"] == [[1, 1], [2, 2], [3, 4]]
    assert (states["kind"], attention["kind"]) == ("HiddenStates", "AttentionMaps") and states["rows"] == 54
    for found, same in ((states, 1.0), (attention, 0.0)):
        table = np.array(found["likeness"])
        assert table.shape == (3, 4) and table[0, 0] == table[1, 1] == pytest.approx(same, abs=1e-5)
        assert max(table[0, 1:].max(), np.delete(table[1], 1).max()) < same - 0.01
    assert result["time"]["layer_search_s"] > 0
    shown = (
        f"HiddenStates: 1 with 1 (1), 2 with 2 (1), 3 with 4 ({states['likeness'][2][3]:.3g}), by linear CKA on 54 rows"
    )
    assert f"| searched pairs of layers | `{shown}; AttentionMaps: 1 with 1 (" in card
    run = str(tmp_path / "searched")
    main.COMMANDS["predict"].run([run, texts.data.path, "--output", str(tmp_path / "answers.csv")])
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 61
    capsys.readouterr()
    main.COMMANDS["evaluate"].run([run, texts.data.path, "--json"])
    assert json.loads(capsys.readouterr().out)["rows"] == 60
    main.COMMANDS["card"].run([run])
    assert capsys.readouterr().out == card == (tmp_path / "searched" / "README.md").read_text()
    by_number = ((1, 1), (2, 2), (3, 4))
    other = trained(with_kinds(recipe, HiddenStates(by_number), AttentionMaps(by_number)), tmp_path / "by-number")
    assert furthest(one, other) == 0.0
    assert result_of(tmp_path / "by-number")["teacher"]["layer_maps"] is None
    evenly = trained(with_kinds(recipe, HiddenStates(), AttentionMaps()), tmp_path / "uniform")
    assert furthest(one, evenly) > 1e-4


def test_two_processes_search_as_one(texts: Recipe, tmp_path: Path) -> None:
    """The first one's map is that of both, from the command line to the result."""
    kind = ["--objective.kinds", "[{type: HiddenStates, layers: searched}]"]
    size = "--train.per-device-train-batch-size"
    main.COMMANDS["train"].run([*flags_of(texts, tmp_path / "one"), size, "8", *kind])
    two = [*flags_of(texts, tmp_path / "two"), size, "4", *kind]
    run_in_two_processes(COMMAND_WITHOUT_GATE, "train", *two, folder=tmp_path)
    one, two = (result_of(tmp_path / name) for name in ("one", "two"))
    assert one["teacher"]["layer_maps"] == two["teacher"]["layer_maps"] != [] and two["steps"] == one["steps"]
    assert furthest(saved(tmp_path / "one"), saved(tmp_path / "two")) < 1e-2


def test_an_adapter(texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learns of the inside as well, and is resumed; what is saved holds no projection."""
    recipe = with_kinds(texts, HiddenStates(), Embedding())
    one = trained(recipe, tmp_path / "one", method="lora")
    assert furthest(one, trained(texts, tmp_path / "other", method="lora", objective=Supervised())) > 1e-4
    assert not any(
        FEATURE_LOSSES in name for name in load_file(tmp_path / "one" / "adapter" / "adapter_model.safetensors")
    )
    stop_after(monkeypatch, 3)
    with pytest.raises(StoppedBySignal):
        pipeline.run(dataclasses.replace(recipe, method="lora"), Launch(str(tmp_path / "stopped")))
    assert furthest(one, trained(recipe, tmp_path / "stopped", method="lora")) == 0.0


OF_TOKENS = (HiddenStates(((1, 2), (3, 4))), HiddenStates("learned"), AttentionMaps("last"), AttentionRelations(3, 4))


def test_states_of_tokens_are_kept(
    texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And found again, to the same weights; where there is no room the teacher computes them in every step, to the same
    but for rounding. Other layers are other states."""
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    recipe = with_kinds(texts, *OF_TOKENS)
    kept = trained(recipe, tmp_path / "kept")
    # Of two splits the answers, and of one the states.
    assert len(list((tmp_path / "cache").glob("teacher/*"))) == 3
    with monkeypatch.context() as patch:
        patch.setattr(ComputedFeatures, "__call__", None)
        patch.setattr(network_teacher, "predict_logits", None)
        assert furthest(kept, trained(recipe, tmp_path / "found")) == 0.0
    trained(with_kinds(texts, HiddenStates("last")), tmp_path / "last")
    assert len(list((tmp_path / "cache").glob("teacher/*"))) == 4
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "small"))
    uncached = trained(recipe, tmp_path / "uncached", batching=Batching(cache_gb=1e-5))
    assert "the teacher's hidden states are not cached" in caplog.text
    assert furthest(kept, uncached) < 1e-4 < furthest(kept, trained(texts, tmp_path / "logits"))


def test_a_teacher_computes_in_float32_whatever_its_student_trains_in(
    texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every step as beforehand: cached states and computed ones teach the same, to rounding, under autocast to
    bf16."""
    seen = []
    compute = ComputedFeatures.__call__

    def watched(inside: ComputedFeatures, batch: dict[str, torch.Tensor]) -> Features:
        def note(*_: Any) -> None:
            seen.append((torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()))

        handle = inside.model.register_forward_pre_hook(note)
        found = compute(inside, batch)
        handle.remove()
        assert all(states.dtype == torch.float32 for states in found.hidden.values())
        return found

    monkeypatch.setattr(ComputedFeatures, "__call__", watched)
    monkeypatch.setattr(precision, "has_native_bf16", lambda _: True)
    trained(
        with_kinds(texts, HiddenStates("last")),
        tmp_path / "run",
        precision=Precision(mixed_precision="bf16", float32_matmul="medium", probe=False),
        batching=Batching(cache_gb=1e-5),
    )
    assert len(seen) > 3 and set(seen) == {(False, "highest")}


def test_the_time_of_a_teacher_that_computes_in_every_step_is_not_its_students(
    texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a second for each of five steps."""
    compute = ComputedFeatures.__call__

    def slow(*given: Any) -> Features:
        time.sleep(0.5)
        return compute(*given)

    monkeypatch.setattr(ComputedFeatures, "__call__", slow)
    started = time.perf_counter()
    trained(with_kinds(texts, HiddenStates("last")), tmp_path / "run", batching=Batching(cache_gb=1e-5))
    seconds, all_s = result_of(tmp_path / "run")["time"], time.perf_counter() - started
    assert seconds["teacher_s"] > 2.5 and seconds["teacher_s"] + seconds["train_s"] < all_s
    assert seconds["train_s"] >= seconds["train_loop_s"] > 0


def test_embeddings_of_another_tokenizer(
    texts: Recipe, roberta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept and found again, to the same weights; of rows that change, made anew of every view."""
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    recipe = with_kinds(texts, Embedding(), teacher=roberta)
    fresh, kept = trained(recipe, tmp_path / "fresh"), len(list((tmp_path / "cache").glob("teacher/*")))
    # Of two splits the answers, and of one the embeddings.
    assert kept == 3
    with monkeypatch.context() as patch:
        patch.setattr(network_teacher, "predict_logits", None)
        assert furthest(fresh, trained(recipe, tmp_path / "found")) == 0.0
    views = dataclasses.replace(recipe.data, augment=(SwapWords(0.5),))
    apart = trained(with_kinds(recipe, MatchLogits(1e-9)), tmp_path / "apart", data=views)
    assert furthest(apart, trained(recipe, tmp_path / "views", data=views)) > 1e-4


def test_teachers_that_cannot_be_compared(texts: Recipe, roberta: str, tmp_path: Path) -> None:
    for kind in (HiddenStates(), AttentionMaps(), AttentionRelations(relation_heads=4)):
        refused(with_kinds(texts, Embedding(), kind, teacher=roberta), tmp_path, r"objective.kinds\[1\]: .*tokenizer")
    refused(with_kinds(texts, HiddenStates(((1, 5),))), tmp_path, r"kinds\[0\]: .*0 to 4.* 5")
    long = dataclasses.replace(texts, data=dataclasses.replace(texts.data, max_length=64))
    short = classifier(tmp_path / "short", "bert", max_position_embeddings=40)
    tokenizer = short / "tokenizer_config.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"model_max_length": 40}))
    refused(
        with_kinds(long, HiddenStates(), teacher=str(short)),
        tmp_path,
        "40 tokens, and data.max_length is 64",
    )
    one_row = dataclasses.replace(texts, train=Train(per_device_train_batch_size=1))
    refused(with_kinds(one_row, Contrastive()), tmp_path, r"^objective.kinds: .*per_device_train_batch_size")


def test_a_step_that_is_cut_is_said(texts: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    cut = dataclasses.replace(with_kinds(texts, Contrastive()), batching=Batching(rows_per_step=16))
    assert "a step of 16 rows is cut into 2: another number of parts trains other weights" in " ".join(
        plan(prepare(cut)).notes
    )
    whole = with_kinds(texts, Contrastive())
    assert "is cut into" not in " ".join(plan(prepare(whole)).notes)


def test_a_flag_of_one_field(texts: Recipe) -> None:
    """Of a kind that is chosen already, numbers are flags, and so is what changes them; a pair too short is named."""
    recipe = with_kinds(texts, Contrastive(Ramp(2.0, 1.0)), HiddenStates())
    for flag, expected in (
        ("0.3", 0.3),
        ("1:0.1", Ramp(1.0, 0.1)),
        ("1:1e-1:cosine", Ramp(1.0, 0.1, "cosine")),
    ):
        flags = ["--objective.kinds.0.temperature", flag, "--objective.kinds.1.weight", "0.2"]
        job = parse_run(RunJob(recipe), flags, "x")
        assert job.recipe.objective.kinds == (Contrastive(expected), HiddenStates(weight=0.2))
    assert parse_run(RunJob(recipe), [], "x").recipe == recipe
    for flag in ("high", "1:2:3", "1:0:sine"):
        with pytest.raises(InputError, match=r"^--objective.kinds.0.temperature .*: expected FLOAT"):
            parse_run(RunJob(recipe), ["--objective.kinds.0.temperature", flag], "x")
    with pytest.raises(InputError, match=r"^objective.kinds\[0\].layers\[0\]"):
        parse_run(RunJob(recipe), ["--objective.kinds", "[{type: HiddenStates, layers: [[1]]}]"], "x")
