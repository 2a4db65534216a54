"""Entering a classifier above its frozen layers: their activations are handed in, and they are passed over.

No module is exchanged and no weight moves: while a batch of activations runs, the embeddings hand it on and the frozen
layers let it through. The model stays whole at every moment, its checkpoints are ordinary ones, and ordinary batches go
through all of it as before.

Legend: B rows, T tokens, D width, H height, W width of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from hf_finetune.evaluation.logits import evaluating, to_device
from hf_finetune.models.freezing import lower_part
from hf_finetune.models.heads.custom import last_layers_read
from hf_finetune.models.modules import encoder, encoder_layers
from hf_finetune.utils.messages import one_line

Batch = dict[str, torch.Tensor]

# Logits of one batch, through all layers and from its activations, in float32: rows of other lengths beside them and
# other padding change the last digits.
TOLERANCE = 1e-3
# What a forward pass raises when it is handed activations that it was not written for: no ids, no tuple to take apart,
# another length. The family's code is not known here, so any of these means that there is no way in.
MISFITS = (ValueError, TypeError, RuntimeError, LookupError, AttributeError, AssertionError)


class NoBoundary(ValueError):
    """The activations between two layers of this model are not all that the upper one depends on."""


class Prefix:
    """The embeddings and the lowest `n` layers of a classifier, frozen.

    From then on the model takes a batch from `as_batch` as well as ordinary ones, until `close`; inside
    DistributedDataParallel, too.

    Args:
        model: a text or image classifier, or a PEFT model around one.
        n: at least 1.
        batch: a few rows as the model takes them, to find the way of the data with.

    Raises:
        NoBoundary: layers that are run more than once, change the shape of their input or take more than the output of
            the one below; or that fail on activations, or do not give the same logits from them.
    """

    def __init__(self, model: PreTrainedModel, n: int, batch: Batch) -> None:
        self.n = n
        self.weights = lower_part(model, n)
        """All that the activations depend on: those of the checkpoint, and any that it lacked, by name."""
        self._layers = encoder_layers(model)
        lowest_read = len(self._layers) + 1 - last_layers_read(model)
        if lowest_read < n:
            raise NoBoundary(f"the head reads the states of layer {lowest_read} as well, of {n} that are frozen")
        self._activations: torch.Tensor | None = None
        self._reading = self._idle = False
        self._read: torch.Tensor | None = None
        before, self._in_tuples = _trace(model, self._layers, batch)
        self.image_shape = batch["pixel_values"].shape[1:] if "pixel_values" in batch else None
        self.width = 0
        self.tokens: int | None = None
        """Tokens of every row, where it is the same number for all."""
        self._replaced = [*before, *self._layers]
        for module in before:
            module.forward = self._entrance(module.forward)
        for index, layer in enumerate(self._layers):
            layer.forward = self._passage(layer, index)
        self._hooks = [
            encoder(model).register_forward_pre_hook(self._take, with_kwargs=True),
            encoder(model).register_forward_hook(self._forget, always_call=True),
            self._layers[n - 1].register_forward_hook(self._note),
        ]
        try:
            self._verify(model, batch)
        except MISFITS as error:
            self.close()
            # A machine without memory for three rows is no property of the family.
            if isinstance(error, NoBoundary | torch.OutOfMemoryError):
                raise
            raise NoBoundary(f"its layers do not run on activations ({one_line(error)})") from error

    def read(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Activations (B, T, D) below the first layer that trains; the layers above are not run."""
        self._reading = True
        try:
            with evaluating(model), torch.no_grad():
                model(**batch)
            assert self._read is not None, "noted by the layer's hook"
            return self._read
        finally:
            self._reading, self._read = False, None

    def as_batch(self, rows: list[torch.Tensor]) -> Batch:
        """What the model takes in place of an ordinary batch.

        Args:
            rows: activations of each row, shape (T, D), from `read`.
        """
        hidden_BTD = pad_sequence(rows, batch_first=True)
        if self.image_shape is not None:
            return {"pixel_values": hidden_BTD}
        lengths_B = torch.tensor([len(row) for row in rows])
        mask_BT = torch.arange(hidden_BTD.shape[1]) < lengths_B[:, None]
        # Without padding there is nothing to mask, see `data.tokens.pad`.
        masked = {} if bool(mask_BT.all()) else {"attention_mask": mask_BT.long()}
        return {"inputs_embeds": hidden_BTD, **masked}

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Inside, what a batch brings in place of ids are word embeddings, and go through all layers."""
        self._idle = True
        try:
            yield
        finally:
            self._idle = False

    def close(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()
        for module in self._replaced:
            del module.forward

    def _take(self, _encoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """Before the encoder: hold the activations of a batch that brings some.

        Text encoders ask for the shape of `inputs_embeds` only. BEiT asks for the image's size, so the others get an
        image of that size, too: one number, viewed B x 3 x H x W times.
        """
        if self.image_shape is None:
            activations = kwargs.get("inputs_embeds")
        else:
            pixels = args[0] if args else kwargs["pixel_values"]
            activations = pixels if pixels.dim() == 3 else None
        if activations is None or self._idle:
            return None
        # The layers above see the number format that they see when all layers are run.
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
                # That of its class: `models.kernels.layers` gives it another one while the model trains.
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
            actual = model(**to_device(self.as_batch(list(rows_of(hidden_BTD, batch))), hidden_BTD.device)).logits
        if not torch.allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise NoBoundary(f"logits from the activations differ by {float((actual - expected).abs().max()):.1e}")


def rows_of(hidden_BTD: torch.Tensor, batch: Batch) -> Iterator[torch.Tensor]:
    """The rows of a batch one by one, without the padding. Shapes (T, D)."""
    mask_BT = batch.get("attention_mask")
    # Where the last layer has left out tokens, padding is among them.
    if mask_BT is None or mask_BT.shape[1] != hidden_BTD.shape[1]:
        yield from hidden_BTD
        return
    for hidden_TD, mask_T in zip(hidden_BTD, mask_BT.bool(), strict=True):
        yield hidden_TD[mask_T]


def _trace(model: PreTrainedModel, layers: list[nn.Module], batch: Batch) -> tuple[list[nn.Module], bool]:
    """Watch one batch go through: which modules make the first layer's input, and whether layers return tuples.

    Raises:
        NoBoundary: see `Prefix`.
    """
    children = dict(encoder(model).named_children())
    # ELECTRA widens its embeddings in a module of its own.
    before = [children[name] for name in ("embeddings", "embeddings_project") if name in children]
    with _watching([*before, *layers]) as calls, evaluating(model), torch.no_grad():
        model(**batch)
    if not before or any(len(calls[module]) != 1 for module in [*before, *layers]):
        raise NoBoundary("its layers are not run once each, one after another")
    last: Any = None
    for module in [*before, *layers]:
        entering, output = calls[module][0]
        if module in layers:
            if not isinstance(entering, torch.Tensor) or entering.dim() != 3:
                raise NoBoundary("its layers do not take rows of tokens")
            if entering is not last:
                raise NoBoundary("something is done between its layers")
        last = output[0] if isinstance(output, tuple) else output
        # The last one may leave out tokens that the head does not read.
        same = [0, 2] if module is layers[-1] else [0, 1, 2]
        if module in layers and (last.dim() != 3 or any(last.shape[i] != entering.shape[i] for i in same)):
            raise NoBoundary("its layers change the shape of their input")
    if not all(isinstance(calls[module][0][1], torch.Tensor) for module in before):
        # data2vec's tell the image's size beside them, I-BERT's the scale of its integers.
        raise NoBoundary("its embeddings give more than rows of tokens")
    return before, isinstance(calls[layers[0]][0][1], tuple)


@contextmanager
def _watching(modules: list[nn.Module]) -> Iterator[dict[nn.Module, list[tuple[Any, Any]]]]:
    """First argument and output of every call of the modules."""
    calls: dict[nn.Module, list[tuple[Any, Any]]] = {module: [] for module in modules}

    def note(module: nn.Module, args: tuple, output: Any) -> None:
        calls[module].append((args[0] if args else None, output))

    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
