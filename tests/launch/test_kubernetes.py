"""The files for Kubernetes against the published schemas, and what their pods say to a process."""

from pathlib import Path

import pytest

from llmjax.parallel.distributed.environment import rendezvous

yaml = pytest.importorskip("yaml")
validator = pytest.importorskip("kubernetes_validate")
models = pytest.importorskip("kubeflow_trainer_api.models.jobset_v1alpha2_job_set")

LAUNCH = Path(__file__).parents[2] / "launch"
FILES = sorted(LAUNCH.glob("kubernetes-*.yaml"))
VERSION = "1.33"
"""Of Kubernetes; JobSet supports the last three."""


def job_set(path: Path) -> dict:
    (document,) = yaml.safe_load_all(path.read_text())
    return document


def jobs(document: dict) -> list[dict]:
    """The jobs that the JobSet makes from its templates."""
    parts = document["spec"]["replicatedJobs"]
    head = {"apiVersion": "batch/v1", "kind": "Job"}
    return [head | {"metadata": {"name": part["name"]}} | part["template"] for part in parts]


def without_templates(document: dict) -> dict:
    parts = [part | {"template": None} for part in document["spec"]["replicatedJobs"]]
    return document | {"spec": document["spec"] | {"replicatedJobs": parts}}


def check(document: dict) -> None:
    """Raises an error if a field is unknown to the schemas, or has another type there."""
    read = models.JobsetV1alpha2JobSet.from_dict(document).to_dict()  # leaves out unknown fields
    assert without_templates(read) == without_templates(document)
    for job in jobs(document):
        validator.validate(job, VERSION, strict=True)


def container(document: dict) -> dict:
    (job,) = jobs(document)
    (only,) = job["spec"]["template"]["spec"]["containers"]
    return only


def test_there_is_a_file_for_tpus_and_one_for_gpus():
    assert [path.stem for path in FILES] == ["kubernetes-gpu", "kubernetes-tpu"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_are_job_sets_of_valid_jobs(path):
    document = job_set(path)
    check(document)
    for job in jobs(document):
        assert job["spec"]["completions"] == job["spec"]["parallelism"]
        pod = job["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container(document)["volumeMounts"]} == volumes


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["spec"].update(maxRestarts=3),
        lambda document: document["spec"]["failurePolicy"].update(maxRestarts="many"),
        lambda document: document["spec"]["replicatedJobs"][0].update(replica=2),
        lambda document: document["spec"]["replicatedJobs"][0]["template"]["spec"].update(pods=4),
        lambda document: container(document).update(commands=["sh"]),
        lambda document: container(document)["volumeMounts"][0].pop("mountPath"),
    ],
)
def test_a_mistake_would_be_found(change):
    document = job_set(FILES[0])
    change(document)
    with pytest.raises((validator.ValidationError, ValueError, AssertionError)):
        check(document)


def test_gpu_pods_say_which_process_they_are():
    document = job_set(LAUNCH / "kubernetes-gpu.yaml")
    (part,) = document["spec"]["replicatedJobs"]
    annotations = {
        "jobset.sigs.k8s.io/jobset-name": document["metadata"]["name"],
        "jobset.sigs.k8s.io/replicatedjob-name": part["name"],
    }
    environment = {"JOB_COMPLETION_INDEX": "3"}  # of an indexed job, which JobSet makes
    for variable in container(document)["env"]:
        source = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        known = [value for name, value in annotations.items() if f"['{name}']" in source]
        environment[variable["name"]] = known[0] if source else variable["value"]
    nodes = part["template"]["spec"]["completions"]
    assert rendezvous(environment) == ("llmjax-nodes-0-0.llmjax:8476", nodes, 3)


def test_gpu_pods_share_memory_that_is_not_64_megabytes():
    document = job_set(LAUNCH / "kubernetes-gpu.yaml")
    pod = jobs(document)[0]["spec"]["template"]["spec"]
    (name,) = [
        m["name"] for m in container(document)["volumeMounts"] if m["mountPath"] == "/dev/shm"
    ]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == name]
    assert volume["emptyDir"]["medium"] == "Memory"
