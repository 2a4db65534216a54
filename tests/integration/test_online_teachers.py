"""Teachers that predict augmented views while the student trains, also in two processes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.distilled import distilled_recipe, dry_run_weights, furthest, result_of, trained
from helpers.ranks import run_in_two_processes
from helpers.small_runs import stop_after, text_rows

from hf_finetune import Launch, Optim, Recipe
from hf_finetune.augmentation.compose import Sometimes
from hf_finetune.augmentation.online import AugmentedRows
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.distillation.predictions import OnlinePredictions
from hf_finetune.distillation.teachers import network as network_teacher
from hf_finetune.errors import StoppedBySignal
from hf_finetune.pipeline import run as pipeline
from hf_finetune.utils.plain import to_plain

pytestmark = pytest.mark.usefixtures("gate_here")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return distilled_recipe(tmp_path_factory.mktemp("texts"))


def test_online_and_cached_teacher_logits_train_the_same(texts: Recipe, tmp_path: Path) -> None:
    """Views that are the rows as they are: the same weights to rounding, whenever the teacher predicted them."""
    recipe = dataclasses.replace(texts, optim=Optim(word_embeddings="dense"))
    data = dataclasses.replace(recipe.data, augment=(Sometimes(SwapWords(), p=0.0),))
    weights = trained(recipe, tmp_path / "kept"), trained(recipe, tmp_path / "live", data=data)
    # Softmax cancels a key's bias: its gradient is rounding alone, which Adam makes as large as any other.
    kept, live = ({n: w for n, w in side.items() if not n.endswith("key.bias")} for side in weights)
    assert furthest(kept, live) < 1e-4
    assert [result_of(tmp_path / name)["teacher"]["live"] for name in ("kept", "live")] == [False, True]
    assert result_of(tmp_path / "live")["time"]["teacher_s"] > 0


def test_a_row_drawn_again_is_the_view_that_the_teacher_predicted(texts: Recipe, tmp_path: Path) -> None:
    """The teacher predicts one view of each row in an epoch; the rare class's come several times."""
    header, *lines = Path(texts.data.path).read_text().splitlines()
    good = [line for line in lines if line.endswith("good")]
    bad = [line for line in lines if line.endswith("bad")]
    (tmp_path / "rare.csv").write_text("\n".join([header, *good, *bad[:10]]))
    recipe = dataclasses.replace(
        texts,
        data=dataclasses.replace(texts.data, path=str(tmp_path / "rare.csv"), augment=(SwapWords(0.5),)),
        batching=dataclasses.replace(texts.batching, sampling="balanced"),
    )
    trained(recipe, tmp_path / "run")
    found = result_of(tmp_path / "run")
    assert found["teacher"]["live"] and found["rows"]["train"] == 36


def test_a_teacher_predicts_every_view_as_it_is(texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as its row: the weights are others; a run that was stopped goes on with the same views and logits, to the
    bit. And another run of the same views finds the logits cached."""
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    recipe = dataclasses.replace(texts, data=dataclasses.replace(texts.data, augment=(SwapWords(0.5),)))
    predict_views, predicted = OnlinePredictions.__call__, []

    def remember(self: OnlinePredictions, views: AugmentedRows) -> Any:
        predicted.extend(views.texts()["text"])
        return predict_views(self, views)

    monkeypatch.setattr(OnlinePredictions, "__call__", remember)
    straight = trained(recipe, tmp_path / "straight")
    rows = {row["text"] for row in text_rows(60)}
    # 54 rows in each of two epochs, few of them as they were, or as in the other.
    assert len(predicted) == 108 and len(set(predicted) - rows) > 60 and len(set(predicted)) > 80

    with monkeypatch.context() as patched:
        patched.setattr(network_teacher, "predict_logits", None)
        assert furthest(straight, trained(recipe, tmp_path / "again")) == 0.0

    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "another"))
    stop_after(monkeypatch, 3)
    with pytest.raises(StoppedBySignal):
        pipeline.run(recipe, Launch(str(tmp_path / "stopped"), resume=True))
    assert furthest(straight, trained(recipe, tmp_path / "stopped")) == 0.0


def test_a_live_teacher_is_not_the_students_time(texts: Recipe, tmp_path: Path) -> None:
    trained(texts, tmp_path / "live", data=dataclasses.replace(texts.data, augment=(SwapWords(),)))
    found = result_of(tmp_path / "live")
    loop_s = found["time"]["train_loop_s"] + found["time"]["probe_s"]
    assert found["time"]["all_steps_s"] > found["time"]["train_loop_s"]
    assert found["throughput"]["train_rows_per_s"] == pytest.approx(2 * found["rows"]["train"] / loop_s, rel=0.05)


def test_processes_that_read_rows_need_no_teacher(texts: Recipe) -> None:
    """The logits of an epoch's views are there before they begin."""
    recipe = dataclasses.replace(
        texts,
        data=dataclasses.replace(texts.data, augment=(SwapWords(),)),
        train=dataclasses.replace(texts.train, num_train_epochs=1.0),
    )
    workers = dataclasses.replace(recipe.train, extra={"dataloader_num_workers": 1})
    assert furthest(dry_run_weights(recipe), dry_run_weights(dataclasses.replace(recipe, train=workers))) == 0.0


SCRIPT = """
import json, sys
from pathlib import Path
import torch
from hf_finetune.pipeline.choose_kernels import default_kernels
from hf_finetune.pipeline.run import prepare, fit_dry
from hf_finetune.utils.plain import merge
from hf_finetune import Model, Recipe, TextData
from hf_finetune.training.probe import KernelChoice

folder = Path(sys.argv[1])
for name in ("kept", "live"):
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    prepared = prepare(merge(blank, json.loads((folder / f"{name}.json").read_text())))
    trained = fit_dry(prepared, folder / name, KernelChoice(default_kernels(prepared)))
    trainer, predictions = trained.trainer, trained.setup.teacher.predictions
    assert trainer.args.world_size == 2 and (predictions.online is not None) == (name == "live")
    torch.save(trainer.trained_model().state_dict(), folder / f"{name}-{trainer.args.process_index}.pt")
# A teacher may take longer than the half hour that processes wait for one another by default.
group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
assert group.options._timeout.total_seconds() >= 24 * 3600
"""


def test_a_teacher_predicts_the_same_in_two_processes(texts: Recipe, tmp_path: Path) -> None:
    """Cached or online, the two end with the weights of one process with cached logits."""
    recipe = dataclasses.replace(
        texts,
        model=dataclasses.replace(texts.model, dropout=0.0),
        optim=Optim(word_embeddings="dense"),
        data=dataclasses.replace(texts.data, unlabeled=("train",), max_train_rows=20),
    )
    live = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, augment=(Sometimes(SwapWords(), p=0.0),)))
    for name, one in (("kept", recipe), ("live", live)):
        (tmp_path / f"{name}.json").write_text(json.dumps(to_plain(one)))
    alone = dry_run_weights(recipe)
    run_in_two_processes(SCRIPT, tmp_path, folder=tmp_path)
    for name in ("kept", "live"):
        first, second = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(2))
        assert furthest(first, second) == 0.0
        assert max(float((first[n] - alone[n]).abs().max()) for n in alone if not n.endswith("key.bias")) < 1e-3
