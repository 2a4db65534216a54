"""Muon for matrices and AdamW for the rest, as one optimizer."""

from typing import Any

import torch

from hf_finetune.training.optim.base import ParameterGroup
from hf_finetune.training.optim.foreach import BaseOptimizer


class MuonWithAdamW(BaseOptimizer):
    """`torch.optim.Muon` and `torch.optim.AdamW` behind one `step`, one state and one list of groups.

    Schedules, checkpoints and Accelerate then see one optimizer. The two inner optimizers work on its groups and state.

    Args:
        groups: each has `matrix`: whether Muon updates it. Matrices come first.
        muon: further arguments of `torch.optim.Muon`.
        adamw: further arguments of `torch.optim.AdamW`.
    """

    def __init__(self, groups: list[ParameterGroup], *, lr: float, muon: dict[str, Any], adamw: dict[str, Any]) -> None:
        matrices = [g for g in groups if g["matrix"]]
        others = [g for g in groups if not g["matrix"]]
        assert groups == [*matrices, *others], "matrices come first"
        self._parts: list[tuple[torch.optim.Optimizer, slice]] = []
        if matrices:
            # Updates of AdamW's size (arXiv:2502.16982), so that one learning rate serves both.
            inner = torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw", **muon)
            self._parts.append((inner, slice(0, len(matrices))))
        if others:
            self._parts.append((torch.optim.AdamW(others, lr=lr, **adamw), slice(len(matrices), len(groups))))
        super().__init__([group for part, _ in self._parts for group in part.param_groups], {"lr": lr})
        self._share()

    def _share(self) -> None:
        for part, groups in self._parts:
            part.param_groups, part.state = self.param_groups[groups], self.state

    def update_weights(self) -> None:
        """Take a step of both."""
        for part, _ in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a saved state."""
        super().load_state_dict(state_dict)
        self._share()
