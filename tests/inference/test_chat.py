"""The command chat: what the model reads of a conversation, and what the terminal shows."""

import io
import json
import re
import sys
from dataclasses import dataclass, field, fields, replace

import pytest

import llmjax.inference.language_model
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.decoding.completions import Completion, Piece
from llmjax.decoding.config import DecodingConfig
from llmjax.errors import UserError
from llmjax.inference.chat import ChatOptions, chat, default_options
from llmjax.inference.language_model import LanguageModel
from llmjax.run.config.schema import Config
from llmjax.run.origin import Origin, write_origin
from untrained import in_hand

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% if m.role == 'assistant' %}<reserved0>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
HOW = DecodingConfig(max_new_tokens=16, temperature=0)


@dataclass(frozen=True, eq=False, repr=False)
class Scripted(LanguageModel):
    """A model that answers from a script, and records the prompts."""

    asked: list = field(default_factory=list)

    def complete(self, prompts, config, stop_ids=()):
        self.asked.append((self.tokenizer.decode(prompts[0]), config, tuple(stop_ids)))
        for part in (" All", " is well", f" {len(self.asked)}.\n"):
            yield Piece(0, part)
        yield Piece(0, "", Completion("", "", (1, 2, 3, 4, 5), (), "length"))


class Interrupted(Scripted):
    """A model that is interrupted while it answers."""

    def complete(self, prompts, config, stop_ids=()):
        yield Piece(0, "All")
        raise KeyboardInterrupt


def scripted(lm, kind=Scripted):
    return kind(**{item.name: getattr(lm, item.name) for item in fields(lm)})


@pytest.fixture(scope="module")
def plain_model():
    return in_hand()


@pytest.fixture(scope="module")
def templated_model():
    return in_hand(BytesTokenizer(chat_template=TEMPLATE))


@pytest.fixture
def plain(plain_model):
    return scripted(plain_model)


@pytest.fixture
def templated(templated_model):
    return scripted(templated_model)


def test_the_model_reads_its_template(templated):
    with chat(templated, HOW, system="Be brief.") as conversation:
        assert conversation.is_templated
        assert list(conversation.ask("Hi")) == ["All", " is well", " 1.\n"]
        list(conversation.ask("And <eos>?"))
    read, config, stop_ids = templated.asked[1]
    # Special tokens have no text: <reserved0> and <eos> are tokens, not letters.
    assert read == (
        "[system]Be brief.\n[user]Hi\n[assistant]All is well 1.\n[user]And ?\n[assistant]"
    )
    assert stop_ids == (templated.tokenizer.special_tokens["<reserved0>"],)
    assert config.stop == ()
    assert conversation.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "All is well 1."},
        {"role": "user", "content": "And <eos>?"},
        {"role": "assistant", "content": "All is well 2."},
    ]


def test_a_model_without_template_reads_a_dialogue(plain):
    with chat(plain, HOW) as conversation:
        assert not conversation.is_templated
        list(conversation.ask("Hi"))
        conversation.reset()
        list(conversation.ask("Again"))
    assert [read for read, *_ in plain.asked] == ["User: Hi\nAssistant:", "User: Again\nAssistant:"]
    assert plain.asked[0][1].stop == ("\nUser:", "\nSystem:")


def test_a_stopped_answer_is_kept(plain):
    with chat(plain, HOW) as conversation:
        answer = conversation.ask("Hi")
        assert next(answer) == "All"
        answer.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": "All"}


def test_the_oldest_turns_are_forgotten_when_the_context_is_full(plain):
    with chat(plain, HOW, system="S") as conversation:
        for number in range(6):
            list(conversation.ask(f"message {number}"))
        assert conversation.dropped == 1
        with pytest.raises(UserError, match="longer than the model's context of 128"):
            conversation.ask("x" * 200)
        assert conversation.messages[-1]["role"] == "assistant"
    read = plain.asked[-1][0]
    assert read.startswith("System: S\nUser: message ")
    assert read.endswith("User: message 5\nAssistant:")
    assert len(plain.tokenizer.encode(read)) + 1 + HOW.max_new_tokens <= 129


def test_a_template_may_refuse_a_message():
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    lm = scripted(in_hand(BytesTokenizer(chat_template=refusing)))
    with chat(lm, HOW, system="S") as conversation:
        with pytest.raises(UserError, match="no system"):
            conversation.ask("Hi")
        conversation.system = None
        assert list(conversation.ask("Hi"))
        assert [m["role"] for m in conversation.messages] == ["user", "assistant"]


def test_only_decoders_converse():
    with pytest.raises(UserError, match="not a decoder"):
        chat(in_hand(num_encoder_layers=1, num_decoder_layers=0))


def test_a_real_model_answers_and_stops_at_the_templates_end(templated_model):
    with chat(templated_model, HOW) as conversation:
        tokens = templated_model.tokenizer.encode_marked("[user]Hi\n[assistant]")
        pieces = templated_model.complete([tokens], HOW, stop_ids=(260,))
        expected = next(piece.completion for piece in pieces if piece.completion)
        assert "".join(conversation.ask("Hi")).strip() == expected.text.strip()


def converse(command, monkeypatch, lm, lines, *options):
    monkeypatch.setattr(llmjax.inference.language_model, "load", lambda run, options: lm)
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
    return command("chat", "runs/x", *options)


def test_the_command_reads_lines_and_commands(command, monkeypatch, templated, tmp_path):
    saved, text = tmp_path / "talk.json", tmp_path / "talk.txt"
    lines = ["Hi", "", f"/save {saved}", "/reset", "/system Be kind.", "Ho", f"/save {text}"]
    lines += ["/what", "/help", "/save /no/such/folder/x", "/quit", "never asked"]
    code, out, err = converse(command, monkeypatch, templated, lines)
    assert code == 0
    assert out == "All is well 1.\nAll is well 2.\n"
    assert len(templated.asked) == 2
    assert json.loads(saved.read_text())["messages"][0] == {"role": "user", "content": "Hi"}
    assert text.read_text() == "System: Be kind.\n\nUser: Ho\n\nAssistant: All is well 2.\n"
    assert templated.asked[1][0] == "[system]Be kind.\n[user]Ho\n[assistant]"
    assert not any("tokens/s" in line for line in err)  # for people at a terminal
    assert any("/what: no such command" in line for line in err)
    assert any("cannot be written" in line for line in err)


def test_the_command_reports_a_missing_template(command, monkeypatch, plain):
    lines = [f"message {n}" for n in range(6)]
    code, out, err = converse(
        command, monkeypatch, plain, lines, "--json", "--max-new-tokens", "16", "--system", "S"
    )
    assert code == 0
    assert err[0].startswith("this model has no chat template")
    assert any("the oldest turn was dropped" in line for line in err)
    assert json.loads(out)["messages"][0] == {"role": "system", "content": "S"}


def test_a_terminal_gets_the_sampling_the_speed_and_wrapped_lines(
    command, monkeypatch, templated, tmp_path
):
    write_origin(tmp_path, Origin(generation_config={"top_p": 0.9, "temperature": 0.25}))
    monkeypatch.setattr(llmjax.inference.language_model, "load", lambda run, options: templated)
    monkeypatch.setattr("llmjax.cli.chat.terminal_width", lambda: 12)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    typed = iter(["Hi", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    code, out, err = command("chat", str(tmp_path), "--top-k", "7")
    assert (code, out) == (0, "All is well\n1.\n")
    assert err[0] == "sampling: --temperature 0.25 --top-k 7 --top-p 0.9"
    assert re.fullmatch(r"\[5 tokens, [\d.]+ tokens/s, ended by --max-new-tokens\]", err[2])


def test_the_publishers_sampling_is_the_default(tmp_path):
    """Invalid values are left out; those that filter nothing are none."""
    assert default_options(tmp_path) == ChatOptions()
    recommended = {"temperature": 0.6, "top_k": 0, "top_p": 1.0, "min_p": 0.05, "beams": 4}
    write_origin(tmp_path, Origin(generation_config=recommended))
    assert default_options(tmp_path) == ChatOptions(temperature=0.6, min_p=0.05)
    write_origin(tmp_path, Origin(generation_config={"temperature": "hot", "top_p": 7, "top_k": 5}))
    assert default_options(tmp_path) == ChatOptions(top_k=5)
    write_origin(tmp_path, Origin(generation_config={"do_sample": False, "temperature": 1.0}))
    assert default_options(tmp_path) == ChatOptions(temperature=0.0)


def test_a_models_sampling_yields_to_keywords(templated, tmp_path):
    lm = replace(templated, config=Config(run_dir=str(tmp_path)))
    write_origin(tmp_path, Origin(generation_config={"temperature": 0.25, "top_p": 0.9}))
    with chat(lm, temperature=0.5) as conversation:
        assert (conversation.config.temperature, conversation.config.top_p) == (0.5, 0.9)
    with chat(lm, HOW) as conversation:
        assert (conversation.config.temperature, conversation.config.top_p) == (0, None)


def test_ctrl_c_stops_the_answer_only(command, monkeypatch, plain_model):
    lm = scripted(plain_model, Interrupted)
    code, out, err = converse(command, monkeypatch, lm, ["Hi", "Ho"])
    assert (code, out) == (0, "All\nAll\n")
    assert err[1:] == ["stopped", "stopped"]


def test_bad_options_are_refused_before_loading(command):
    code, _, err = command("chat", "nowhere", "--top-p", "2")
    assert code == 2
    assert "top-p" in err[0]
