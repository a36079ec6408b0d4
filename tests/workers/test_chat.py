"""The chat worker as the window sees it: a real process, real Pocket."""

from __future__ import annotations

import json
import os
import signal
import time

import msgspec
import psutil
import pytest

from app.chat_messages import Constraint, TokenChoices
from app.child import Child
from app.protocol import (
    Cancel,
    Cancelled,
    ChatMessage,
    Convert,
    Count,
    Counted,
    Failed,
    Generate,
    Load,
    Loaded,
    Loading,
    LoadOptions,
    Replied,
    Sampling,
    Score,
    Scored,
    Stop,
    Tokens,
)
from converter.spec import ConversionSpec
from tests.models import ENDLESS

GREEDY = Sampling(temperature=0, max_tokens=300)
STORY = (ChatMessage("user", "Tell me a story about a bear."),)
FRANCE = (ChatMessage("user", "What is the capital of France?"),)
LONG = (ChatMessage("user", "bear and lamp " * 4000),)


class Chat:
    """A chat worker with a loaded model."""

    def __init__(self, path, options):
        self.process = Child("chat")
        self.events = self.process.events()
        self.process.send(Load(str(path), options))
        self.loading = []
        for event in self.events:
            if isinstance(event, Loaded):
                self.loaded = event
                return
            self.loading.append(event)

    def send(self, command):
        self.process.send(command)

    def until(self, *kinds):
        """Events up to the first one of these kinds, which is the last of the list."""
        seen = []
        for event in self.events:
            seen.append(event)
            if isinstance(event, kinds):
                return seen
        raise AssertionError(f"the worker ended: {self.process.wait(120)} after {seen}")

    def worked(self):
        """Seconds of processor time that the worker has used, which a busy machine does not make more."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def reply(self, request, messages, sampling=GREEDY, **options):
        """(text, Tokens events, the end)."""
        self.send(Generate(request, messages, sampling, **options))
        *tokens, end = self.until(Replied, Failed)
        return "".join(event.text for event in tokens if isinstance(event, Tokens)), tokens, end


@pytest.fixture
def start(pocket_gguf):
    """``start(options)``: chat workers that are ended after the test."""
    chats = []

    def make(options=None, type_name="Q8_0", path=None):
        chat = Chat(path or pocket_gguf(type_name), options or LoadOptions(threads=1))
        chats.append(chat)
        return chat

    yield make
    for chat in chats:
        chat.process.kill()
        chat.process.close()


@pytest.fixture(scope="module")
def chat(shared_home, pocket_gguf):
    """One that the tests ask in any order, each with whole conversations."""
    made = Chat(pocket_gguf("Q8_0"), LoadOptions(threads=1))
    yield made
    made.process.kill()
    made.process.close()


def test_loads_answers_and_leaves(start):
    chat = start()
    assert all(isinstance(event, Loading) for event in chat.loading)
    assert chat.loading[-1].fraction == 1.0
    assert chat.loaded.parameters == 5_246_208
    assert chat.loaded.context == 1024
    assert chat.loaded.has_template
    assert chat.loaded.memory.anonymous > 0
    text, tokens, end = chat.reply(7, FRANCE)
    assert text == "The capital of France is Paris."
    assert end.stop == "end"
    assert end.tokens == tokens[-1].tokens == 10
    assert {event.request for event in [*tokens, end]} == {7}
    assert end.prompt_tokens == 16
    assert end.context_used == 26
    assert end.first_token > 0
    assert end.tokens_per_second > 0
    chat.send(Cancel())
    assert list(chat.events) == [Cancelled()]
    assert chat.process.wait(120).cancelled


def test_tokens_are_coalesced_and_carry_live_figures(chat):
    begin = time.monotonic()
    text, tokens, end = chat.reply(1, STORY)
    seconds = time.monotonic() - begin
    assert text.startswith("Once upon a time")
    assert end.tokens > 40
    assert len(tokens) <= 30 * seconds + 2
    assert [event.tokens for event in tokens] == sorted(event.tokens for event in tokens)
    assert tokens[-1].rate > 0
    assert tokens[-1].memory > 1 << 20
    assert tokens[-1].context_used <= end.context_used


def test_the_second_turn_reuses_the_first(start):
    chat = start()
    text, _, first = chat.reply(1, STORY)
    _, _, second = chat.reply(2, (*STORY, ChatMessage("assistant", text), ChatMessage("user", "Thanks!")))
    assert second.prompt_reused >= first.prompt_tokens
    assert second.prompt_reused + 30 > second.prompt_tokens


def test_continuing_the_last_answer_goes_on_where_it_stopped(chat):
    full, _, _ = chat.reply(1, STORY)
    begun = full[: full.index(",")]
    rest, _, _ = chat.reply(2, (*STORY, ChatMessage("assistant", begun)), continue_last=True)
    assert begun + rest == full
    _, _, end = chat.reply(3, STORY, continue_last=True)
    assert end.code == "usage"


def test_stop_ends_a_reply_at_once(start, endless_gguf):
    chat = start(path=endless_gguf)
    work = []
    for request in (1, 2, 3):
        chat.send(Generate(request, STORY, ENDLESS))
        chat.until(Tokens)
        begin = chat.worked()
        chat.send(Stop(request))
        end = chat.until(Replied)[-1]
        work.append(chat.worked() - begin)
        assert end.stop == "cancelled"
        assert end.request == request
    assert min(work) < 0.3
    assert chat.reply(4, FRANCE, Sampling(max_tokens=4))[2].stop == "max_tokens"


def test_stop_ends_a_long_prompt_at_once_and_the_heartbeat_goes_on(start, endless_gguf):
    chat = start(LoadOptions(threads=1, context=32768), path=endless_gguf)
    work = []
    for request in (1, 2):
        chat.send(Generate(request, LONG, GREEDY))
        beat = chat.until(Tokens)[-1]
        assert beat.text == ""
        assert beat.tokens == 0
        assert beat.memory > 0
        begin = chat.worked()
        chat.send(Stop(request))
        end = chat.until(Replied)[-1]
        work.append(chat.worked() - begin)
        assert (end.stop, end.tokens) == ("cancelled", 0)
    assert min(work) < 0.3


def test_requests_wait_for_their_turn_and_waiting_ones_can_be_stopped(start, endless_gguf):
    chat = start(path=endless_gguf)
    chat.send(Generate(1, STORY, ENDLESS))
    for request in (2, 3):
        chat.send(Generate(request, FRANCE, Sampling(max_tokens=4)))
    chat.send(Stop(2))
    chat.until(Tokens)
    chat.send(Stop(1))
    ends = [chat.until(Replied)[-1] for _ in range(3)]
    assert [end.request for end in ends] == [1, 2, 3]
    assert [end.stop for end in ends] == ["cancelled", "cancelled", "max_tokens"]
    assert ends[1].tokens == 0


@pytest.mark.parametrize("messages", [STORY, LONG], ids=["reply", "prompt"])
def test_cancel_in_the_middle_of_a_reply_ends_the_worker(start, endless_gguf, messages):
    chat = start(LoadOptions(threads=1, context=32768), path=endless_gguf)
    chat.send(Generate(1, messages, ENDLESS))
    chat.until(Tokens)
    chat.send(Cancel())
    rest = list(chat.events)
    assert isinstance(rest[-1], Cancelled)
    assert all(event.stop == "cancelled" for event in rest if isinstance(event, Replied))
    assert chat.process.wait(120).cancelled


def test_a_failed_request_is_answered_and_the_next_one_works(chat):
    _, _, end = chat.reply(1, LONG)
    assert isinstance(end, Failed)
    assert (end.request, end.code) == (1, "context_full")
    assert "1024" in end.detail
    _, _, end = chat.reply(2, FRANCE, Sampling(top_p=7))
    assert (end.request, end.code) == (2, "bad_sampling")
    assert chat.reply(3, FRANCE)[0] == "The capital of France is Paris."


def test_seeds_repeat(chat):
    hot = Sampling(temperature=1.5, seed=5, max_tokens=40, top_k=0, top_p=1, min_p=0)
    assert chat.reply(1, STORY, hot)[0] == chat.reply(2, STORY, hot)[0]


@pytest.mark.parametrize(("number", "word"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGABRT, "SIGABRT")])
def test_a_killed_worker_is_a_verdict(start, endless_gguf, number, word):
    chat = start(path=endless_gguf)
    chat.send(Generate(1, STORY, ENDLESS))
    chat.until(Tokens)
    os.kill(chat.process.pid, number)
    assert all(isinstance(event, Tokens) for event in chat.events)
    error = chat.process.wait(120).error
    assert error.code == "engine_died"
    assert word in error.detail
    assert error.exit_status == 5


def test_before_loading_only_an_error_comes_and_other_jobs_are_refused(pocket):
    with Child("chat") as process:
        process.send(Generate(1, FRANCE, GREEDY))
        events = process.events()
        assert next(events).code == "not_loaded"
        process.send(Convert(ConversionSpec(str(pocket), "x", ("F16",))))
        assert [event.code for event in events] == ["usage"]


def test_a_file_that_cannot_be_loaded_ends_the_worker_with_the_reason(tmp_path):
    path = tmp_path / "no model.gguf"
    path.write_text("hello, this is no model at all")
    with Child("chat") as process:
        process.send(Load(str(path)))
        events = list(process.events())
        error = process.wait(120).error
    assert [event.code for event in events] == ["not_gguf"]
    assert error.code == "not_gguf"
    assert error.exit_status == 3


def test_another_model_can_be_loaded_into_the_same_worker(start, pocket_gguf):
    chat = start()
    chat.send(Load(str(pocket_gguf("F16")), LoadOptions(threads=1)))
    assert "F16" in chat.until(Loaded)[-1].description
    assert chat.reply(1, FRANCE)[0] == "The capital of France is Paris."


def test_an_answer_is_scored_against_the_reference(start, tmp_path):
    answer = "The capital of France is Paris."
    path = str(tmp_path / "reference.bin")
    reference, candidate = start(type_name="F16"), start(type_name="Q8_0")
    reference.send(Score(1, FRANCE, answer, write=path))
    own = reference.until(Scored, Failed)[-1]
    assert "".join(token.text for token in own.tokens) == answer
    assert (own.mean_kld, own.top1, own.first_divergence) == (0, 1, -1)
    assert all(token.probability > 0.5 for token in own.tokens)

    reference.send(Score(2, FRANCE, answer, against=path))
    same = reference.until(Scored, Failed)[-1]
    assert same.mean_kld < 1e-6

    candidate.send(Score(3, FRANCE, answer, against=path))
    other = candidate.until(Scored, Failed)[-1]
    assert 1e-9 < other.mean_kld < 0.01
    assert other.mean_kld == pytest.approx(sum(token.kld for token in other.tokens) / len(other.tokens))
    for token, mine in zip(other.tokens, own.tokens, strict=True):
        assert token.reference_top[0].text == mine.top[0].text
        assert token.reference_top[0].probability == pytest.approx(mine.top[0].probability, rel=1e-6)

    candidate.send(Score(4, FRANCE, "It is Madrid.", against=path))
    assert candidate.until(Scored, Failed)[-1].code == "different_tokens"
    candidate.send(Score(5, FRANCE, "x", write=path, against=path))
    assert candidate.until(Scored, Failed)[-1].code == "usage"


def test_scoring_in_steps_is_scoring_at_once(start, tmp_path):
    """An answer longer than one step of logits; the reference of itself is then still itself."""
    chat = start()
    text, _, end = chat.reply(1, STORY)
    assert end.tokens > 64
    path = str(tmp_path / "reference.bin")
    chat.send(Score(2, STORY, text, write=path))
    own = chat.until(Scored, Failed)[-1]
    assert "".join(token.text for token in own.tokens) == text
    assert sum(token.top[0].text == token.text for token in own.tokens) > 0.95 * len(own.tokens)
    chat.send(Score(3, STORY, text, against=path))
    assert chat.until(Scored, Failed)[-1].mean_kld < 1e-6


def test_scoring_after_a_reply_is_scoring_in_a_fresh_worker(start, tmp_path):
    path = str(tmp_path / "reference.bin")
    reference, used, fresh = start(type_name="F16"), start(LoadOptions()), start(LoadOptions())
    first, _, _ = used.reply(1, STORY)
    talk = (*STORY, ChatMessage("assistant", first), ChatMessage("user", "Tell me another one."))
    text, _, end = used.reply(2, talk)
    assert end.prompt_reused > 64
    reference.send(Score(1, talk, text, write=path))
    reference.until(Scored)
    scores = []
    for chat in (used, fresh, used):
        chat.send(Score(3, talk, text, against=path))
        scores.append(chat.until(Scored, Failed)[-1])
    assert scores[0].mean_kld > 1e-5
    assert scores[0].mean_kld == pytest.approx(scores[1].mean_kld, rel=1e-6)
    assert scores[0].tokens == scores[1].tokens == scores[2].tokens


def test_tokens_are_counted_as_a_reply_counts_them(start):
    chat = start(LoadOptions(context=512, threads=1))
    chat.send(Count(1, FRANCE, FRANCE[0].content))
    counted = chat.until(Counted, Failed)[-1]
    chat.send(Generate(2, FRANCE, Sampling(temperature=0, max_tokens=1)))
    replied = chat.until(Replied, Failed)[-1]
    assert counted.prompt_tokens == replied.prompt_tokens
    assert 0 < counted.tokens < counted.prompt_tokens
    assert counted.context == 512
    words = "bear and lamp " * 300
    chat.send(Count(3, (ChatMessage("user", words),), words))
    long = chat.until(Counted, Failed)[-1]
    assert long.prompt_tokens > long.tokens > 512
    chat.send(Count(4, (ChatMessage("user", "bear " * (1 << 20)),), ""))
    assert chat.until(Counted, Failed)[-1].code == "context_full"


# ---- constraints and probabilities


def test_a_constraint_that_cannot_be_used_is_a_message_and_the_next_one_works(chat):
    for number, (constraint, code) in enumerate(
        [
            (Constraint("schema", '{"type": "colour"}'), "bad_schema"),
            (Constraint("grammar", 'root ::= "a"{5,2}'), "bad_grammar"),
            (Constraint("grammar", "root ::= <[1000000]>"), "bad_grammar"),
            (Constraint("other", "x"), "bad_grammar"),
        ]
    ):
        _, _, end = chat.reply(number + 1, FRANCE, constraint=constraint)
        assert (type(end), end.request, end.code) == (Failed, number + 1, code)
    schema = '{"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}'
    text, _, end = chat.reply(8, FRANCE, constraint=Constraint("schema", schema))
    assert (json.loads(text), end.stop) == ({"city": "Paris"}, "end")
    assert chat.reply(9, FRANCE)[0] == "The capital of France is Paris."


def test_an_answer_goes_on_under_its_constraint(chat):
    held = Constraint("grammar", 'root ::= "Paris" | "Rome"')
    asked = (*FRANCE, ChatMessage("assistant", "<think>Hm.</think>\n\nPar"))
    assert chat.reply(1, asked, continue_last=True, constraint=held)[0] == "is"
    asked = (*FRANCE, ChatMessage("assistant", "London"))
    assert chat.reply(2, asked, continue_last=True, constraint=held)[2].code == "not_in_grammar"


def test_probabilities_come_before_the_end_and_spell_the_answer(chat):
    hot = Sampling(temperature=1.2, max_tokens=60)
    text, events, end = chat.reply(1, STORY, hot, probabilities="always")
    *tokens, told = events
    assert isinstance(told, TokenChoices)
    assert all(isinstance(event, Tokens) for event in tokens)
    assert "".join(choice.text for choice in told.tokens) == text
    assert all(0 < choice.probability <= 1 and len(choice.top) == 5 for choice in told.tokens)
    for choice in told.tokens:
        parts = [each.probability for each in choice.top]
        assert parts == sorted(parts, reverse=True)
        assert sum(parts) <= 1.001
    again = chat.reply(2, STORY, msgspec.structs.replace(hot, seed=end.seed))
    assert again[0] == text
    assert again[2].seed == end.seed


def test_the_tokens_of_a_stop_string_are_not_told(chat):
    sampling = msgspec.structs.replace(GREEDY, stop=(" time",))
    text, events, end = chat.reply(1, STORY, sampling, probabilities="always")
    assert end.stop == "stop_string"
    assert "".join(choice.text for choice in events[-1].tokens) == text == "Once upon a"


def test_an_answer_is_scored_by_itself(chat):
    chat.send(Score(1, FRANCE, "The capital of France is Paris."))
    scored = chat.until(Scored, Failed)[-1]
    assert "".join(token.text for token in scored.tokens) == "The capital of France is Paris."
    assert all(token.probability > 0.5 and token.top[0].text == token.text for token in scored.tokens)


@pytest.mark.slow
def test_a_grammar_without_an_end_in_sight_ends_the_worker_with_the_reason(start):
    """With every space there are twice as many ways to go on, and after some thirty nothing comes back."""
    chat = start()
    rule = 'root ::= " " root "a" | " " root "b" | " " root "c"'
    chat.send(Generate(1, STORY, Sampling(max_tokens=500), constraint=Constraint("grammar", rule)))
    last = None
    while last is None or chat.until(Tokens)[-1].tokens != last:  # until only the heartbeat comes
        last = chat.until(Tokens)[-1].tokens
    chat.send(Stop(1))
    events = list(chat.events)
    assert [event.code for event in events if isinstance(event, Failed)] == ["grammar_too_slow"]
    error = chat.process.wait(120).error
    assert error.code == "grammar_too_slow"
