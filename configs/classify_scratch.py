"""Text classification from scratch, including the tokenizer: for languages without a pretrained
model, such as Chinese reviews.

Data:     data/train.tsv with a header line: text, label. A tenth, chosen by a hash of the rows, is
          the validation set. Other columns: --tasks.0.text, --tasks.0.label
Command:  llmjax train classify_scratch
          llmjax evaluate runs/classify_scratch     (accuracy, F1, Matthews, with intervals)
Hardware: two CPU cores
Results:  see docs/tasks.md
"""

from llmjax import (
    CheckpointConfig,
    ClassificationTask,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    FileTable,
    ModelConfig,
    MuonConfig,
    ScheduleConfig,
    SentencePieceConfig,
)


def config() -> Config:
    """An encoder of 3.3M parameters with a vocabulary of 8000 pieces, trained on the texts."""
    return Config(
        run_dir="runs/classify_scratch",
        epochs=6,
        model=ModelConfig(
            d_model=192,
            num_encoder_layers=4,
            num_decoder_layers=0,
            num_heads=6,
            max_length=256,
            qk_norm=True,
        ),
        compute=ComputeConfig(dropout=0.2, dtype="bfloat16"),
        tokenizer=SentencePieceConfig(vocab_size=8000, split_digits=False),
        tasks=(ClassificationTask(train=(FileTable(("data/train.tsv",)),)),),
        data=DataConfig(batch_size=16, length=256),
        optimizer=MuonConfig(
            learning_rate=3e-3,
            schedule=ScheduleConfig(shape="linear", warmup_steps=30, final_fraction=0.0),
        ),
        checkpoint=CheckpointConfig(every=200),
        evaluation=EvaluationConfig(every=200, batch_size=32, metric="accuracy"),
    )
