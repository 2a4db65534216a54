"""Where random-number generators stand, to be gone back to."""

from __future__ import annotations

import torch


class RandomState:
    """Where torch's generators of a device stand, to be gone back to."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Draw the same numbers again from here on."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
