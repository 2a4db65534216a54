"""Run a classifier from the activations of its frozen layers, skipping these layers.

No module is replaced: for a batch of activations, the embeddings return it and the frozen layers pass it through.
Checkpoints and ordinary batches are unaffected.

Legend: B rows, T tokens, D width, H height, W width of an image.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from hf_finetune.data.word_inputs import WORD_PLACES
from hf_finetune.evaluation.logits import evaluating, to_device
from hf_finetune.models.freezing import lower_part
from hf_finetune.models.heads.custom import last_layers_read
from hf_finetune.models.modules import encoder, encoder_layers
from hf_finetune.utils.messages import one_line

Batch = dict[str, torch.Tensor]

# Largest difference of logits in float32 between all layers and activations: other rows and padding in a batch change
# the last digits.
TOLERANCE = 1e-3
# Errors of a forward pass that does not support activations: no ids, no tuple to unpack, another length.
MISFITS = (ValueError, TypeError, RuntimeError, LookupError, AttributeError, AssertionError)


class NoBoundary(ValueError):
    """The upper layers of a model depend on more than the activations below them."""


class Prefix:
    """The embeddings and the lowest `n` layers of a classifier, frozen.

    Until `close`, the model accepts batches from `as_batch` beside ordinary ones, also within DistributedDataParallel.

    Args:
        model: a text or image classifier, or a PEFT model of one.
        n: number of layers, at least 1.
        batch: a few rows to trace the model with.

    Raises:
        NoBoundary: layers run more than once, change the shape of their input, or read more than the output of the
            layer below; or the model fails on activations, or gives other logits.
    """

    def __init__(self, model: PreTrainedModel, n: int, batch: Batch) -> None:
        self.n = n
        self.weights = lower_part(model, n)
        """The parameters that the activations depend on, by name."""
        self._layers = encoder_layers(model)
        lowest_read = len(self._layers) + 1 - last_layers_read(model)
        if lowest_read < n:
            raise NoBoundary(f"the head reads the hidden states of layer {lowest_read}, and {n} layers are frozen")
        self._activations: torch.Tensor | None = None
        self._reading = self._idle = False
        self._read: torch.Tensor | None = None
        before, self._in_tuples = _trace(model, self._layers, batch)
        self.image_shape = batch["pixel_values"].shape[1:] if "pixel_values" in batch else None
        self.width = 0
        self.tokens: int | None = None
        """Number of tokens, if all rows have the same."""
        self._model, self._before = model, before
        self.open()
        try:
            self._verify(model, batch)
        except MISFITS as error:
            self.close()
            # Lack of memory says nothing about the model.
            if isinstance(error, NoBoundary | torch.OutOfMemoryError):
                raise
            raise NoBoundary(f"its upper layers fail on the outputs of the lower ones ({one_line(error)})") from error

    @property
    def has_all_layers(self) -> bool:
        """Whether only the head runs on the activations."""
        return self.n == len(self._layers)

    def read(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Return the activations (B, T, D) below the first trainable layer, without running the layers above."""
        self._reading = True
        try:
            with evaluating(model), torch.no_grad():
                model(**batch)
            assert self._read is not None, "noted by the layer's hook"
            return self._read
        finally:
            self._reading, self._read = False, None

    def as_batch(self, rows: list[torch.Tensor]) -> Batch:
        """Return a batch of activations for the model.

        Args:
            rows: activations of each row, shape (T, D), from `read`.
        """
        hidden_BTD = pad_sequence(rows, batch_first=True)
        if self.image_shape is not None:
            return {"pixel_values": hidden_BTD}
        lengths_B = torch.tensor([len(row) for row in rows])
        mask_BT = torch.arange(hidden_BTD.shape[1]) < lengths_B[:, None]
        # Without padding there is no mask, see `data.tokens.pad`.
        masked = {} if bool(mask_BT.all()) else {"attention_mask": mask_BT.long()}
        return {"inputs_embeds": hidden_BTD, **masked}

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Within the block, `inputs_embeds` are word embeddings and go through all layers."""
        self._idle = True
        try:
            yield
        finally:
            self._idle = False

    def open(self) -> None:
        """Let the model accept activations, until `close`."""
        for module in self._before:
            module.forward = self._entrance(module.forward)
        for index, layer in enumerate(self._layers):
            layer.forward = self._passage(layer, index)
        self._hooks = [
            encoder(self._model).register_forward_pre_hook(self._take, with_kwargs=True),
            encoder(self._model).register_forward_hook(self._forget, always_call=True),
            self._layers[self.n - 1].register_forward_hook(self._note),
        ]

    def close(self) -> None:
        """Restore the model."""
        for hook in self._hooks:
            hook.remove()
        for module in [*self._before, *self._layers]:
            del module.forward

    def _take(self, _encoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """Before the encoder: keep the activations of a batch that has some.

        Text encoders read only the shape of `inputs_embeds`. BEiT reads the image size, so image encoders get a blank
        image, expanded from one number.
        """
        if self.image_shape is None:
            activations = kwargs.get("inputs_embeds")
        else:
            pixels = args[0] if args else kwargs["pixel_values"]
            activations = pixels if pixels.dim() == 3 else None
        if activations is None or self._idle:
            return None
        # The number format in which the layers above run without a cache.
        self._activations = activations.float()
        if self.image_shape is None:
            return args, kwargs | {"inputs_embeds": self._activations}
        blank = self._activations.new_zeros(()).expand(len(activations), *self.image_shape)
        return ((blank, *args[1:]), kwargs) if args else (args, kwargs | {"pixel_values": blank})

    def _forget(self, *_: object) -> None:
        self._activations = None

    def _note(self, _layer: nn.Module, _inputs: tuple, output: Any) -> None:
        if self._reading:
            self._read = output[0] if self._in_tuples else output

    def _entrance(self, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def enter(*args: Any, **kwargs: Any) -> torch.Tensor:
            return forward(*args, **kwargs) if self._activations is None else self._activations

        return enter

    def _passage(self, layer: nn.Module, index: int) -> Callable[..., Any]:
        def run_or_pass(hidden_BTD: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            passed = self._activations is not None if index < self.n else self._reading
            if not passed:
                # The method of its class, which `models.kernels.layers` replaces in training.
                return type(layer).forward(layer, hidden_BTD, *args, **kwargs)
            return (hidden_BTD, None) if self._in_tuples else hidden_BTD

        return run_or_pass

    def _verify(self, model: PreTrainedModel, batch: Batch) -> None:
        """Raises: NoBoundary."""
        hidden_BTD = self.read(model, batch)
        _, tokens, self.width = hidden_BTD.shape
        if self.image_shape is not None or tokens != batch["input_ids"].shape[1]:
            self.tokens = tokens
        with evaluating(model), torch.no_grad():
            expected = model(**batch).logits
            activations = self.as_batch(list(rows_of(hidden_BTD, batch)))
            activations |= {name: batch[name] for name in (WORD_PLACES,) if name in batch}
            actual = model(**to_device(activations, hidden_BTD.device)).logits
        if not torch.allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE):
            difference = float((actual - expected).abs().max())
            raise NoBoundary(f"logits from cached outputs of the lower layers differ by {difference:.1e}")


def rows_of(hidden_BTD: torch.Tensor, batch: Batch) -> Iterator[torch.Tensor]:
    """Yield the rows of a batch without padding, shapes (T, D)."""
    mask_BT = batch.get("attention_mask")
    # A last layer that drops tokens drops the padding as well.
    if mask_BT is None or mask_BT.shape[1] != hidden_BTD.shape[1]:
        yield from hidden_BTD
        return
    for hidden_TD, mask_T in zip(hidden_BTD, mask_BT.bool(), strict=True):
        yield hidden_TD[mask_T]


def _trace(model: PreTrainedModel, layers: list[nn.Module], batch: Batch) -> tuple[list[nn.Module], bool]:
    """Trace a batch: return the modules that compute the first layer's input, and whether layers return tuples.

    Raises:
        NoBoundary: see `Prefix`.
    """
    children = dict(encoder(model).named_children())
    # ELECTRA has a separate projection of its embeddings.
    before = [children[name] for name in ("embeddings", "embeddings_project") if name in children]
    with _watching([*before, *layers]) as calls, evaluating(model), torch.no_grad():
        model(**batch)
    if not before or any(len(calls[module]) != 1 for module in [*before, *layers]):
        raise NoBoundary("its layers do not run once each, in order")
    last: Any = None
    for module in [*before, *layers]:
        entering, output = calls[module][0]
        if module in layers:
            if not isinstance(entering, torch.Tensor) or entering.dim() != 3:
                raise NoBoundary("its layers do not take rows of tokens")
            if entering is not last:
                raise NoBoundary("something is done between its layers")
        last = output[0] if isinstance(output, tuple) else output
        # The last layer may drop tokens that the head does not read.
        same = [0, 2] if module is layers[-1] else [0, 1, 2]
        if module in layers and (last.dim() != 3 or any(last.shape[i] != entering.shape[i] for i in same)):
            raise NoBoundary("its layers change the shape of their input")
    if not all(isinstance(calls[module][0][1], torch.Tensor) for module in before):
        # data2vec's embeddings return the image size as well, I-BERT's a scaling factor.
        raise NoBoundary("its embeddings return more than rows of tokens")
    return before, isinstance(calls[layers[0]][0][1], tuple)


@contextmanager
def _watching(modules: list[nn.Module]) -> Iterator[dict[nn.Module, list[tuple[Any, Any]]]]:
    """Record the first argument and the output of every call of the modules."""
    calls: dict[nn.Module, list[tuple[Any, Any]]] = {module: [] for module in modules}

    def note(module: nn.Module, args: tuple, output: Any) -> None:
        calls[module].append((args[0] if args else None, output))

    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
