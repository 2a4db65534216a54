"""A classifier of a stock encoder and a head that no stock class has: another pooling, several layers, an MLP.

It is built only where it must be. A head that the family's own class can express stays that class; one that it can
express once trained is folded into it, see `stock_heads`. What is left is saved as encoder/, which plain
`AutoModel.from_pretrained` loads, and head.safetensors, which a few documented lines apply, see `parity_child`.

Legend: B rows, T tokens, C classes, D width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_finetune.errors import InputError
from hf_finetune.models.heads.classification import ClassificationHead
from hf_finetune.models.heads.pooling import Pool, Reading, reading_of, states_of, width_of
from hf_finetune.models.heads.stock import can_fold, can_switch, stock_class, stock_head, switch
from hf_finetune.models.loading import Loaded, seeded
from hf_finetune.models.modules import encoder, without_adapter

# Spread of a new head's weights: what the families' own heads start with.
INITIAL_STD = 0.02


class CustomHeadClassifier(PreTrainedModel):
    """An encoder, a pooling of its states, a head.

    The encoder keeps the name that it has in the family's own class (`bert`, `vit`), so that whatever names weights or
    modules finds them here as there.

    Args:
        body: the encoder; its config is this model's, too. A pooler of its own is taken off.
        reading: what is read of it.
        hidden, activation, dropout: see `ClassificationHead`.
    """

    # The encoder has been asked already.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(
        self,
        body: PreTrainedModel,
        reading: Reading,
        *,
        hidden: int | None = None,
        activation: str = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(body.config)
        _take_off_what_is_not_read(body)
        self.reading = reading
        self.base_model_prefix = body.base_model_prefix
        self.main_input_name = body.main_input_name
        self._supports_attention_backend = body._supports_attention_backend
        self.add_module(self.base_model_prefix, body)
        width = width_of(body.config) * reading.last_layers
        self.pooling = Pool(reading, width)
        self.head = ClassificationHead(
            width, self.config.num_labels, hidden=hidden, activation=activation, dropout=dropout
        )
        # What `post_init` would gather, without its initialising of weights.
        self.all_tied_weights_keys = {
            f"{self.base_model_prefix}.{k}": f"{self.base_model_prefix}.{v}"
            for k, v in body.all_tied_weights_keys.items()
        }
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
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
            "pixel_values": pixel_values,
        }
        asked: dict[str, Any] = {name: tensor for name, tensor in given.items() if tensor is not None}
        if self.reading.last_layers > 1:
            asked["output_hidden_states"] = True
        output = encoder(self)(**asked, return_dict=True)
        states_BTD = states_of(output.last_hidden_state, output.hidden_states, self.reading.last_layers)
        return SequenceClassifierOutput(logits=self.head(self.pooling(states_BTD, attention_mask)))

    def set_attn_implementation(self, attn_implementation: str | dict, allow_all_kernels: bool = False) -> None:
        """As the encoder's, whose config this is."""
        encoder(self).set_attn_implementation(attn_implementation, allow_all_kernels)

    def get_input_embeddings(self) -> nn.Module:
        """As the encoder's."""
        return encoder(self).get_input_embeddings()

    @property
    def reads_first_token_alone(self) -> bool:
        """Whether nothing depends on the last layer's other tokens."""
        return self.reading == Reading("cls", 1, self.reading.first)

    @property
    def folds(self) -> bool:
        """Whether `stock.fold` can make a stock model of it."""
        return can_fold(self.config, self.reading, self.head)

    @property
    def why_not_standalone(self) -> str:
        """One sentence: why it is no stock class."""
        reads = {
            "cls": "the first token",
            "mean": "the mean",
            "max": "the maximum",
            "attention": "a learned weighted mean",
        }[self.reading.pooling]
        layers = self.reading.last_layers
        of = f" of the last {layers} layers side by side" if layers > 1 else ""
        head = f"a hidden layer ({self.head.activation})" if self.head.has_hidden else "one linear layer"
        return f"{stock_class(self.config).__name__} has no head that gives {reads}{of} to {head}"


def _take_off_what_is_not_read(body: PreTrainedModel) -> None:
    """Weights behind the states: they would get no gradient, and be saved as if they were of use."""
    pooler = dict(body.named_children()).get("pooler")
    if pooler is not None and any(True for _ in pooler.parameters()):
        body.pooler = None
    if body.config.model_type in ("convnext", "convnextv2"):
        # It normalises the mean, which is what the stock class reads; plain AutoModel expects it in the file.
        body.layernorm.requires_grad_(False)


def with_head(
    loaded: Loaded,
    *,
    pooling: Literal["default", "cls", "mean", "max", "attention"] = "default",
    last_layers: int = 1,
    head: Literal["default", "linear", "mlp"] = "default",
    head_width: int | None = None,
    head_activation: Literal["tanh", "gelu", "relu"] | None = None,
    seed: int = 0,
) -> Loaded:
    """The classifier with another pooling and head: as the stock class where that has them, else a `CustomHeadClassifier`.

    Args:
        loaded: a stock classifier. Its encoder goes into the new one.
        pooling, last_layers, head, head_width, head_activation: see `config.recipe.Model`.
        seed: of the head's first weights; torch's global generator is left as it was.

    Raises:
        InputError: the family cannot be read so, see `pooling.reading_of`.
    """
    if (pooling, last_layers, head) == ("default", 1, "default"):
        return loaded
    model = loaded.model
    config, stock = model.config, stock_head(model.config)
    # Refuses families that are not known here.
    reading = reading_of(config, "mean" if pooling == "default" else pooling, last_layers)
    assert stock is not None, f"{config.model_type} is in pooling but not in stock_heads"
    activation = head_activation or stock.activation or "gelu"
    new = {model.get_submodule(name) for name in loaded.fresh}

    its_pooling = pooling in ("default", stock.pooling) or can_switch(config, pooling)
    its_head = head in ("default", stock.kind)
    if head == "mlp":
        wide = head_width in (None, model.get_submodule(stock.dense).out_features) if stock.dense else False
        its_head = its_head and wide and activation == stock.activation
    if last_layers == 1 and its_pooling and its_head:
        if pooling != "default" and pooling != stock.pooling:
            switch(model, pooling)
        fresh = tuple(name for name, module in model.named_modules() if module in new)
        note = f"model.pooling {pooling}, model.head {head}: {type(model).__name__} has them itself"
        return Loaded(model, fresh, (*loaded.notes, note))

    if pooling == "default":
        if stock.pooling is None:
            raise InputError(
                f"model.pooling: {type(model).__name__} reads CLS and the mean side by side; "
                "name cls, mean, max or attention beside model.head and model.last_layers"
            )
        reading = reading_of(config, stock.pooling, last_layers)
    if config.model_type == "beit":
        # Then its states are normalised, as those of the other families.
        switch(model, "cls")
    body = encoder(model)
    inside = set(body.modules())
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout) and m not in inside]
    with seeded(seed):
        pooled = CustomHeadClassifier(
            body,
            reading,
            hidden=(head_width or width_of(body.config) * last_layers) if head == "mlp" else None,
            activation=activation,
            dropout=rates[-1] if rates else 0.0,
        )
        for layer in pooled.head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=INITIAL_STD)
                nn.init.zeros_(layer.bias)
    pooled.name_or_path = model.name_or_path
    new |= {pooled.pooling, *pooled.head.modules()}
    fresh = tuple(n for n, m in pooled.named_modules() if m in new and any(True for _ in m.parameters(recurse=False)))
    note = "once trained, the head is folded into a stock class" if pooled.folds else pooled.why_not_standalone
    return Loaded(pooled, fresh, (*loaded.notes, note))


def last_layers_read(model: nn.Module) -> int:
    """The states of how many of the highest layers the head reads; through a PEFT model as well."""
    whole = without_adapter(model)
    return whole.reading.last_layers if isinstance(whole, CustomHeadClassifier) else 1
