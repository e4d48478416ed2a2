import pytest
from toy_config import Adam, Muon, Toy

from llmjax.registry import Registry
from llmjax.run.config import fields
from llmjax.run.config.schema import Config


def test_docstrings_of_attributes_are_read_as_one_line():
    assert fields.docs(Adam)["learning_rate"] == "Peak learning rate."


def test_inherited_fields_keep_their_docstrings():
    from llmjax.optimizers.standard import LionConfig

    found = fields.docs(LionConfig)
    assert found["clip_norm"].startswith("Maximum global 2-norm")
    assert found["beta1"].startswith("Weight of the momentum")


def test_rows_cover_every_field_once_and_leave_out_tags():
    names = [row.name for row in fields.rows(Toy())]
    assert len(names) == len(set(names))
    assert {"steps", "optimizer", "optimizer.clip", "data.sources", "data.sources.0.weight"} <= set(
        names
    )
    assert not any(name.endswith("kind") for name in names)


def test_annotation_at_looks_into_unions_and_lists():
    assert fields.annotation_at(Toy, ("optimizer", "momentum")) is float
    assert fields.annotation_at(Toy, ("data", "sources", "3", "weight")) is float
    assert fields.annotation_at(Toy, ("optimizer", "nothing")) is None
    assert fields.annotation_at(Toy, ("data", "sources", "first")) is None
    assert fields.annotation_at(Toy, ("steps", "more")) is None


def test_types_in_words():
    annotations = fields.hints(Toy)
    assert fields.type_name(annotations["window"]) == "integer|none"
    assert fields.type_name(annotations["norm"]) == "layer|rms"
    assert fields.type_name(annotations["prompts"]) == "text ..."
    assert fields.type_name(annotations["optimizer"]) == "adam|muon"
    assert fields.type_name(annotations["gated"]) == "true|false"


def test_tags():
    assert fields.kind(Muon) == "muon"
    assert fields.kind(Toy) == "Toy"


def test_flags_and_nearest():
    assert fields.flag(("a_b", "c_d")) == "--a-b.c-d"
    assert fields.nearest("optimzer", ["optimizer", "data"]) == "optimizer"
    assert fields.nearest("xyz", ["optimizer", "data"]) is None


def dataclasses_in(annotation) -> set[type]:
    found = set()
    item = fields.element(annotation)
    for cls in fields.variants(annotation if item is None else item):
        found.add(cls)
        for inner in fields.hints(cls).values():
            found |= dataclasses_in(inner)
    return found


@pytest.mark.parametrize("cls", sorted(dataclasses_in(Config), key=lambda cls: cls.__name__))
def test_every_field_of_every_part_says_what_it_means(cls):
    documented = fields.docs(cls)
    assert cls.__doc__
    assert [name for name in fields.hints(cls) if name != "kind" and not documented.get(name)] == []


@pytest.mark.parametrize("cls", sorted(dataclasses_in(Config), key=lambda cls: cls.__name__))
def test_variants_are_told_apart_by_their_kinds(cls):
    for annotation in fields.hints(cls).values():
        item = fields.element(annotation)
        classes = fields.variants(annotation if item is None else item)
        assert len({fields.kind(variant) for variant in classes}) == len(classes)
        if len(classes) > 1:
            assert all("kind" in fields.hints(variant) for variant in classes)


def test_a_registry_is_what_a_union_of_its_classes_is():
    annotation = fields.hints(Toy)["optimizer"]
    assert fields.variants(annotation) == (Adam, Muon)
    assert fields.variants(annotation | None) == (Adam, Muon)
    assert fields.element(tuple[annotation, ...]) == annotation
    assert fields.type_name(annotation | None) == "adam|muon|none"


@pytest.mark.parametrize("cls", sorted(dataclasses_in(Config), key=lambda cls: cls.__name__))
def test_registered_kinds_are_those_of_their_classes(cls):
    for annotation in fields.hints(cls).values():
        item = fields.element(annotation)
        for note in getattr(annotation if item is None else item, "__metadata__", ()):
            if isinstance(note, Registry):
                assert [fields.kind(variant) for variant in note.values()] == list(note)
