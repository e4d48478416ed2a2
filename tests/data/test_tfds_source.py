"""TFDS data sets in both file formats, without TensorFlow."""

import json
import shutil
import struct
import sys

import numpy as np
import pytest

from llmjax.data.text.tfds import TfdsSource
from llmjax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")


class ToyTexts(tfds.core.GeneratorBasedBuilder):
    """Twenty texts."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {"text": text, "number": np.int64, "translation": {"en": text, "de": text}}
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, _):
        return {"train": self._generate_examples(20), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            both = {"en": f"naïve {i}", "de": f"drei {i}"}
            yield i, {"text": f"text {i} é", "number": i, "translation": both}


@pytest.fixture(scope="module")
def array_record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("array_record")
    ToyTexts(data_dir=folder).download_and_prepare(file_format="array_record")
    return str(folder)


@pytest.fixture(scope="module")
def tfrecord(array_record, tmp_path_factory):
    """The same records in TFRecord files: length, checksum, record, checksum."""
    builder = ToyTexts(data_dir=array_record)
    folder = tmp_path_factory.mktemp("tfrecord") / "toy_texts" / "1.0.0"
    folder.mkdir(parents=True)
    for split in builder.info.splits:
        rows = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        name = builder.info.splits[split].filepaths[0].name.replace("array_record", "tfrecord")
        with (folder / name).open("wb") as file:
            for record in rows:
                file.write(struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0))
    (folder / "features.json").write_bytes((builder.data_path / "features.json").read_bytes())
    info = json.loads((builder.data_path / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    return str(folder.parents[1])


@pytest.fixture(params=["array_record", "tfrecord"])
def data_dir(request):
    return request.getfixturevalue(request.param)


def test_documents_in_order(data_dir):
    source = TfdsSource("toy_texts", data_dir=data_dir)
    assert list(source.documents()) == [f"text {i} é" for i in range(20)]
    assert "tensorflow" not in sys.modules


def test_what_is_not_prepared_yet_is_prepared_as_array_record(tmp_path, capsys):
    source = TfdsSource("toy_texts", "test", data_dir=str(tmp_path))
    assert list(source.documents()) == ["text 0 é", "text 1 é", "text 2 é"]
    assert list(tmp_path.rglob("*test.array_record*"))
    assert capsys.readouterr().out == "", "stdout is for results"


def test_slices_and_nested_fields(data_dir):
    source = TfdsSource("toy_texts:1.0.0", "train[5:8]", "translation/de", data_dir)
    assert list(source.documents()) == ["drei 5", "drei 6", "drei 7"]
    assert len(list(TfdsSource("toy_texts", "test", data_dir=data_dir).documents())) == 3


def test_wrong_fields_and_splits(data_dir):
    for field in ("body", "number", "translation"):
        with pytest.raises(UserError, match="set field to one of: text, translation/en"):
            list(TfdsSource("toy_texts", "train", field, data_dir).documents())
    with pytest.raises(UserError, match=r"'dev'.* does not exist; its splits: .*test"):
        list(TfdsSource("toy_texts", "dev", data_dir=data_dir).documents())


def test_unknown_names_suggest_the_nearest(tmp_path, capsys):
    with pytest.raises(UserError, match=r"'tiny_shakespear'.*did you mean tiny_shakespeare"):
        list(TfdsSource("tiny_shakespear", data_dir=str(tmp_path)).documents())
    assert capsys.readouterr().out == ""


def test_a_truncated_tfrecord_is_refused(tfrecord, tmp_path):
    shutil.copytree(tfrecord, tmp_path, dirs_exist_ok=True)
    file = next(tmp_path.rglob("*train.tfrecord*"))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"train\.tfrecord.* is damaged"):
        list(TfdsSource("toy_texts", data_dir=str(tmp_path)).documents())


def test_identity_follows_the_files(tmp_path):
    def digest(name="toy_texts", **fields):
        return TfdsSource(name, data_dir=str(tmp_path), **fields).identify().digest

    ToyTexts(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    first = digest()
    assert first == digest()
    assert len({first, digest(split="test"), digest(field="translation/en")}) == 3
    file = next(tmp_path.rglob("*train.array_record*"))
    file.write_bytes(file.read_bytes() + b"\0")
    assert digest() != first
