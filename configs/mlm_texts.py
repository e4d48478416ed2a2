"""Masked-language-model pretraining of an encoder on your own texts, in any language, before
fine-tuning on their labels.

Data:     data/texts.txt, one text per line; JSONL: --data.sources jsonl:texts.jsonl. Include the
          texts of data/train.tsv, and as many more as possible
Command:  llmjax train mlm_texts
          llmjax train classify_scratch --init-from runs/mlm_texts --epochs 4 \\
              --optimizer.learning-rate 1e-3
Hardware: two CPU cores for some millions of tokens; any accelerator
Time:     measured once, on two cores of an Intel Xeon that ran two other trainings: an hour, plus
          7 minutes for the labels
Results:  15,647 Chinese reviews: 26.6% of the masked tokens of the validation text predicted, 4.69
          nats per masked token; for their labels see docs/tasks.md
"""

from llmjax import (
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    MaskedConfig,
    ModelConfig,
    MuonConfig,
    ScheduleConfig,
    SentencePieceConfig,
    TextSource,
)


def config() -> Config:
    """The encoder of `classify_scratch`, on rows of 256 tokens, of which a quarter are masked."""
    return Config(
        run_dir="runs/mlm_texts",
        steps=2200,
        model=ModelConfig(
            d_model=192,
            num_encoder_layers=4,
            num_decoder_layers=0,
            num_heads=6,
            max_length=256,
            qk_norm=True,
        ),
        compute=ComputeConfig(dtype="bfloat16"),
        tokenizer=SentencePieceConfig(vocab_size=8000, split_digits=False),
        objective=MaskedConfig(share=0.25),
        data=DataConfig(
            sources=(TextSource(("data/texts.txt",), split="line"),), batch_size=16, length=256
        ),
        optimizer=MuonConfig(
            learning_rate=8e-3,
            schedule=ScheduleConfig(
                shape="wsd", warmup_steps=10, final_fraction=0.0, decay_fraction=0.6
            ),
        ),
        evaluation=EvaluationConfig(every=500, max_tokens=8192),
    )
