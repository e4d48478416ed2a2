"""Greedy generation by llama.cpp, through the low-level interface of llama-cpp-python.

All rows are sequences of one context, and a step is one call for all of them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.decoders import Generate

AT_ONCE = 512
"""Most tokens of a call."""


def llama_decoder(path: Path, threads: int) -> Callable[[np.ndarray, int], Generate]:
    """Loads a GGUF file.

    Returns:
      (prompts, tokens) -> what generates that many tokens; no token ends a row.
    """
    import llama_cpp

    llama_cpp.llama_log_set(_silent := llama_cpp.llama_log_callback(lambda *_: None), None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def decoder(prompt_ids: np.ndarray, tokens: int) -> Generate:
        rows, length = prompt_ids.shape
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = rows * (length + tokens), rows
        params.n_batch = params.n_ubatch = AT_ONCE
        params.n_threads = params.n_threads_batch = threads
        context = llama_cpp.llama_init_from_model(model, params)
        batch = llama_cpp.llama_batch_init(AT_ONCE, 0, 1)

        def decode(ids: Sequence[int], positions: Sequence[int], last: Sequence[bool]) -> list[int]:
            """The next token of each row; the rows follow each other in `ids`."""
            chosen = []
            for start in range(0, len(ids), AT_ONCE):
                batch.n_tokens = min(AT_ONCE, len(ids) - start)
                for i in range(batch.n_tokens):
                    at = start + i
                    batch.token[i], batch.pos[i] = ids[at], positions[at]
                    batch.n_seq_id[i], batch.seq_id[i][0] = 1, at * rows // len(ids)
                    batch.logits[i] = last[at]
                assert llama_cpp.llama_decode(context, batch) == 0
                for i in range(batch.n_tokens):
                    if last[start + i]:
                        logits = llama_cpp.llama_get_logits_ith(context, i)
                        chosen.append(int(np.ctypeslib.as_array(logits, (vocab,)).argmax()))
            return chosen

        def generate(silent: object = _silent) -> np.ndarray:  # which must outlive the calls
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            ids = [int(token) for token in prompt_ids.reshape(-1)]
            positions = list(range(length)) * rows
            out = [decode(ids, positions, [at == length - 1 for at in positions])]
            for step in range(tokens - 1):
                out.append(decode(out[-1], [length + step] * rows, [True] * rows))
            return np.array(out).T

        return generate

    return decoder
