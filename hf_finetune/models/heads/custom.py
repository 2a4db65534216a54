"""A classifier with a head that no stock class has: another pooling, several layers, an MLP, or a network over tokens.

It is built only if necessary. A head that the family's own class has stays in that class; a head that the class can
express after training is folded into it, see `stock`. Any other classifier is saved as encoder/, which plain
`AutoModel.from_pretrained` loads, and head.safetensors, which a few documented lines apply, see `hub.plain_loading`.

Legend: B rows, T tokens, C classes, D width.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_finetune.errors import InputError
from hf_finetune.models.config import Model
from hf_finetune.models.contexts import seeded
from hf_finetune.models.families import family_of, stock_head, width_of
from hf_finetune.models.family import PoolingKind, StockHead
from hf_finetune.models.heads.classification import ClassificationHead
from hf_finetune.models.heads.pooling import Pool, PoolingSpec, last_states, padded_chunks, pooling_spec
from hf_finetune.models.heads.stock import can_fold, can_switch, stock_class, switch
from hf_finetune.models.heads.token_network import NAMES, TokenNetwork
from hf_finetune.models.loading import Loaded
from hf_finetune.models.modules import encoder, submodule, without_adapter

# Standard deviation of a new head's weights, as in the families' own heads.
INITIAL_STD = 0.02
READS = {"cls": "the first token", "mean": "the mean", "max": "the maximum", "attention": "a learned weighted mean"}


class CustomHeadClassifier(PreTrainedModel):
    """An encoder, a pooling of its hidden states or of those of a small network over them, and a head.

    The encoder has the name that it has in the family's own class (`bert`, `vit`), so that names of weights and modules
    are the same in both.

    Args:
        body: the encoder, whose config the classifier shares. Its pooler is removed.
        spec: how its hidden states are pooled.
        chunks: how the pooled states of a row's chunks are combined: mean, max or attention. None: a row is one chunk.
        token_network: reads the hidden states before they are pooled. None: there is none.
        hidden, activation, dropout: see `ClassificationHead`.
    """

    # The encoder itself was checked when it was loaded.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(
        self,
        body: PreTrainedModel,
        spec: PoolingSpec,
        *,
        chunks: PoolingKind | None = None,
        token_network: TokenNetwork | None = None,
        hidden: int | None = None,
        activation: str = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(body.config)
        _remove_unused(body)
        self.base_model_prefix = body.base_model_prefix
        self.main_input_name = body.main_input_name
        self._supports_attention_backend = body._supports_attention_backend
        self.add_module(self.base_model_prefix, body)
        width = width_of(body.config) * spec.last_layers if token_network is None else token_network.width
        classes = self.config.num_labels
        assert classes is not None, "a config without classes"
        self.token_network = token_network
        self.pooling = Pool(spec, width)
        self.chunk_pooling = None if chunks is None else Pool(PoolingSpec(chunks), width)
        self.head = ClassificationHead(width, classes, hidden=hidden, activation=activation, dropout=dropout)
        # Set here because `post_init` would also initialize the weights.
        prefix = self.base_model_prefix
        self.all_tied_weights_keys = {f"{prefix}.{k}": f"{prefix}.{v}" for k, v in body.all_tied_weights_keys.items()}
        self.train(body.training)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        chunks: torch.Tensor | None = None,
        labels: None = None,
        output_attentions: None = None,
        output_hidden_states: None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Return the logits (B, C). PEFT passes the arguments that are not used.

        Args:
            chunks: how much each chunk of a row counts, shape (B, K), where chunks are the rows of the other tensors.
                See `padded_chunks`.
        """
        inputs: dict[str, torch.Tensor | bool | None] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
            "pixel_values": pixel_values,
            "output_hidden_states": True if self.spec.last_layers > 1 else None,
        }
        used = {name: value for name, value in inputs.items() if value is not None}
        output = encoder(self)(**used, return_dict=True)
        states_BTD = last_states(output.last_hidden_state, output.hidden_states, self.spec.last_layers)
        if self.token_network is not None:
            states_BTD, attention_mask = self.token_network(states_BTD, attention_mask)
        pooled_BD = self.pooling(states_BTD, attention_mask)
        if self.chunk_pooling is not None and chunks is not None:
            pooled_BD = self.chunk_pooling(padded_chunks(pooled_BD, chunks), chunks)
        return SequenceClassifierOutput(logits=self.head(pooled_BD))

    def set_attn_implementation(self, attn_implementation: str | dict, allow_all_kernels: bool = False) -> None:
        """Set the attention kernel of the encoder, whose config this classifier shares."""
        encoder(self).set_attn_implementation(attn_implementation, allow_all_kernels)

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's input embeddings."""
        return encoder(self).get_input_embeddings()

    @property
    def head_parts(self) -> list[nn.Module]:
        """The modules above the encoder."""
        parts = (self.token_network, self.pooling, self.chunk_pooling, self.head)
        return [part for part in parts if part is not None]

    @property
    def spec(self) -> PoolingSpec:
        """How the hidden states are pooled."""
        return self.pooling.spec

    @property
    def reads_only_first_token(self) -> bool:
        """Whether the logits depend on no other token of the last layer."""
        return (self.spec.kind, self.spec.last_layers, self.token_network) == ("cls", 1, None)

    @property
    def folds(self) -> bool:
        """Whether `stock.fold` can turn it into a stock model."""
        has_more = self.chunk_pooling is not None or self.token_network is not None
        return not has_more and can_fold(self.config, self.spec, self.head)

    @property
    def why_not_standalone(self) -> str:
        """Why no stock class can hold it: one sentence for the user."""
        if self.chunk_pooling is not None:
            return f"{stock_class(self.config).__name__} has no head that combines the chunks of a text"
        if self.token_network is not None:
            network = NAMES[self.token_network.kind]
            return f"{stock_class(self.config).__name__} has no head with {network} over the tokens"
        layers = self.spec.last_layers
        which = f" of the last {layers} layers side by side" if layers > 1 else ""
        head = f"a hidden layer ({self.head.activation})" if self.head.has_hidden else "one linear layer"
        return f"{stock_class(self.config).__name__} has no head that gives {READS[self.spec.kind]}{which} to {head}"


def _remove_unused(body: PreTrainedModel) -> None:
    """Remove weights after the hidden states, which would get no gradient and be saved needlessly."""
    pooler = dict(body.named_children()).get("pooler")
    if pooler is not None and any(True for _ in pooler.parameters()):
        body.add_module("pooler", None)
    norm = family_of(body.config).norm_after_pooling
    if norm is not None:
        # Frozen rather than removed: AutoModel expects it in the file.
        body.get_submodule(norm).requires_grad_(False)


def with_head(loaded: Loaded, options: Model, chunks: PoolingKind | None = None, *, seed: int = 0) -> Loaded:
    """Give a classifier another pooling and head: in the stock class if possible, else in a `CustomHeadClassifier`.

    Args:
        loaded: a stock classifier, whose encoder the new one takes.
        options: its pooling, last_layers, head, head_width and head_activation.
        chunks: see `CustomHeadClassifier`; no stock class combines chunks.
        seed: of the head's initial weights; torch's global generator stays as it was.

    Raises:
        InputError: the family does not support this pooling, see `pooling.pooling_spec`.
    """
    if not options.has_custom_head and chunks is None:
        return loaded
    model, pooling, stock = loaded.model, options.named_pooling, stock_head(loaded.model.config)
    default: PoolingKind = (stock and stock.pooling) or "mean" if options.token_network is None else "max"
    kind = pooling if pooling != "default" else default
    if chunks is not None and stock is None:
        kind_of_model = model.config.model_type
        raise InputError(
            f"data.long: expected another way than chunk with {kind_of_model}, whose states cannot be pooled"
        )
    spec = pooling_spec(model.config, kind, options.last_layers)
    assert stock is not None, "pooling_spec refuses families without a known head"
    fresh = {model.get_submodule(name) for name in loaded.fresh}
    if chunks is None and _has_stock_head(model, stock, options):
        if pooling not in ("default", stock.pooling):
            switch(model, pooling)
        note = f"model.pooling {pooling}, model.head {options.head}: {type(model).__name__} has them itself"
        names = tuple(name for name, module in model.named_modules() if module in fresh)
        return Loaded(model, names, (*loaded.notes, note))
    if pooling == "default" and stock.pooling is None and options.token_network is None:
        raise InputError(
            f"model.pooling: {type(model).__name__} concatenates CLS and the mean; "
            "name cls, mean, max or attention together with model.head and model.last_layers"
        )
    if stock.switch == "use_mean_pooling":
        # Then the encoder normalizes its hidden states, as other families do.
        switch(model, "cls")
    custom = _with_new_head(model, spec, chunks, options, stock, seed)
    fresh |= {m for part in custom.head_parts for m in part.modules()}
    names = tuple(n for n, m in custom.named_modules() if m in fresh and any(True for _ in m.parameters(recurse=False)))
    note = "once trained, the head is folded into a stock class" if custom.folds else custom.why_not_standalone
    return Loaded(custom, names, (*loaded.notes, note))


def _has_stock_head(model: PreTrainedModel, stock: StockHead, options: Model) -> bool:
    """Whether the stock class has this pooling and head."""
    pooling = options.named_pooling
    has_pooling = pooling in ("default", stock.pooling) or can_switch(model.config, pooling)
    if options.last_layers > 1 or not has_pooling:
        return False
    if options.head != "mlp":
        return options.head in ("default", stock.kind)
    if not stock.dense or options.head_activation not in (None, stock.activation):
        return False
    return options.head_width in (None, submodule(model, stock.dense, nn.Linear).out_features)


def _with_new_head(
    model: PreTrainedModel,
    spec: PoolingSpec,
    chunks: PoolingKind | None,
    options: Model,
    stock: StockHead,
    seed: int,
) -> CustomHeadClassifier:
    """Put a randomly initialized head, with the dropout rate of the stock head, on the encoder."""
    body = encoder(model)
    in_body = set(body.modules())
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout) and m not in in_body]
    width = options.head_width or width_of(model.config) * spec.last_layers
    with seeded(seed):
        network = None
        if options.token_network is not None:
            features = width_of(model.config) * spec.last_layers
            default = features if options.token_network == "convolution" else max(1, features // 2)
            network = TokenNetwork(options.token_network, features, options.head_width or default)
        custom = CustomHeadClassifier(
            body,
            spec,
            chunks=chunks,
            token_network=network,
            hidden=width if options.head == "mlp" else None,
            activation=options.head_activation or stock.activation or "gelu",
            dropout=rates[-1] if rates else 0.0,
        )
        for layer in custom.head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=INITIAL_STD)
                nn.init.zeros_(layer.bias)
    custom.name_or_path = model.name_or_path
    return custom


def last_layers_read(model: nn.Module) -> int:
    """Return how many of the highest layers the head reads; works on a PEFT model, too."""
    classifier = without_adapter(model)
    return classifier.spec.last_layers if isinstance(classifier, CustomHeadClassifier) else 1
