"""Translation, English to German, from scratch: an encoder-decoder of 7.6M parameters.

Data:     two text files with parallel lines: data/train.en, data/train.de (such as the 29,000
          image captions of Multi30k); for other files --tasks.0.train lines:my.en,my.fr
          --tasks.0.dev lines:dev.en,dev.fr
Command:  llmjax train translate
          llmjax evaluate runs/translate --data lines:test.en,test.de
          (BLEU and chrF, with sacrebleu's signature; also accepts a table with the columns source,
          target)
Hardware: two CPU cores
Time:     19 minutes on the 29,000 captions of Multi30k
Results:  BLEU 36.8 on test_2016_flickr (sacrebleu, 13a, cased), 37.9 with 4 beams; 30 on
          validation captions before the end of the second epoch
"""

from llmjax import (
    CheckpointConfig,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LinesTable,
    ModelConfig,
    MuonConfig,
    ScheduleConfig,
    SentencePieceConfig,
    SequenceTask,
)


def config() -> Config:
    """About 250 pairs per step, packed into rows of 128 tokens on each side."""
    return Config(
        run_dir="runs/translate",
        epochs=4,
        model=ModelConfig(
            d_model=256,
            num_encoder_layers=3,
            num_decoder_layers=3,
            num_heads=4,
            max_length=128,
            qk_norm=True,
        ),
        compute=ComputeConfig(dropout=0.15, dtype="bfloat16"),
        tokenizer=SentencePieceConfig(vocab_size=8000, split_digits=False),
        tasks=(
            SequenceTask(
                name="translation",
                train=(LinesTable(("data/train.en", "data/train.de")),),
                dev_fraction=0.03,
                max_new_tokens=80,
                measure=200,
                label_smoothing=0.1,
            ),
        ),
        data=DataConfig(batch_size=32, length=128),
        optimizer=MuonConfig(
            learning_rate=4e-3,
            schedule=ScheduleConfig(
                shape="wsd", warmup_steps=50, final_fraction=0.0, decay_fraction=0.7
            ),
        ),
        checkpoint=CheckpointConfig(every=500),
        evaluation=EvaluationConfig(every=200, batch_size=32),
    )
