# llmjax on a Cloud TPU VM.
#   docker build -f launch/docker/tpu.Dockerfile -t llmjax:tpu .
#   docker run --rm --privileged --net=host -v "$PWD:/work" llmjax:tpu train quickstart --run-dir runs/quickstart
# On every host of a slice; see launch/README.md on several processes.
FROM python:3.13-slim

COPY . /src
RUN pip install --no-cache-dir '/src[tpu]'

# Files it writes belong to user 1000; with --user "$(id -u):$(id -g)" to you.
RUN useradd --create-home --uid 1000 llmjax
USER 1000
ENV HOME=/home/llmjax
WORKDIR /work
ENTRYPOINT ["llmjax"]
