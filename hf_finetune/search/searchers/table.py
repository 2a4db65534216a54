"""The searchers by name."""

from hf_finetune.search.config import SearcherName
from hf_finetune.search.searchers.base import Searcher
from hf_finetune.search.searchers.halving import Sweep
from hf_finetune.search.searchers.population import Population
from hf_finetune.search.searchers.reinforce import Reinforce
from hf_finetune.search.searchers.tpe import Tpe

SEARCHERS: dict[SearcherName, type[Searcher]] = {
    "sweep": Sweep,
    "tpe": Tpe,
    "population": Population,
    "reinforce": Reinforce,
}
