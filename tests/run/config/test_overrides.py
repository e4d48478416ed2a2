import dataclasses

import pytest
from toy_config import Adam, Muon, Toy

from llmjax.data.stages import StageConfig
from llmjax.data.tables.files import FileTable, LinesTable
from llmjax.data.tables.tfds import TfdsTable
from llmjax.data.text.parquet import ParquetSource
from llmjax.data.text.text_files import JsonlSource, TextSource
from llmjax.data.text.tfds import EmbeddedSource, TfdsSource
from llmjax.data.tokenizers.config import (
    BytesConfig,
    HuggingFaceTokenizerConfig,
    SentencePieceConfig,
)
from llmjax.model.lora import LoraConfig
from llmjax.run.config.build import ConfigError
from llmjax.run.config.overrides import Override, override
from llmjax.run.config.schema import Config
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.regression import RegressionTask
from llmjax.tasks.sequence import SequenceTask


def changed(*words: str) -> Toy:
    """`changed("--steps 3", "--prompts a b")`"""
    split = [word.removeprefix("--").split() for word in words]
    return override(Toy(), [Override(name, tuple(values)) for name, *values in split])


def problems(*words: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        changed(*words)
    return caught.value.problems


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--steps 3", "steps", 3),
        ("--name two-words", "name", "two-words"),
        ("--gated", "gated", True),
        ("--gated false", "gated", False),
        ("--window 128", "window", 128),
        ("--window none", "window", None),
        ("--prompts a b", "prompts", ("a", "b")),
        ("--prompts", "prompts", ()),
        ("--norm layer", "norm", "layer"),
        ("--name none", "name", "none"),
    ],
)
def test_plain_fields(words, name, value):
    assert changed(words) == dataclasses.replace(Toy(), **{name: value})


def test_nested_fields_leave_their_neighbours():
    toy = changed("--optimizer.learning-rate 3e-4", "--data.batch-size 8", "--data.length 64")
    assert toy.optimizer == Adam(learning_rate=3e-4)
    assert toy.data == dataclasses.replace(Toy().data, batch_size=8, length=64)


def test_underscores_do_as_well_as_dashes():
    assert changed("--optimizer.learning_rate 3") == changed("--optimizer.learning-rate 3")


def test_another_kind_starts_from_its_defaults_and_takes_its_fields_in_any_order():
    assert changed("--optimizer muon").optimizer == Muon()
    assert changed("--optimizer.kind muon").optimizer == Muon()
    assert changed("--optimizer.momentum 0.5", "--optimizer muon").optimizer == Muon(momentum=0.5)
    assert changed("--tokenizer bytes").tokenizer == BytesConfig()


def test_a_kind_with_a_field_that_must_be_given():
    path = changed("--tokenizer huggingface", "--tokenizer.path a/tokenizer.json").tokenizer
    assert path == HuggingFaceTokenizerConfig(path="a/tokenizer.json")
    assert problems("--tokenizer huggingface") == ("tokenizer.path: missing",)


def test_tokenizers_by_file():
    assert changed("--tokenizer a/tokenizer.json").tokenizer == HuggingFaceTokenizerConfig(
        "a/tokenizer.json"
    )
    assert changed("--tokenizer b.model").tokenizer == SentencePieceConfig(path="b.model")


@pytest.mark.parametrize(
    ("words", "sources"),
    [
        ("my.txt", (TextSource(("my.txt",)),)),
        ("a.txt b.py c/d", (TextSource(("a.txt", "b.py", "c/d")),)),
        ("my/*.jsonl.gz", (JsonlSource(("my/*.jsonl.gz",)),)),
        ("x.parquet y.txt", (ParquetSource(("x.parquet",)), TextSource(("y.txt",)))),
        ("embedded", (EmbeddedSource(),)),
        ("text:my.txt,weight=2,split=line", (TextSource(("my.txt",), weight=2.0, split="line"),)),
        ("jsonl:a.jsonl,field=body", (JsonlSource(("a.jsonl",), field="body"),)),
        ("tfds:lm1b,split=test embedded", (TfdsSource("lm1b", split="test"), EmbeddedSource())),
        ("data:odd/file", (TextSource(("data:odd/file",)),)),
    ],
)
def test_sources(words, sources):
    assert changed(f"--data.sources {words}").data.sources == sources


def test_a_field_of_one_source():
    sources = changed("--data.sources a.txt b.jsonl", "--data.sources.1.weight 3").data.sources
    assert sources == (TextSource(("a.txt",)), JsonlSource(("b.jsonl",), weight=3.0))
    assert changed("--data.sources.0.weight 2").data.sources == (EmbeddedSource(weight=2.0),)


def test_stages_are_their_fields_from_the_step_on():
    def stages(*words: str):
        split = [word.removeprefix("--").split() for word in words]
        changes = [Override(name, tuple(values)) for name, *values in split]
        return override(Config(), changes).data.stages

    two = "--data.stages 600,length=512,batch-size=8 900,weights=1,3,sources=0,1"
    first = StageConfig(600, length=512, batch_size=8)
    second = StageConfig(900, weights=(1.0, 3.0), sources=(0, 1))
    assert stages(two) == (first, second)
    assert stages(two, "--data.stages.1.weights none", "--data.stages.0.step 7") == (
        dataclasses.replace(first, step=7),
        dataclasses.replace(second, weights=None),
    )
    assert stages("--data.stages") == ()
    for word, message in (
        ("length=8", "data.stages.0.step: missing"),
        ("soon", "--data.stages: 'soon' is not an integer"),
        ("4,lenght=8", "StageConfig has no field 'lenght'; did you mean length?"),
    ):
        with pytest.raises(ConfigError, match=message):
            stages(f"--data.stages {word}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--optimzer.learning-rate 3", "did you mean --optimizer.learning-rate?"),
        ("--learning-rate 3", "did you mean --optimizer.learning-rate?"),
        ("--optimizer.momentum 3", "--optimizer is adam, which has no such field; muon would"),
        ("--data.sources.4.weight 3", "no such field"),
        (
            "--data.sources.0.split line",
            "is embedded, which has no such field; text, tfds, hub, datatrove_hub would",
        ),
        ("--step 3", "did you mean --steps?"),
        ("--qqqqqq 3", "--help all lists every field"),
        ("--steps abc", "--steps: 'abc' is not an integer"),
        ("--steps 1.5", "--steps: '1.5' is not an integer"),
        ("--steps", "--steps: has no value; expected an integer"),
        ("--optimizer.learning-rate fast", "'fast' is not a number"),
        ("--window wide", "'wide' is not an integer or none"),
        ("--norm batch", "'batch' is not one of layer|rms"),
        ("--gated maybe", "'maybe' is not one of true|false"),
        ("--optimizer moon", "'moon' is not one of its kinds; did you mean muon?"),
        ("--optimizer", "expected one of adam, muon"),
        ("--tokenizer word", "choose one of sentencepiece, huggingface, bytes"),
        ("--data.sources txt:a.txt", "did you mean text?"),
        ("--data.sources jsonl:a.jsonl,feild=body", "did you mean field?"),
        ("--data.sources jsonl:a.jsonl,weight=heavy", "'heavy' is not a number"),
        ("--data.sources nothing", "'nothing' is not one of its kinds"),
        ("--data 3", "--data: is a section; set one of its fields: sources, batch-size"),
    ],
)
def test_a_mistake_is_one_line_that_names_field_and_value(words, message):
    (problem,) = problems(words)
    assert message in problem
    assert words.split()[0] in problem
    assert "\n" not in problem


def test_all_mistakes_are_found_at_once():
    lines = problems(
        "--steps abc", "--optimizer.clip x", "--nrom layer", "--optimizer.learning-rate 1"
    )
    assert len(lines) == 3


def test_the_config_that_is_changed_stays_as_it_was():
    before = Toy()
    override(before, [Override("steps", ("3",)), Override("data.length", ("5",))])
    assert before == Toy()


def translation(*words: str) -> Config:
    split = [word.removeprefix("--").split() for word in words]
    changes = [Override(name, tuple(values)) for name, *values in split]
    return override(Config(tasks=(SequenceTask(train=(FileTable(("x.csv",)),)),)), changes)


@pytest.mark.parametrize(
    ("words", "tables"),
    [
        ("my.tsv more.jsonl.gz", (FileTable(("my.tsv", "more.jsonl.gz")),)),
        ("pairs.txt", (FileTable(("pairs.txt",)),)),
        ("table:my.tsv,columns=source,target", (FileTable(("my.tsv",), ("source", "target")),)),
        ("lines:a.en,a.de b.csv", (LinesTable(("a.en", "a.de")), FileTable(("b.csv",)))),
        ("tfds:ted,split=test", (TfdsTable("ted", "test"),)),
    ],
)
def test_tables_of_a_task(words, tables):
    assert translation(f"--tasks.0.train {words}").tasks[0].train == tables


def test_fields_of_a_task_and_of_its_tables():
    (task,) = translation(
        "--tasks.0.train my.tsv",
        "--tasks.0.train.0.columns source target",
        "--tasks.0.train.0.constants lang de",
        "--tasks.0.dev lines:dev.en,dev.de,columns=source,target",
        "--tasks.0.beams 4",
    ).tasks
    table = FileTable(("my.tsv",), ("source", "target"), (("lang", "de"),))
    assert task == SequenceTask(train=(table,), dev=(LinesTable(("dev.en", "dev.de")),), beams=4)


def test_other_tasks():
    words = "--tasks classification:train=a.tsv,b.tsv,text=review regression"
    first, second = translation(words, "--tasks.1.train c.csv").tasks
    assert first == ClassificationTask(train=(FileTable(("a.tsv", "b.tsv")),), text="review")
    assert second == RegressionTask(train=(FileTable(("c.csv",)),))


def test_a_group_that_is_none_begins_with_its_defaults():
    assert translation("--model.lora.rank 4").model.lora == LoraConfig(rank=4)
    assert translation("--model.lora lora").model.lora == LoraConfig()
    targets = translation("--model.lora.targets key up", "--model.lora lora").model.lora
    assert targets == LoraConfig(targets=("key", "up"))
    assert translation("--model.lora.rank 4", "--model.lora none").model.lora == LoraConfig(rank=4)
    assert translation("--model.lora none").model.lora is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--tasks.0.train my.doc",
            "'my.doc' is not one of its kinds; choose one of table, lines, tfds",
        ),
        ("--tasks.0.train table:a.tsv,colums=b", "table has no field 'colums'; did you mean"),
        ("--tasks.0.trian a.tsv", "did you mean --tasks.0.train?"),
        ("--tasks.1.train a.tsv", "did you mean --tasks.0.train?"),
        ("--tasks.0.label x", "--tasks.0 is sequence, which has no such field; classification"),
        ("--tasks.0.train.0.constants lang", "'lang' is not a list"),
        ("--model.lora 8", "is a section; set one of its fields: rank"),
        ("--model.lora.targets head", "'head' is not a list: query|key|value"),
    ],
)
def test_mistakes_in_tasks_and_adapters(words, message):
    with pytest.raises(ConfigError) as caught:
        translation(words)
    (problem,) = caught.value.problems
    assert message in problem
    assert words.split()[0] in problem
