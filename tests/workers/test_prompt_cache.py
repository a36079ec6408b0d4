"""Reopening a conversation after a restart: a real worker, real Pocket, and files that were tampered with."""

from __future__ import annotations

import os
import threading

import msgspec
import pytest

from app import prompt_files
from app.adapter_messages import Adapter, AdaptersSet, SetAdapters
from app.child import Child
from app.protocol import ChatMessage, Failed, Generate, Load, Loaded, LoadOptions, Replied, Sampling
from tests.lora_files import pairs, write_adapter

GREEDY = Sampling(temperature=0, max_tokens=24)
LIMIT = 64 << 20
OPTIONS = LoadOptions(threads=1, context=1024)
TALK = (
    ChatMessage("system", "You are a helpful model that knows capitals and animals. " * 6),
    ChatMessage("user", "What is the capital of France?"),
)


@pytest.fixture
def session(pocket_gguf, quench_home):
    """``session(options, limit)`` is a worker with Pocket; ``ask(...)`` answers, ``leave()`` ends it."""
    made = []

    class Session:
        def __init__(self, options=OPTIONS, limit=LIMIT, kind="Q8_0"):
            self.child = Child("chat")
            made.append(self.child)
            self.child.send(Load(str(pocket_gguf(kind)), options, prompt_cache=limit))
            self.events = self.child.events()
            self.until(Loaded)

        def until(self, kind):
            text = ""
            for event in self.events:
                if isinstance(event, Failed):
                    raise AssertionError(event)
                if isinstance(event, kind):
                    return text, event
                text += getattr(event, "text", "")
            raise AssertionError(self.child.wait(60))

        def ask(self, conversation="7", talk=TALK):
            self.child.send(Generate(1, talk, GREEDY, conversation=conversation))
            return self.until(Replied)

        def leave(self):
            self.child.cancel(60)
            for _ in self.events:
                pass
            assert self.child.wait(120).cancelled

    yield Session
    for child in made:
        child.kill()
        child.close()


def next_turn(answer):
    return (*TALK, ChatMessage("assistant", answer), ChatMessage("user", "And of Spain?"))


def test_a_reopened_conversation_is_not_computed_again(session):
    first = session()
    answer, end = first.ask()
    held = end.prompt_tokens + end.tokens
    without = first.ask(talk=next_turn(answer))
    first.leave()
    assert prompt_files.total() > 0

    # Another process, the same conversation: only what is new is computed.
    again = session()
    text, end = again.ask(talk=next_turn(answer))
    assert end.prompt_reused == without[1].prompt_tokens - 1
    again.leave()

    prompt_files.forget("7")
    third = session()
    third.ask()
    third.leave()
    fourth = session()
    text, end = fourth.ask(talk=next_turn(answer))
    assert end.prompt_reused >= held - 2
    # What was read is bit for bit what was held, so the answer is that of the process that never ended.
    assert text == without[0]
    fourth.leave()


def test_it_is_kept_while_the_model_is_idle(session):
    chat = session()
    chat.ask()
    while not (prompt_files.folder() / "7.json").exists():
        threading.Event().wait(0.02)
    chat.child.kill()  # without a word
    reopened = session()
    assert reopened.ask()[1].prompt_reused > 0


def test_switching_between_conversations_keeps_both(session):
    chat = session()
    other = (ChatMessage("user", "Tell me about the bear and the lamp. " * 12),)
    first = chat.ask("1")[1]
    second = chat.ask("2", other)[1]
    assert second.prompt_reused < first.prompt_tokens // 2
    assert chat.ask("1")[1].prompt_reused == first.prompt_tokens - 1
    assert chat.ask("2", other)[1].prompt_reused == second.prompt_tokens - 1


DIFFERENT = {
    "another context": (LoadOptions(threads=1, context=512), "Q8_0"),
    "another cache": (LoadOptions(threads=1, context=1024, kv_type="q8_0"), "Q8_0"),
    "another file": (OPTIONS, "Q4_K_M"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENT)
def test_what_was_made_otherwise_is_not_used(session, name):
    chat = session()
    chat.ask()
    chat.leave()
    options, kind = DIFFERENT[name]
    assert session(options, kind=kind).ask()[1].prompt_reused == 0


@pytest.mark.slow
def test_what_was_made_with_an_adapter_is_not_used_without(session, pocket_gguf, tmp_path):
    path = write_adapter(tmp_path / "a.gguf", pairs(str(pocket_gguf("Q8_0")), ("blk.0.attn_q.weight",)))
    chat = session()
    chat.child.send(SetAdapters(5, (Adapter(path, 0.5),)))
    assert chat.until(AdaptersSet)[1].adapters == (Adapter(path, 0.5),)
    chat.ask()
    chat.leave()
    reopened = session()
    assert reopened.ask()[1].prompt_reused == 0
    reopened.child.send(SetAdapters(5, (Adapter(path, 0.5),)))
    reopened.until(AdaptersSet)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


DAMAGE = {
    "a flipped byte in the middle": lambda state, about: flip(state, state.stat().st_size // 2),
    "a flipped byte in the head": lambda state, about: flip(state, 9),
    "a state that ends early": lambda state, about: os.truncate(state, state.stat().st_size - 100),
    "an empty state": lambda state, about: state.write_bytes(b""),
    "no state": lambda state, about: state.unlink(),
    "a description that is none": lambda state, about: about.write_bytes(b"{"),
    "no description": lambda state, about: about.unlink(),
    "other tokens": lambda state, about: about.write_bytes(about.read_bytes().replace(b'"tokens":[', b'"tokens":[5,')),
    "a state with another digest": lambda state, about: about.write_bytes(
        msgspec.json.encode(msgspec.json.decode(about.read_bytes()) | {"digest": "0" * 64})
    ),
}


def test_damage_costs_only_the_time(session):
    chat = session()
    text, _ = chat.ask()
    chat.leave()
    state, about = prompt_files.folder() / "7.state", prompt_files.folder() / "7.json"
    good = state.read_bytes(), about.read_bytes()
    made_by = msgspec.json.decode(good[1])["made_by"]
    kept = prompt_files.find("7", made_by)
    assert prompt_files.checked("7", kept) == state
    for name, damage in DAMAGE.items():
        state.write_bytes(good[0])
        about.write_bytes(good[1])
        damage(state, about)
        kept = prompt_files.find("7", made_by)
        assert kept is None or prompt_files.checked("7", kept) is None or kept.tokens[0] == 5, name
    # Tokens that are not those in the state are seen when it is read.
    about.write_bytes(good[1])
    for name in ("a flipped byte in the middle", "other tokens"):
        DAMAGE[name](state, about)
        reopened = session()
        assert reopened.ask()[0] == text, name
        reopened.child.kill()
        state.write_bytes(good[0])


@pytest.mark.slow
def test_the_oldest_make_room_and_nothing_is_kept_over_the_limit(session):
    chat = session()
    chat.ask("1")
    chat.leave()
    one = prompt_files.total()
    chat = session(limit=round(one * 2.5))
    for conversation in ("2", "3", "4"):
        chat.ask(conversation, (*TALK[:1], ChatMessage("user", f"Question {conversation}?")))
    chat.leave()
    assert 0 < prompt_files.total() <= one * 2.5
    assert not (prompt_files.folder() / "1.state").exists()
    assert (prompt_files.folder() / "4.state").exists()
    small = session(limit=1000)
    small.ask("9")
    small.leave()
    assert not (prompt_files.folder() / "9.state").exists()


@pytest.mark.slow
def test_nothing_is_kept_without_a_limit_or_a_name(session):
    chat = session(limit=0)
    chat.ask("7")
    chat.leave()
    chat = session()
    for conversation in ("", "../7"):
        chat.ask(conversation)
    chat.leave()
    assert prompt_files.total() == 0
