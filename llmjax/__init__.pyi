"""The public names of llmjax; each brings its module when it is first used."""

from .compression.compress import compress as compress
from .compression.decompress import decompress as decompress
from .compression.decompress import inspect as inspect
from .convert.exporting import export as export
from .convert.importing import import_model as import_model
from .convert.peft.reading import import_adapter as import_adapter
from .data.config import (
    DataConfig as DataConfig,
)
from .data.objectives.causal import CausalConfig as CausalConfig
from .data.objectives.masked import MaskedConfig as MaskedConfig
from .data.objectives.mixture import MixtureConfig as MixtureConfig
from .data.objectives.pairs import PrefixConfig as PrefixConfig
from .data.objectives.pairs import SpanConfig as SpanConfig
from .data.tables.files import (
    FileTable as FileTable,
)
from .data.tables.files import (
    LinesTable as LinesTable,
)
from .data.tables.tfds import (
    TfdsTable as TfdsTable,
)
from .data.text.hub import (
    HubSource as HubSource,
)
from .data.text.parquet import (
    ParquetSource as ParquetSource,
)
from .data.text.text_files import (
    JsonlSource as JsonlSource,
)
from .data.text.text_files import (
    TextSource as TextSource,
)
from .data.text.tfds import (
    EmbeddedSource as EmbeddedSource,
)
from .data.text.tfds import (
    TfdsSource as TfdsSource,
)
from .data.tokenizers.config import (
    BytesConfig as BytesConfig,
)
from .data.tokenizers.config import (
    HuggingFaceTokenizerConfig as HuggingFaceTokenizerConfig,
)
from .data.tokenizers.config import (
    SentencePieceConfig as SentencePieceConfig,
)
from .decoding.config import DecodingConfig as DecodingConfig
from .errors import UserError as UserError
from .evaluation.choose import choose as choose
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.harness import harness as harness
from .evaluation.predict import predict as predict
from .inference.chat import chat as chat
from .inference.embed import embed as embed
from .inference.fill_mask import fill_mask as fill_mask
from .inference.generate import generate as generate
from .inference.language_model import LanguageModel as LanguageModel
from .inference.language_model import load as load
from .losses.loss import LossConfig as LossConfig
from .model.compute import ComputeConfig as ComputeConfig
from .model.config import ModelConfig as ModelConfig
from .model.lora import LoraConfig as LoraConfig
from .model.rope import (
    LinearScaling as LinearScaling,
)
from .model.rope import (
    Llama3Scaling as Llama3Scaling,
)
from .model.rope import (
    LongRopeScaling as LongRopeScaling,
)
from .model.rope import (
    Unscaled as Unscaled,
)
from .model.rope import (
    YarnScaling as YarnScaling,
)
from .optimizers.config import ScheduleConfig as ScheduleConfig
from .optimizers.muon import MuonConfig as MuonConfig
from .optimizers.standard import AdafactorConfig as AdafactorConfig
from .optimizers.standard import AdamWConfig as AdamWConfig
from .optimizers.standard import LionConfig as LionConfig
from .optimizers.standard import SgdConfig as SgdConfig
from .optimizers.trainable import TrainAll as TrainAll
from .optimizers.trainable import TrainByPattern as TrainByPattern
from .optimizers.trainable import TrainHeads as TrainHeads
from .parallel.mesh import MeshConfig as MeshConfig
from .reporting.report import report as report
from .run.checkpoint.config import CheckpointConfig as CheckpointConfig
from .run.config.files import load_config_file as load_config_file
from .run.config.schema import Config as Config
from .run.config.schema import SamplesConfig as SamplesConfig
from .run.folder import Run as Run
from .run.telemetry.config import LogConfig as LogConfig
from .scoring.config import EvaluationConfig as EvaluationConfig
from .tasks.chat import ChatTask as ChatTask
from .tasks.classification import ClassificationTask as ClassificationTask
from .tasks.extractive_qa import ExtractiveQATask as ExtractiveQATask
from .tasks.multilabel import MultiLabelTask as MultiLabelTask
from .tasks.preference import PreferenceTask as PreferenceTask
from .tasks.regression import RegressionTask as RegressionTask
from .tasks.sequence import SequenceTask as SequenceTask
from .tasks.similarity import SimilarityTask as SimilarityTask
from .tasks.token_classification import TokenClassificationTask as TokenClassificationTask
from .training.train import train as train

__version__: str
