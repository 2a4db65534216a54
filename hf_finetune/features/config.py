"""Features, and the classical models on them."""

from typing import Annotated, TypeAlias

from annotated_types import Ge

from hf_finetune.features.classifiers.boosted_trees import BoostedTrees
from hf_finetune.features.classifiers.decision_tree import DecisionTree
from hf_finetune.features.classifiers.linear_model import LinearModel
from hf_finetune.features.classifiers.linear_svm import LinearSVM
from hf_finetune.features.classifiers.naive_bayes import NaiveBayes
from hf_finetune.features.classifiers.nearest_mean import NearestMean
from hf_finetune.features.classifiers.nearest_neighbors import NearestNeighbors
from hf_finetune.features.classifiers.random_forest import RandomForest
from hf_finetune.features.extractors.base import StatePooling
from hf_finetune.features.extractors.characters import CharacterTfidf
from hf_finetune.features.extractors.color_histogram import ColorHistogram
from hf_finetune.features.extractors.encoder_features import EncoderFeatures
from hf_finetune.features.extractors.gradient_histogram import GradientHistogram
from hf_finetune.features.extractors.hashed import HashedNgrams
from hf_finetune.features.extractors.nominal_columns import NominalColumns
from hf_finetune.features.extractors.number_columns import NumberColumns
from hf_finetune.features.extractors.pixels import Pixels
from hf_finetune.features.extractors.row_statistics import RowStatistics
from hf_finetune.features.extractors.text_counts import TextCounts
from hf_finetune.features.extractors.word_overlap import WordOverlap
from hf_finetune.features.extractors.words import WordTfidf
from hf_finetune.features.transforms.cluster_distances import ClusterDistances
from hf_finetune.features.transforms.least_variance import VarianceThreshold
from hf_finetune.features.transforms.reduce_features import ReduceFeatures
from hf_finetune.features.transforms.scale_features import ScaleFeatures
from hf_finetune.utils.config import Choice, Count, Duration, Operations, configclass

TextExtractor: TypeAlias = WordTfidf | CharacterTfidf | HashedNgrams | WordOverlap | TextCounts
ImageExtractor: TypeAlias = Pixels | ColorHistogram | GradientHistogram
ColumnExtractor: TypeAlias = NumberColumns | NominalColumns | RowStatistics
FeatureExtractor: TypeAlias = TextExtractor | ImageExtractor | ColumnExtractor | EncoderFeatures
Transform: TypeAlias = ScaleFeatures | VarianceThreshold | ReduceFeatures | ClusterDistances
ClassicalClassifier: TypeAlias = (
    LinearModel | LinearSVM | NaiveBayes | NearestMean | NearestNeighbors | DecisionTree | RandomForest | BoostedTrees
)


@configclass
class ExtractionOptions:
    """The fields of `Extraction` that are no operations, whose flags take YAML."""

    model: str | None = None
    """Checkpoint whose features are read, as Hub id or folder, if no extractors are named. Default: an embedded one
    for texts."""
    layers: tuple[int, ...] = (-1,)
    """Its layers: 0 is below the first one, -1 the top one."""
    all_layers: bool = False
    """Read all its layers, from the same forward pass."""
    poolings: tuple[StatePooling, ...] = ("mean",)
    """How the vectors of tokens or places become one: mean, cls (the first token) or max."""
    max_length: Annotated[int, Ge(4)] = 128
    """Longest text in tokens; the rest is cut off."""
    components: Count = 100
    """Components of most variance (truncated SVD) that take the place of TF-IDF and of hashed counts."""
    clusters: Annotated[int, Ge(2)] | None = None
    """Add the column `cluster`, of k-means with this many clusters, and describe the clusters."""


@configclass
class Extraction(ExtractionOptions):
    """Which features of rows are computed, and written as columns."""

    extractors: Operations[FeatureExtractor] = ()
    """Other features, in place of those of a checkpoint. They are fitted to the rows of train, if there is such a
    split, else of the first one."""
    transforms: Operations[Transform] = ()
    """Changes of all features together, in order, fitted to the same rows. Before them, features are standardized."""


@configclass
class Classical:
    """Method classical: a pipeline of scikit-learn on features, without a network."""

    classifier: Choice[ClassicalClassifier] = LinearModel()
    """The classifier. The choices are listed at the end."""
    extractors: Operations[FeatureExtractor] = ()
    """What is read of a row. (): TF-IDF of words, with what the texts of a pair share; of sequences TF-IDF of k-mers;
    of images the pixels of small copies; and the columns of `data.features`."""
    transforms: Operations[Transform] = ()
    """Changes of all features together, in order."""
    components: Count = 100
    """Components of most variance (truncated SVD) that a classifier gets of TF-IDF and of hashed counts, if it cannot
    read sparse features: NearestMean, RandomForest and BoostedTrees."""
    folds: Annotated[int, Ge(2)] = 5
    """Folds of the cross-validation that chooses the fields of the classifier that are None."""
    search_time: Duration = "1m"
    """No further value of a field is tried after this time."""
