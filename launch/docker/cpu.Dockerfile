# llmjax on CPUs.
#   docker build -f launch/docker/cpu.Dockerfile -t llmjax:cpu .
#   docker run --rm -v "$PWD:/work" llmjax:cpu train quickstart --run-dir runs/quickstart
FROM python:3.13-slim

COPY . /src
RUN pip install --no-cache-dir /src

# Files it writes belong to user 1000; with --user "$(id -u):$(id -g)" to you.
RUN useradd --create-home --uid 1000 llmjax
USER 1000
ENV HOME=/home/llmjax
WORKDIR /work
ENTRYPOINT ["llmjax"]
