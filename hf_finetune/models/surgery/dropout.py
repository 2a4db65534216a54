"""Surgery on dropout rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@configclass
class SetDropout(Operation):
    """Set dropout rates by site, or add dropout where the checkpoint has a rate of 0. None leaves a site as it is."""

    hidden: float | None = None
    """What attention and feed-forward networks add to the stream, and in most families the embeddings. Of efficientnet
    what its layers add: the rate beyond the highest one, growing from 0 at the lowest."""
    attention: float | None = None
    """Attention weights."""
    embeddings: float | None = None
    """The embeddings by themselves; for modernbert and dinov2."""
    classifier: float | None = None
    """What the classification layer reads; for bert, roberta, electra, distilbert, deberta, albert, modernbert and
    efficientnet."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Write the rates to `config`.

        Raises:
            InputError: there is no rate, one is out of range, or the family has no field for a site.
        """
        fields = self.family(config).dropout
        sites = {"hidden": self.hidden, "attention": self.attention}
        sites |= {"embeddings": self.embeddings, "classifier": self.classifier}
        rates = {site: rate for site, rate in sites.items() if rate is not None}
        if not rates:
            raise self.refusal(f"expected a rate for one of {', '.join(sites)}, got none")
        for site, rate in rates.items():
            if not 0 <= rate < 1:
                raise self.refusal(f"{site}: expected at least 0 and below 1, got {rate}")
            if site not in fields:
                known = f"it has {', '.join(fields)}" if fields else "it has no dropout"
                raise self.refusal(f"{site}: {config.model_type}'s config has no such rate; {known}")
            setattr(config, fields[site], rate)
