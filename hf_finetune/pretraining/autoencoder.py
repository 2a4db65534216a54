"""The network of MAE: an encoder of the visible patches of an image, and a decoder that predicts the masked ones.

Legend: B images, P patches, M masked patches, K visible patches, T tokens, D width, E values of a patch's pixels, C
channels, H and W pixels, R rows and S columns of patches.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.models.contexts import seeded
from hf_finetune.models.families import tokens_before_patches
from hf_finetune.models.patches import select_patches

# Width of an attention head in the decoder, as in the paper: 512 in 16 heads.
HEAD_WIDTH = 32
# Standard deviation of the mask token's initial values, as in the authors' code.
INITIAL_STD = 0.02


class Decoder(nn.Module):
    """A transformer that predicts the masked patches (MAE, arXiv:2111.06377).

    Args:
        features: width of the encoder.
        width: width of the decoder, a multiple of 4.
        layers: number of layers.
        grid: rows and columns of patches.
        values: E.
        prefix: number of tokens before the patches.
    """

    positions_PD: torch.Tensor

    def __init__(
        self, *, features: int, width: int, layers: int, grid: tuple[int, int], values: int, prefix: int
    ) -> None:
        super().__init__()
        self.prefix = prefix
        self.embed = nn.Linear(features, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.register_buffer("positions_PD", sine_positions(grid, width), persistent=False)
        heads = next(count for count in range(max(1, width // HEAD_WIDTH), 0, -1) if width % count == 0)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, values)
        nn.init.normal_(self.mask_token, std=INITIAL_STD)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, states_BTD: torch.Tensor, masked_BP: torch.Tensor) -> torch.Tensor:
        """Predict the masked patches, in order, shape (B, M, E).

        Args:
            states_BTD: the encoder's, of the tokens before the patches and of the visible patches, in order.
            masked_BP: true for masked patches, of the same number in every image.
        """
        visible_BTD = self.embed(states_BTD)
        tokens_BPD = self.mask_token.to(visible_BTD.dtype).expand(*masked_BP.shape, -1)
        patches_BPD = tokens_BPD.masked_scatter(~masked_BP[:, :, None], visible_BTD[:, self.prefix :])
        tokens_BTD = torch.cat([visible_BTD[:, : self.prefix], patches_BPD + self.positions_PD], 1)
        for layer in self.layers:
            tokens_BTD = layer(tokens_BTD)
        masked_BMD = tokens_BTD[:, self.prefix :][masked_BP].unflatten(0, (len(states_BTD), -1))
        return self.predict(self.norm(masked_BMD))


def sine_positions(grid: tuple[int, int], width: int) -> torch.Tensor:
    """Return fixed positions of the patches: sines and cosines of the row in one half of the features, and of the
    column in the other.

    Args:
        grid: R, S.
        width: D, a multiple of 4.

    Returns:
        Shape (P, D).
    """
    rates = 10000 ** -(torch.arange(width // 4) / (width // 4))
    angles = [torch.outer(torch.arange(side).float(), rates) for side in grid]
    rows_RD, columns_SD = (torch.cat([x.sin(), x.cos()], 1) for x in angles)
    both = rows_RD[:, None].expand(-1, grid[1], -1), columns_SD[None].expand(grid[0], -1, -1)
    return torch.cat(both, 2).flatten(0, 1)


class MaskedAutoencoder(PreTrainedModel):
    """An encoder of the visible patches of an image, and a decoder that predicts the masked ones (MAE,
    arXiv:2111.06377).

    Patches are masked after the positions are added, as in `models.patches.drop_patches`, so that the visible ones keep
    their positions.

    Args:
        body: the encoder, of a family that `models.patches.takes_any_patches`; its config becomes this model's.
        layers: number of the decoder's layers.
        width: width of the decoder; None: half the encoder's.
        shape: C, H, W of an image.
        seed: seed of the decoder's initial weights; torch's global generator stays as it is.
    """

    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    # The encoder supports them.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(
        self, body: PreTrainedModel, *, layers: int, width: int | None, shape: tuple[int, ...], seed: int
    ) -> None:
        super().__init__(body.config)
        channels, height, image_width = shape
        patch, features = body.config.patch_size, body.config.hidden_size
        self.encoder = body
        self._visible_BK: torch.Tensor | None = None
        body.get_submodule("embeddings").register_forward_hook(self._select_visible)
        with seeded(seed):
            self.decoder = Decoder(
                features=features,
                width=features // 8 * 4 if width is None else width,
                layers=layers,
                grid=(height // patch, image_width // patch),
                values=channels * patch**2,
                prefix=tokens_before_patches(body.config),
            )
        # Normally set by `post_init`, which also initializes weights.
        self.all_tied_weights_keys = {}
        # Only of the encoder: the decoder is small.
        self.supports_gradient_checkpointing = body.supports_gradient_checkpointing
        self.train(body.training)

    def _select_visible(self, _: nn.Module, __: tuple[torch.Tensor, ...], embeddings_BTD: torch.Tensor) -> torch.Tensor:
        assert self._visible_BK is not None, "called by forward alone"
        return select_patches(embeddings_BTD, self._visible_BK, self.decoder.prefix)

    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor) -> torch.Tensor:
        """Predict the masked patches, see `Decoder`.

        Args:
            pixel_values: shape (B, C, H, W).
            bool_masked_pos: shape (B, P), true for masked patches, of the same number in every image.
        """
        self._visible_BK = (~bool_masked_pos).nonzero()[:, 1].view(len(pixel_values), -1)
        states_BTD = self.encoder(pixel_values=pixel_values).last_hidden_state
        return self.decoder(states_BTD, bool_masked_pos)

    def set_attn_implementation(self, attn_implementation: str | dict, allow_all_kernels: bool = False) -> None:
        """Set it on the encoder, whose config this is."""
        self.encoder.set_attn_implementation(attn_implementation, allow_all_kernels)
