"""Write tests/convert/golden/: tiny models saved by Transformers, and their logits.

python tests/convert/hf_golden.py
"""

from pathlib import Path

FOLDER = Path(__file__).with_name("golden")
SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
GEMMA2 = {
    "num_key_value_heads": 1,
    "head_dim": 6,
    "query_pre_attn_scalar": 5,
    "sliding_window": 4,
}
T5 = {"vocab_size": 40, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2}
MODELS = {
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", SIZES | GEMMA2),
    "bert": ("BertForMaskedLM", "BertConfig", SIZES),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
}
LENGTH = 12


def main() -> None:
    """Write all of them."""
    import torch
    import transformers
    from safetensors.torch import save_file

    for name, (architecture, config, fields) in MODELS.items():
        torch.manual_seed(1)
        model = getattr(transformers, architecture)(getattr(transformers, config)(**fields)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.4)
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
            tokens = torch.randint(3, 40, (2, LENGTH))
            more = {"decoder_input_ids": tokens.flip(1)} if name == "t5" else {}
            logits = model(input_ids=tokens, **more).logits
        model.save_pretrained(FOLDER / name)
        (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
        save_file({"tokens": tokens, "logits": logits}, FOLDER / name / "expected.st")


if __name__ == "__main__":
    main()
