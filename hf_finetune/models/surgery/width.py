"""The new width of an operation: absolute, or a multiple of the current one."""

from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import Count, Positive, configclass


@configclass
class WidthStep(Operation):
    """An operation with a new width: exactly one of its two fields is set."""

    width: Count | None = None
    """New width: neurons of every layer (ResizeFeedForward) or features of a token (NarrowHidden)."""
    ratio: Positive | None = None
    """Instead of `width`: new width as a multiple of the current one. With ResizeFeedForward the only way for swin and
    poolformer, whose stages differ in width."""

    def new_width(self, before: float, unit: str) -> int:
        """Return the new width.

        Args:
            before: current width.
            unit: noun for the message.

        Raises:
            InputError: none or both of the fields are set, or `ratio` gives no whole number.
        """
        if (self.width is None) == (self.ratio is None):
            raise self.refusal("expected either width or ratio")
        width = self.width or before * (self.ratio or 0)
        if width < 1 or width % 1:
            raise self.refusal(f"expected a whole number of {unit}, at least 1, got {width:g} from ratio {self.ratio}")
        return int(width)
