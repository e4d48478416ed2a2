"""A run as one frozen, typed value: the parts' configs, and what belongs to the run as a whole."""

from dataclasses import dataclass, field
from typing import Annotated

from llmjax.data.config import DataConfig
from llmjax.data.objectives.causal import CausalConfig
from llmjax.data.objectives.config import OBJECTIVES, ObjectiveConfig
from llmjax.data.tokenizers.config import AnyTokenizerConfig, SentencePieceConfig
from llmjax.decoding.config import DecodingConfig
from llmjax.losses.loss import LossConfig
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.optimizers.config import OPTIMIZERS, OptimizerConfig
from llmjax.optimizers.standard import AdamWConfig
from llmjax.optimizers.trainable import TrainableConfig, TrainAll
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.telemetry.config import LogConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.tasks.config import TaskConfig
from llmjax.tasks.registry import TASKS


@dataclass(frozen=True)
class SamplesConfig:
    """Text generated while training."""

    every: int = 0
    """Steps between samples. 0: none."""
    prompts: tuple[str, ...] = ("The ",)
    """Each is continued once."""
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(max_new_tokens=64))
    """How they are continued."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a run. What it leaves behind is one folder, `run_dir`."""

    run_dir: str = "runs/default"
    """The run folder: made when it is not there. A run of the same config in it resumes; steps,
    compute, mesh, accumulation, checkpoint, evaluation, samples and log may differ."""
    seed: int = 0
    """Decides initial parameters, order of data and dropout."""
    steps: int = 1000
    """Updates of the parameters, over the whole run."""
    epochs: float | None = None
    """Passes through the training set, instead of steps; None: steps."""
    init_from: str | None = None
    """A run folder, trained or imported, whose model, tokenizer and parameters this run starts
    from. Of `model` only lora and pooler then count."""
    max_skipped_steps: int = 10
    """A step whose loss or gradient is not finite changes nothing; after this many in a row the run
    stops with an error."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The architecture: what a checkpoint holds."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """How the model is initialised, trained and run; may differ when a run resumes."""
    tokenizer: AnyTokenizerConfig = field(default_factory=SentencePieceConfig)
    """Text to tokens and back. A file also does: tokenizer.json, or a SentencePiece .model."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is read, and the batches made of it."""
    tasks: tuple[Annotated[TaskConfig, TASKS], ...] = ()
    """Examples to train on instead of text, each task with its own head; `data` then says only
    how large batches are, and rows are packed with whole examples. None: text of `data`."""
    tune: TrainableConfig = field(default_factory=TrainAll)
    """Which parameters are trained."""
    objective: Annotated[ObjectiveConfig, OBJECTIVES] = field(default_factory=CausalConfig)
    """What is predicted from what; sampled again in every epoch, a function of the seed."""
    optimizer: Annotated[OptimizerConfig, OPTIMIZERS] = field(default_factory=AdamWConfig)
    """How gradients become updates."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """How the devices share the work."""
    cpu_devices: int = 0
    """Virtual CPU devices to divide this machine into, to try a mesh on a laptop. 0: one."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When the state is saved, and which states are kept."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """When and how the validation set is scored."""
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    """Text generated while training."""
    log: LogConfig = field(default_factory=LogConfig)
    """What is reported, how often, and to whom."""
