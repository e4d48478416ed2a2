"""Our training step of a Llama on one GPU.

Command: python -m benchmarks.gpu.train_jax 1b --documents 4 --memory 80e9
"""

import jax

from benchmarks.gpu.measuring import chosen_shape, emit, parser_of, time_steps, training_row
from benchmarks.gpu.shapes import EPSILON, ROPE_THETA, Shape
from benchmarks.jax_training import JaxTraining, token_rows
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.parallel.compilation import accepted_options
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.run.telemetry.throughput import memory_bytes


def model_of(shape: Shape) -> Model:
    """The model of a shape, in bfloat16."""
    config = ModelConfig(
        vocab_size=shape.vocab,
        max_length=shape.length,
        d_model=shape.width,
        num_decoder_layers=shape.layers,
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        d_ff=shape.mlp,
        norm_epsilon=EPSILON,
        rope_theta=ROPE_THETA,
        tie_embeddings=shape.tied,
    )
    return Model(config, ComputeConfig(dtype="bfloat16", remat=shape.remat))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("model", choices=("1b", "8b"))
    parser.add_argument("--documents", type=int, help="of a packed row; without it, not packed")
    args = parser.parse_args()
    shape = chosen_shape(args)
    batch = token_rows(shape.rows, shape.length, shape.vocab, args.documents)
    options = accepted_options("cpu" if args.toy else "gpu")
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    training = JaxTraining(model_of(shape), batch, mesh, options)
    seconds, loss = time_steps(training, args.toy)
    case = "packed" if args.documents else "not packed"
    note = f"remat {shape.remat}, loss {loss:.2f}"
    emit(training_row(shape, case, seconds, memory_bytes(), note))


if __name__ == "__main__":
    main()
