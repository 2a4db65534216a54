"""Feature losses: pairs of layers, values by hand, and invariance to how a step is cut."""

from dataclasses import replace
from functools import partial, reduce
from operator import or_
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.small_runs import furthest, small_trainer, trained_by_two, weights
from helpers.tiny import tiny_text_checkpoint
from torch import nn
from transformers import TrainingArguments

from hf_finetune.distillation.config import (
    AttentionMaps,
    AttentionRelations,
    Contrastive,
    Embedding,
    EmbeddingKind,
    FeatureKind,
    HiddenStates,
    RelationalKD,
    TokenKind,
)
from hf_finetune.distillation.feature_matching.recorder import EmbeddingModel, FeatureRecorder
from hf_finetune.distillation.feature_matching.teacher_features import FeatureDistillation
from hf_finetune.distillation.loss import DistillationLoss, FeatureLossModule
from hf_finetune.distillation.losses.base import FeatureLoss, Features, Networks, RequiredFeatures
from hf_finetune.distillation.losses.layers import layer_pairs
from hf_finetune.distillation.trainer import DistillationTrainer, Teaching
from hf_finetune.distillation.training_rows import embedding_column
from hf_finetune.distillation.weight_schedules import Ramp
from hf_finetune.errors import InputError
from hf_finetune.training.losses.weighted import WeightedLoss
from hf_finetune.training.setup import TrainingSetup


def config(layers: int, width: int = 4, heads: int = 2) -> SimpleNamespace:
    """Return a config of BERT's family."""
    plain = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "model_type": "bert"}
    return SimpleNamespace(**plain, to_dict=lambda: plain)


def losses_of(kind: FeatureKind, networks: Networks, student: Features, teacher: Features) -> list[float]:
    module = FeatureLossModule(kind, networks, torch.Generator().manual_seed(0))
    return module(student, teacher, 0.0).tolist()


def test_pairs_of_layers() -> None:
    """3 of 12 layers: every fourth; 3 of 4: rounded up; a deeper student: several with one teacher layer."""
    assert layer_pairs("uniform", Networks(config(3), config(12)), lowest=0) == ((1, 4), (2, 8), (3, 12))
    assert layer_pairs("uniform", Networks(config(3), config(4)), lowest=0) == ((1, 2), (2, 3), (3, 4))
    assert layer_pairs("uniform", Networks(config(4), config(2)), lowest=0) == ((1, 1), (2, 1), (3, 2), (4, 2))
    assert layer_pairs("last", Networks(config(3), config(12)), lowest=1) == ((3, 12),)
    assert layer_pairs(((0, 0), (3, 5)), Networks(config(3), config(12)), lowest=0) == ((0, 0), (3, 5))
    for pairs, message in (
        (((4, 1),), "the student has the layers 0 to 3, not 4"),
        (((1, 13),), "teacher .* 0 to 12, not 13"),
    ):
        with pytest.raises(InputError, match=message):
            layer_pairs(pairs, Networks(config(3), config(12)), lowest=0)
    with pytest.raises(InputError, match="the student has the layers 1 to 3, not 0"):
        AttentionMaps(((0, 1),)).required(Networks(config(3), config(3)))


def test_hidden_states_of_pairs_by_hand() -> None:
    """For equal widths the projection starts as the identity: squares of 4 for the embeddings and of 1 for the layer
    have the mean 2.5."""
    zero, one, two = (torch.full((1, 2, 4), float(x)) for x in range(3))
    student, teacher = Features(hidden={0: zero, 1: zero}), Features(hidden={0: two, 1: zero, 2: one})
    assert losses_of(HiddenStates(((0, 0), (1, 2))), Networks(config(1), config(2)), student, teacher) == [2.5]
    assert losses_of(HiddenStates("last"), Networks(config(1), config(2)), student, teacher) == [1.0]


def test_a_learned_map_by_hand() -> None:
    """It starts as the mean of the teacher's layers, 0 and 4: a square of 4. Scores of ln 3 and 0 give a quarter of 4:
    a square of 1."""
    zero, four = torch.zeros(1, 2, 4), torch.full((1, 2, 4), 4.0)
    networks, kind = Networks(config(1), config(2)), HiddenStates("learned")
    module = FeatureLossModule(kind, networks, torch.Generator())
    student, teacher = Features(hidden={0: zero, 1: zero}), Features(hidden={0: four, 1: zero, 2: four})
    assert module(student, teacher, 0.0).tolist() == [4.0]
    with torch.no_grad():
        module.weights["layer_map"].copy_(torch.tensor([[3.0, 1.0]]).log())
    assert module(student, teacher, 0.0).tolist() == pytest.approx([1.0])


def test_projections_between_widths() -> None:
    """For other widths it is drawn by the seed and keeps the size of the states; RelationalKD needs none."""
    networks = Networks(config(1, width=400), config(1, width=300))
    first, same, other = (
        FeatureLossModule(HiddenStates("last"), networks, torch.Generator().manual_seed(seed))
        .weights["projection_0"]
        .detach()
        for seed in (0, 0, 1)
    )
    assert first.shape == (300, 400) and torch.equal(first, same) and not torch.equal(first, other)
    assert float((first @ torch.ones(400)).std()) == pytest.approx(1.0, abs=0.15)
    embedding_losses = (Embedding(), Contrastive(), RelationalKD())
    sizes = [
        sum(p.numel() for p in FeatureLossModule(k, networks, torch.Generator()).parameters()) for k in embedding_losses
    ]
    assert sizes == [120_000, 120_000, 0]
    assert not list(FeatureLossModule(Embedding(), Networks(config(1), config(3)), torch.Generator()).parameters())


def test_other_numbers_of_heads_are_compared_by_their_mean() -> None:
    """The teacher's two heads attend to opposite tokens, the student's one head to both equally, as their mean does."""
    half = torch.zeros(1, 2, 2)
    far = torch.tensor([[[9.0, 9.0], [0.0, 0.0]]])
    query = torch.tensor([[[9.0, -9.0], [9.0, -9.0]]])
    student = Features(attention={1: {"query": half, "key": half, "value": half}})
    teacher = Features(attention={1: {"query": query, "key": far, "value": far}})
    for form in ("kl", "mse"):
        kind = AttentionMaps("last", form)
        assert losses_of(kind, Networks(config(1, 2, 1), config(1, 2, 2)), student, teacher) == pytest.approx(
            [0.0], abs=1e-6
        )
        both = Networks(config(1, 2, 2), config(1, 2, 2))
        expected = {"kl": np.log(2), "mse": 0.5}[form]
        assert losses_of(kind, both, student, teacher) == pytest.approx([expected], abs=1e-4)


def test_attention_relations_by_hand() -> None:
    """Widths 2 and 4 in two heads: the teacher's first token relates to itself only, the student's to both equally."""
    flat, sharp = torch.zeros(1, 2, 2), torch.zeros(1, 2, 4)
    sharp[0, 0] = 99.0
    student = Features(attention={1: dict.fromkeys(("query", "key", "value"), flat)})
    teacher = Features(attention={2: {"query": sharp, "key": sharp, "value": torch.zeros(1, 2, 4)}, 1: {}})
    networks = Networks(config(1, width=2), config(3, width=4))
    actual = losses_of(AttentionRelations(teacher_layer=2), networks, student, teacher)
    # The first of two tokens costs ln 2 in the queries and in the keys.
    assert actual == pytest.approx([np.log(2)])
    with pytest.raises(InputError, match="relation_heads: expected a divisor of the student's width 2, got 3"):
        AttentionRelations(relation_heads=3).required(networks)


def test_losses_that_compare_rows() -> None:
    """Distances and angles have their weights, and a temperature its value at this step."""
    student, teacher = Features(pooled={"cls": torch.eye(3)}), Features(pooled={"cls": torch.eye(3)[:, :2]})
    networks = Networks(config(1, width=3), config(1, width=2))
    parts = [losses_of(RelationalKD(d, a, "cls"), networks, student, teacher) for d, a in ((1, 0), (0, 1), (2, 3))]
    assert parts[2] == pytest.approx([2 * d + 3 * a for d, a in zip(*parts[:2], strict=True)])
    assert min(map(sum, parts)) > 0
    kind = Contrastive(Ramp(1.0, 0.5), "cls")
    module = FeatureLossModule(kind, Networks(config(1, 3), config(1, 3)), torch.Generator())
    actual = [module(student, student, progress).tolist() for progress in (0.0, 1.0)]
    assert [x[0] for x in actual] == pytest.approx([np.log(1 + 2 / np.e), np.log(1 + 2 / np.e**2)])


EVERY = [kind() for kind in (*get_args(TokenKind), *get_args(EmbeddingKind))]
# The other embedding losses depend on how a step is cut into forward passes, which the tests of trainers vary.
KINDS = (
    HiddenStates(weight=Ramp(0.0, 0.2)),
    HiddenStates("learned", 0.1),
    *(kind for kind in EVERY if not isinstance(kind, HiddenStates) and not getattr(kind, "compares_rows", False)),
)


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: type(kind).__name__)
def test_the_contract_of_feature_losses(kind: FeatureLoss) -> None:
    """From the required features to one loss for each row, with gradients for the student and the loss's weights."""
    networks, generator = Networks(config(2), config(4, width=8)), torch.Generator().manual_seed(0)

    def features(required: RequiredFeatures, width: int) -> Features:
        def states(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, width, generator=generator, requires_grad=True)

        return Features(
            torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 0]]),
            {layer: states(3, 3) for layer in required.hidden},
            {layer: {name: states(3, 3) for name in ("query", "key", "value")} for layer in required.attention},
            {pooling: states(3) for pooling in required.poolings},
        )

    student, teacher = (
        features(required, width) for required, width in zip(kind.required(networks), (4, 8), strict=True)
    )
    module = FeatureLossModule(kind, networks, generator)
    losses = module(student, teacher, 0.0)
    assert losses.shape == (3,) and losses.dtype == torch.float32 and (losses > 0).all()
    losses.sum().backward()
    assert all(weight.grad is not None for weight in module.parameters())
    compared = [*student.hidden.values(), *(x["query"] for x in student.attention.values()), *student.pooled.values()]
    assert all(x.grad is not None and x.grad.isfinite().all() for x in compared)


def student(
    model: nn.Module, args: TrainingArguments, setup: TrainingSetup, kinds: tuple[FeatureKind, ...] = KINDS
) -> DistillationTrainer:
    """Build a student of a random BERT of another width and depth, with random embeddings."""
    checkpoint = Path(args.output_dir) / "teacher"
    shape = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 64}
    if not checkpoint.exists():
        tiny_text_checkpoint(checkpoint, "bert", seed=1, **shape)
    teacher = load_classifier(str(checkpoint), task="text-classification", labels=("no", "yes"), seed=1).model.eval()
    networks, rng = Networks(model.config, teacher.config), np.random.default_rng(0)
    required, teacher_required = (
        reduce(or_, side) for side in zip(*(kind.required(networks) for kind in kinds), strict=True)
    )
    recorder = FeatureRecorder(teacher, replace(teacher_required, poolings=frozenset()))

    def teacher_tokens(batch: dict[str, torch.Tensor]) -> Features:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
        with torch.no_grad(), recorder.recording(inputs) as states:
            teacher(**inputs)
        return states

    generator = torch.Generator().manual_seed(0)
    features = FeatureDistillation(
        required,
        teacher_required.poolings,
        {place: FeatureLossModule(kind, networks, generator) for place, kind in enumerate(kinds)},
        teacher_tokens,
        {embedding_column("mean"): rng.normal(size=(len(setup.data.train), 48)).astype(np.float32)},
    )
    logits_NC = rng.normal(size=(len(setup.data.train), 2)).astype(np.float32)
    loss = DistillationLoss(WeightedLoss(), 0.5, kinds)
    return DistillationTrainer(model, args, replace(setup, loss=loss), Teaching(logits_NC, features))


def losses(trainer: DistillationTrainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_loss_of_a_step_is_the_mean_over_its_rows(tmp_path: Path) -> None:
    """13 rows in steps of 7 and 6, in unequal micro-batches: the loss by hand from the rows of each step.

    Its weight falls from 3 at the first step to 1 at the last.
    """
    kinds = (Embedding(weight=Ramp(3.0, 1.0)),)
    fields = {"rows": 13, "micro_batch": 3, "accumulation": 3, "learning_rate": 1e-12}
    trainer = small_trainer(tmp_path, "bert", trainer=partial(student, kinds=kinds), **fields)
    projection = trainer.teaching.features.losses[0].weights["projection"]
    teachers_ND = torch.from_numpy(trainer.teaching.features.columns[embedding_column("mean")])
    trainer.train()
    steps = trainer.get_train_dataloader().batch_sampler.step_rows()
    for step, logged, weight in zip(steps, losses(trainer), (3.0, 1.0), strict=True):
        batch = trainer.inputs.collate(trainer.train_dataset[step])
        labels = torch.tensor(trainer.train_dataset[step]["label"])
        with torch.no_grad():
            own_BD = EmbeddingModel(trainer.model.eval(), "mean")(**batch).logits @ projection.T
            logits = trainer.model(**batch).logits
        difference = 1 - torch.cosine_similarity(own_BD, teachers_ND[step])
        expected = 0.5 * torch.nn.functional.cross_entropy(logits, labels) + weight * difference.mean()
        assert logged == pytest.approx(float(expected), abs=1e-4)


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    """Five steps of 8 rows, in one batch or in four: the same losses and weights."""
    plain = small_trainer(tmp_path, "bert")
    plain.train()
    whole, parts = (
        small_trainer(tmp_path, "bert", trainer=student, **cut) for cut in ({}, {"micro_batch": 2, "accumulation": 4})
    )
    first = whole.teaching.features.losses[0].weights["projection_0"].detach().clone()
    whole.train()
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    assert (
        furthest(weights_without_key_biases(whole), weights_without_key_biases(parts))
        < 1e-3
        < furthest(weights(whole), weights(plain))
    )
    trained = [trainer.teaching.features.losses[0].weights["projection_0"].detach() for trainer in (whole, parts)]
    assert float((trained[0] - first).abs().max()) > 1e-3 > float((trained[0] - trained[1]).abs().max())
    assert float(whole.teaching.features.losses[1].weights["layer_map"].detach().abs().max()) > 1e-4


def weights_without_key_biases(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    """Leave out key biases, which softmax cancels: their gradients are rounding errors, which Adam scales up."""
    return {name: x for name, x in weights(trainer).items() if not name.endswith("key.bias")}


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    alone = small_trainer(tmp_path, "bert", trainer=student)
    alone.train()
    first, other = trained_by_two(tmp_path, student)
    assert furthest(first, other) == 0.0
    shared = {name: x for name, x in first.items() if not name.endswith("key.bias")}
    assert furthest(shared, weights_without_key_biases(alone)) < 1e-3


def test_losses_that_compare_rows_depend_on_the_micro_batches(tmp_path: Path) -> None:
    of_batches = partial(student, kinds=(Contrastive(weight=1.0), RelationalKD()))
    whole = small_trainer(tmp_path, "bert", trainer=of_batches)
    parts = small_trainer(tmp_path, "bert", trainer=of_batches, micro_batch=2, accumulation=4)
    whole.train()
    parts.train()
    assert losses(parts)[0] != pytest.approx(losses(whole)[0], rel=1e-2)
