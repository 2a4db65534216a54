"""A classifier of a stock encoder and a head that no stock class has: another pooling, several layers, an MLP.

It is built only where it must be. A head that the family's own class can express stays that class; one that it can
express once trained is folded into it, see `stock`. What is left is saved as encoder/, which plain
`AutoModel.from_pretrained` loads, and head.safetensors, which a few documented lines apply, see `hub.plain_loading`.

Legend: B rows, T tokens, C classes, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_finetune.errors import InputError
from hf_finetune.models.families import PoolingKind, StockHead, family_of, stock_head, width_of
from hf_finetune.models.heads.classification import ClassificationHead
from hf_finetune.models.heads.pooling import Pool, PoolingSpec, last_states, pooling_spec
from hf_finetune.models.heads.stock import can_fold, can_switch, stock_class, switch
from hf_finetune.models.loading import Loaded, seeded
from hf_finetune.models.modules import encoder, submodule, without_adapter

# Spread of a new head's weights: what the families' own heads start with.
INITIAL_STD = 0.02
Pooling = PoolingKind | Literal["default"]
READS = {"cls": "the first token", "mean": "the mean", "max": "the maximum", "attention": "a learned weighted mean"}


class CustomHeadClassifier(PreTrainedModel):
    """An encoder, a pooling of its hidden states, a head.

    The encoder keeps the name that it has in the family's own class (`bert`, `vit`), so that whatever names weights or
    modules finds them here as there.

    Args:
        body: the encoder; its config is this model's, too. A pooler of its own is taken off.
        spec: what is read of it.
        hidden, activation, dropout: see `ClassificationHead`.
    """

    # The encoder has been checked already.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(
        self,
        body: PreTrainedModel,
        spec: PoolingSpec,
        *,
        hidden: int | None = None,
        activation: str = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(body.config)
        _take_off_unread(body)
        self.base_model_prefix = body.base_model_prefix
        self.main_input_name = body.main_input_name
        self._supports_attention_backend = body._supports_attention_backend
        self.add_module(self.base_model_prefix, body)
        width, classes = width_of(body.config) * spec.last_layers, self.config.num_labels
        assert classes is not None, "a config without classes"
        self.pooling = Pool(spec, width)
        self.head = ClassificationHead(width, classes, hidden=hidden, activation=activation, dropout=dropout)
        # What `post_init` would gather, without its initializing of weights.
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
        labels: None = None,
        output_attentions: None = None,
        output_hidden_states: None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput:
        """The logits (B, C). The arguments without a use are those that PEFT passes on."""
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
        return SequenceClassifierOutput(logits=self.head(self.pooling(states_BTD, attention_mask)))

    def set_attn_implementation(self, attn_implementation: str | dict, allow_all_kernels: bool = False) -> None:
        """As the encoder's, whose config this is."""
        encoder(self).set_attn_implementation(attn_implementation, allow_all_kernels)

    def get_input_embeddings(self) -> nn.Module:
        """As the encoder's."""
        return encoder(self).get_input_embeddings()

    @property
    def spec(self) -> PoolingSpec:
        """What is read of the encoder."""
        return self.pooling.spec

    @property
    def reads_first_token_alone(self) -> bool:
        """Whether nothing depends on the last layer's other tokens."""
        return (self.spec.kind, self.spec.last_layers) == ("cls", 1)

    @property
    def folds(self) -> bool:
        """Whether `stock.fold` can make a stock model of it."""
        return can_fold(self.config, self.spec, self.head)

    @property
    def why_not_standalone(self) -> str:
        """One sentence: why it is no stock class."""
        layers = self.spec.last_layers
        which = f" of the last {layers} layers side by side" if layers > 1 else ""
        head = f"a hidden layer ({self.head.activation})" if self.head.has_hidden else "one linear layer"
        return f"{stock_class(self.config).__name__} has no head that gives {READS[self.spec.kind]}{which} to {head}"


def _take_off_unread(body: PreTrainedModel) -> None:
    """Take off weights behind the hidden states: they would get no gradient, and be saved as if they were of use."""
    pooler = dict(body.named_children()).get("pooler")
    if pooler is not None and any(True for _ in pooler.parameters()):
        body.add_module("pooler", None)
    family = family_of(body.config)
    if family is not None and family.norm_after_pooling is not None:
        # Plain AutoModel expects it in the file.
        body.get_submodule(family.norm_after_pooling).requires_grad_(False)


def with_head(
    loaded: Loaded,
    *,
    pooling: Pooling = "default",
    last_layers: int = 1,
    head: Literal["default", "linear", "mlp"] = "default",
    head_width: int | None = None,
    head_activation: Literal["tanh", "gelu", "relu"] | None = None,
    seed: int = 0,
) -> Loaded:
    """The classifier with another pooling and head: the stock class where that has them, else a `CustomHeadClassifier`.

    Args:
        loaded: a stock classifier. Its encoder goes into the new one.
        pooling, last_layers, head, head_width, head_activation: see `models.config.Model`.
        seed: of the head's first weights; torch's global generator is left as it was.

    Raises:
        InputError: the family cannot be read so, see `pooling.pooling_spec`.
    """
    if (pooling, last_layers, head) == ("default", 1, "default"):
        return loaded
    model = loaded.model
    config, stock = model.config, stock_head(model.config)
    kind = pooling if pooling != "default" else (stock and stock.pooling) or "mean"
    spec = pooling_spec(config, kind, last_layers)
    assert stock is not None, "refused above"
    fresh = {model.get_submodule(name) for name in loaded.fresh}
    activation = head_activation or stock.activation or "gelu"

    is_stock_head = head in ("default", stock.kind)
    if head == "mlp":
        is_stock_head = _has_mlp(model, stock, head_width) and activation == stock.activation
    is_stock_pooling = pooling in ("default", stock.pooling)
    if last_layers == 1 and is_stock_head and (is_stock_pooling or can_switch(config, pooling)):
        if not is_stock_pooling:
            switch(model, pooling)
        note = f"model.pooling {pooling}, model.head {head}: {type(model).__name__} has them itself"
        names = tuple(name for name, module in model.named_modules() if module in fresh)
        return Loaded(model, names, (*loaded.notes, note))
    if pooling == "default" and stock.pooling is None:
        raise InputError(
            f"model.pooling: {type(model).__name__} reads CLS and the mean side by side; "
            "name cls, mean, max or attention beside model.head and model.last_layers"
        )
    if stock.switch == "use_mean_pooling":
        # Then its states are normalized, as those of the other families.
        switch(model, "cls")
    hidden = (head_width or width_of(config) * last_layers) if head == "mlp" else None
    custom = _with_new_head(model, spec, hidden, activation, seed)
    fresh |= {custom.pooling, *custom.head.modules()}
    names = tuple(n for n, m in custom.named_modules() if m in fresh and any(True for _ in m.parameters(recurse=False)))
    note = "once trained, the head is folded into a stock class" if custom.folds else custom.why_not_standalone
    return Loaded(custom, names, (*loaded.notes, note))


def _has_mlp(model: PreTrainedModel, stock: StockHead, width: int | None) -> bool:
    """Whether the stock head has a hidden layer of this width; None: of any."""
    return bool(stock.dense) and width in (None, submodule(model, stock.dense, nn.Linear).out_features)


def _with_new_head(
    model: PreTrainedModel, spec: PoolingSpec, hidden: int | None, activation: str, seed: int
) -> CustomHeadClassifier:
    """The encoder under a head of new weights, with the dropout of the stock head."""
    body = encoder(model)
    in_body = set(body.modules())
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout) and m not in in_body]
    with seeded(seed):
        custom = CustomHeadClassifier(
            body, spec, hidden=hidden, activation=activation, dropout=rates[-1] if rates else 0.0
        )
        for layer in custom.head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=INITIAL_STD)
                nn.init.zeros_(layer.bias)
    custom.name_or_path = model.name_or_path
    return custom


def last_layers_read(model: nn.Module) -> int:
    """Of how many of the highest layers the head reads the hidden states; through a PEFT model as well."""
    whole = without_adapter(model)
    return whole.spec.last_layers if isinstance(whole, CustomHeadClassifier) else 1
