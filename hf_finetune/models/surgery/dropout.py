"""Surgery on dropout rates."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from hf_finetune.models.surgery.rebuild import Operation
from hf_finetune.utils.config import Fraction, configclass

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@configclass
class SetDropout(Operation):
    """Set dropout rates by site; a site with a rate of 0 gains dropout. None leaves a site as it is."""

    hidden: Fraction | None = None
    """Outputs of attention and feed-forward networks, in most families the embeddings too. For efficientnet: outputs of
    the layers, where the rate grows with depth from 0 to this one."""
    attention: Fraction | None = None
    """Attention weights."""
    embeddings: Fraction | None = None
    """Embeddings only; for modernbert and dinov2."""
    classifier: Fraction | None = None
    """Input of the classification layer; for bert, roberta, electra, distilbert, deberta, albert, modernbert and
    efficientnet."""

    def update_config(self, config: PreTrainedConfig) -> None:
        """Set the rates in `config`.

        Raises:
            InputError: no rate is set, or the config has no field for a site.
        """
        fields, sites = self.family(config).dropout, asdict(self)
        rates = {site: rate for site, rate in sites.items() if rate is not None}
        if not rates:
            raise self.refusal(f"expected a rate for one of {', '.join(sites)}, got none")
        for site, rate in rates.items():
            if site not in fields:
                known = f"it has {', '.join(fields)}" if fields else "it has no dropout"
                raise self.refusal(f"{site}: {config.model_type}'s config has no such rate; {known}")
            setattr(config, fields[site], rate)
