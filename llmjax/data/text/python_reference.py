"""The TFDS builder of the embedded corpus (ArrayRecord, no TensorFlow)."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from llmjax.data.text.python_docs import python_documents


class PythonReference(tfds.core.GeneratorBasedBuilder):
    """Python's language reference and the docstrings of its standard library: about 2.2 MB."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: dict[str, str] = {"1.0.0": "Topics and docstrings, deduplicated."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        # Without `disable_shuffling` TFDS orders documents by a hash.
        return tfds.core.DatasetInfo(
            builder=self,
            description="Python's language reference and standard library docstrings.",
            features=tfds.features.FeaturesDict(
                {"name": tfds.features.Text(), "text": tfds.features.Text()}
            ),
            homepage="https://docs.python.org/3/",
            license="Python Software Foundation License",
            disable_shuffling=True,
        )

    def _split_generators(self, _: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
        for index, (name, text) in enumerate(python_documents()):
            yield index, {"name": name, "text": text}
