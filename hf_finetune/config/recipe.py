"""The recipe of a run. Each section is defined in the package of its subject.

Sections are frozen dataclasses and cheap to import. The docstring below a field is its `--help`. A variant of a recipe
is `dataclasses.replace(recipe, ...)`.
"""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from hf_finetune.config.aliases import current
from hf_finetune.config.compress import Compress
from hf_finetune.config.data import ImageData, TextData
from hf_finetune.config.search import Search
from hf_finetune.data.config import Kind
from hf_finetune.data.long.chunk import Chunk
from hf_finetune.data.long.config import with_weights
from hf_finetune.distillation.config import Distill, DistillationKind, FeatureKind
from hf_finetune.evaluation.config import Evaluate
from hf_finetune.features.config import Classical
from hf_finetune.models.config import Model
from hf_finetune.models.own_tokenizers import KmerTokenizer
from hf_finetune.models.peft.config import Adapter, Lora
from hf_finetune.pretraining.config import Pretrain
from hf_finetune.training.config import Averaging, Batching, Precision, Train
from hf_finetune.training.losses.config import Supervised
from hf_finetune.training.optim.config import Optim
from hf_finetune.training.optim.schedule_config import Schedule
from hf_finetune.training.regularization.config import Regularize
from hf_finetune.utils.config import Choice, configclass, flag
from hf_finetune.utils.embedded import IMAGE_CHECKPOINT, minilm
from hf_finetune.utils.plain import merge
from hf_finetune.utils.sequences import SequenceKind

Method = Literal["full", "lora", "top", "head", "classical", "auto"]


SEQUENCE_MODEL = Model(
    checkpoint="modernbert",
    from_config={
        "num_hidden_layers": 1,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "local_attention": 16,
        "embedding_dropout": 0.1,
        "mlp_dropout": 0.1,
    },
    tokenizer=KmerTokenizer(k=4),
    pooling="max",
)
"""The network for sequences where no checkpoint is named: a motif is short, at an unknown place, and one is enough."""
SEQUENCE_TRAINING = Train(num_train_epochs=10, learning_rate=1e-3)


@configclass
class Hub:
    """Where the result is pushed."""

    repo_id: Annotated[str | None, flag("--push")] = None
    """Repository on the Hub, created if needed. None: nothing is pushed."""
    private: bool = False
    """Make a new repository private."""
    revision: str | None = None
    """Branch to push to."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    benchmark: Annotated[str | None, flag("--benchmark")] = None
    """OWNER/DATASET:TASK, if the test rows are those of a data set that the Hub has registered as a benchmark: a push
    then also sends `.eval_results/DATASET.yaml` with the metric that chooses the epoch. The card has all metrics in any
    case."""
    license: str | None = None
    """License of the model, for the card."""
    language: str | None = None
    """Language of the texts (`en`), for the card."""


@configclass
class Recipe:
    """One run, from labeled data to a verified classifier."""

    name: str
    """Name of the run, of its folder under runs/ and of its card."""
    data: Choice[TextData | ImageData]
    model: Model
    method: Method = "full"
    """What trains: all weights, LoRA adapters and the head, the top layers and the head, or only the head. classical:
    no network, but a pipeline of scikit-learn, see `classical`. auto: `train` and `run` try these in turn within
    `search.budget`, and keep what a paired test on validation rows finds better. A PEFT config in `adapter` takes
    precedence."""
    adapter: Adapter = None
    """A PEFT config, or its type for PEFT's defaults. None with method lora: see `lora`."""
    lora: Lora = Lora()
    """Settings of method lora, unless `adapter` is given."""
    classical: Classical = Classical()
    pretrain: Pretrain = Pretrain()
    objective: Choice[Supervised | Distill] = Supervised()
    regularize: Regularize = Regularize()
    train: Train = Train()
    batching: Batching = Batching()
    precision: Precision = Precision()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    averaging: Averaging = Averaging()
    evaluate: Evaluate = Evaluate()
    hub: Hub = Hub()
    search: Search = Search()
    compress: Choice[Compress | None] = None
    """How the finished model is compressed, to compressed/ in the folder of the run, as `hf-finetune compress RUN`
    does. What is pushed is the model itself. None: it is not compressed."""

    @property
    def kind(self) -> Kind:
        """What the run classifies: text or image."""
        return self.data.kind

    @property
    def sequence(self) -> SequenceKind | None:
        """What the sequences are. None for texts of a language, and images."""
        return self.data.sequence if self.data.kind == "text" else None

    @property
    def task(self) -> Literal["text-classification", "image-classification"]:
        """The Hub's name of the task."""
        return "text-classification" if self.kind == "text" else "image-classification"

    @property
    def effective_method(self) -> str:
        """The method as in result.json: full, top, head, or the PEFT type of the adapter in lower case."""
        return self.method if self.adapter is None else str(self.adapter.peft_type.value).lower()

    @property
    def uses_adapter(self) -> bool:
        """Whether an adapter is trained instead of the model's own weights."""
        return self.adapter is not None or self.method == "lora"

    @property
    def uses_prompt_learning(self) -> bool:
        """Whether the adapter adds virtual tokens to the input instead of changing weights."""
        return self.adapter is not None and self.adapter.is_prompt_learning

    @property
    def pretrained_checkpoint(self) -> str | None:
        """The checkpoint whose weights the run starts from, or None with random weights."""
        return None if self.model.from_config is not None else self.model.checkpoint

    @property
    def chunk_pooling(self) -> Literal["mean", "max", "attention"] | None:
        """How the vectors of a text's chunks are combined. None: a text is no chunks."""
        return self.data.long.pooling if self.data.kind == "text" and isinstance(self.data.long, Chunk) else None

    @property
    def has_teacher(self) -> bool:
        """Whether the run distills a teacher."""
        return isinstance(self.objective, Distill)

    def with_data(self, path: str) -> "Recipe":
        """Return the recipe on these data. It is named after them and the method, unless it has a name."""
        local = Path(path)
        name = local.absolute().name if os.path.exists(local) else re.split("[/:]", path)[-1]
        formats = r"csv|tsv|txt|jsonl?|xlsx|parquet|conll|iob2?|bio|fasta|fa|fna|faa|ffn"
        stem = re.sub(rf"\.({formats})(\.gz|\.zst)?$", "", name)
        data = replace(self.data, path=path)
        return replace(self, name=self.name or f"{stem}-{self.effective_method}", data=data)

    def with_teacher(self, teacher: str) -> "Recipe":
        """Return the recipe that distills this teacher, unless it distills another one already."""
        if isinstance(self.objective, Distill):
            return self
        return replace(self, objective=Distill(teacher=teacher, **vars(self.objective)))

    @property
    def distillation_kinds(self) -> tuple[DistillationKind, ...]:
        """The losses against the teacher. Empty without a teacher."""
        return self.objective.kinds if isinstance(self.objective, Distill) else ()

    @property
    def compares_features(self) -> bool:
        """Whether a loss compares hidden states, attention or embeddings with the teacher's."""
        return any(isinstance(kind, FeatureKind) for kind in self.distillation_kinds)

    @property
    def fits_head(self) -> bool:
        """Whether the classification layer is fitted to the labels before training."""
        uses_labels = not isinstance(self.objective, Distill) or self.objective.uses_labels
        return self.train.head_warm_start and self.model.from_config is None and uses_labels


@configclass
class Launch:
    """Where and how a recipe runs. Nothing here changes what it computes."""

    output: str | None = None
    """Folder of the run. Default: runs/NAME-N."""
    resume: bool = False
    """Resume the run in `output`."""
    num_processes: int | None = None
    """Number of processes. Default: one, or what `accelerate launch` started."""


def blank_recipe(
    *, images: bool, name: str = "", sequence: SequenceKind | None = None, own_model: bool = True
) -> Recipe:
    """Return the defaults on an embedded checkpoint, without data.

    Args:
        sequence: return those for sequences of this alphabet.
        own_model: for sequences a small network from random weights, which none of the embedded checkpoints can
            replace. False: a checkpoint will be named.
    """
    if images:
        return Recipe(name=name, data=ImageData(path=""), model=Model(checkpoint=IMAGE_CHECKPOINT))
    recipe = Recipe(name=name, data=TextData(path=""), model=Model(checkpoint=minilm()))
    if sequence is None:
        return recipe
    recipe = replace(recipe, data=TextData(path="", sequence=sequence, max_length=512))
    return replace(recipe, model=SEQUENCE_MODEL, train=SEQUENCE_TRAINING) if own_model else recipe


def recipe_from_plain(plain: Any) -> Recipe:
    """Return the recipe of a recipe.json of any version.

    Raises:
        InputError: an unknown field, or a value that does not fit.
    """
    blank = Recipe(name="", data=TextData(path=""), model=Model(checkpoint=""))
    plain = current(plain)
    if isinstance(plain, dict) and isinstance(data := plain.get("data"), dict) and "long" in data:
        plain = {**plain, "data": {**data, "long": with_weights(data["long"])}}
    return merge(blank, plain)
