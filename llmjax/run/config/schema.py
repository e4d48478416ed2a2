"""The config of a run: the configs of its parts, and the fields of the run as a whole."""

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
from llmjax.optimizers.parametrization import ParametrizationConfig, StandardParametrization
from llmjax.optimizers.spikes import SpikesConfig
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
    """Prompts to continue, each once."""
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(max_new_tokens=64))
    """How they are continued."""


@dataclass(frozen=True)
class UpcyclingConfig:
    """How a sparse model starts from a dense run: with `init_from` and `model.moe`."""

    noise: float = 0.0
    """Standard deviation of the noise added to each expert's kernels, relative to theirs. 0: copies
    of an expert begin equal, and the model with the dense one's loss."""


@dataclass(frozen=True)
class ReplayConfig:
    """Steps that are computed twice, to find devices that compute wrong numbers."""

    every: int = 0
    """Steps from one that is computed twice to the next; if the bits differ, the run ends with exit
    code 77 and a line that names the devices. It takes memory for a second state. 0: none."""


@dataclass(frozen=True)
class Config:
    """The complete config of a run."""

    run_dir: str = "runs/default"
    """The run folder, created if needed. If it holds a run of the same config, that run resumes;
    steps, compute, mesh, accumulation, checkpoint, evaluation, samples, spikes, replay and log may
    differ."""
    seed: int = 0
    """Determines initial parameters, the order of the data and dropout."""
    steps: int = 1000
    """Parameter updates in total."""
    epochs: float | None = None
    """Passes through the training set, to be given instead of steps; None: steps."""
    init_from: str | None = None
    """A run folder, trained or imported, whose model, tokenizer and parameters this run starts
    from. Of `model`, only lora, pooler and moe are used then."""
    upcycling: UpcyclingConfig = field(default_factory=UpcyclingConfig)
    """How MLPs of a dense `init_from` run become the experts of `model.moe`."""
    max_skipped_steps: int = 10
    """A step is skipped if its loss or gradient is not finite, or a spike; after this many in a row
    the run stops with an error."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The architecture: what a checkpoint holds."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """How the model is initialized, trained and run; may differ when a run resumes."""
    tokenizer: AnyTokenizerConfig = field(default_factory=SentencePieceConfig)
    """The tokenizer; may be given as a file: tokenizer.json, or a SentencePiece .model."""
    data: DataConfig = field(default_factory=DataConfig)
    """The training text, and the batches made of it."""
    tasks: tuple[Annotated[TaskConfig, TASKS], ...] = ()
    """Tasks to fine-tune on, instead of the text of `data`, which then only determines the size of
    batches. Rows are packed with complete examples."""
    trainable: TrainableConfig = field(default_factory=TrainAll)
    """Which parameters are trained."""
    objective: Annotated[ObjectiveConfig, OBJECTIVES] = field(default_factory=CausalConfig)
    """What is predicted from what: causal, masked, span, prefix, or a mixture of them."""
    optimizer: Annotated[OptimizerConfig, OPTIMIZERS] = field(default_factory=AdamWConfig)
    """The optimizer with its learning-rate schedule."""
    parametrization: ParametrizationConfig = field(default_factory=StandardParametrization)
    """How initial weights and learning rates depend on the model's size: standard (they do not),
    mup (on the width) or completep (on width and depth). With init_from, only learning rates."""
    spikes: SpikesConfig = field(default_factory=SpikesConfig)
    """Which updates are skipped as loss spikes, and whether the run then rolls back."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The training loss: label smoothing and z-loss."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """How data and model are split over the devices."""
    cpu_devices: int = 0
    """Virtual CPU devices to divide this machine into, to try a mesh on a laptop. 0: one."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save the state, and which checkpoints to keep."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """When and how to evaluate on the validation set."""
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    """Text generated while training."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """Steps that are computed twice, to find devices that compute wrong numbers."""
    log: LogConfig = field(default_factory=LogConfig)
    """What to report while training, and where."""
