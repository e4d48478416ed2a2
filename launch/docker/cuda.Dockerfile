# llmjax on NVIDIA GPUs.
#   docker build -f launch/docker/cuda.Dockerfile -t llmjax:cuda .
#   docker run --rm --gpus all -v "$PWD:/work" llmjax:cuda train quickstart --run-dir runs/quickstart
# The machine needs NVIDIA's driver (580 or newer) and its container toolkit; CUDA and cuDNN come
# with JAX's packages. For an older driver (525 or newer) replace cuda13 with cuda12.
FROM python:3.13-slim

COPY . /src
RUN pip install --no-cache-dir '/src[cuda13]'

# Files it writes belong to user 1000; with --user "$(id -u):$(id -g)" to you.
RUN useradd --create-home --uid 1000 llmjax
USER 1000
ENV HOME=/home/llmjax
WORKDIR /work
ENTRYPOINT ["llmjax"]
