"""Conversations that are longer than the context, on Pocket: what the model still sees, and that it is told."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from app.context_messages import Summary
from app.engine import native
from app.engine.held import Held
from app.engine.model import Extras, Model
from app.engine.overflow import fitted
from app.protocol import ChatMessage, LoadOptions
from converter.spec import QuenchError
from tests.models import ENDLESS

SYSTEM = ChatMessage("system", "You are a bear who counts lamps.")
LAST = ChatMessage("user", "What is the capital of France?")


def long_talk(turns, words=40):
    talk = [SYSTEM]
    for number in range(turns):
        talk.append(ChatMessage("user", f"Question {number}: " + "bear and lamp " * words))
        talk.append(ChatMessage("assistant", f"Answer {number}."))
    return [*talk, LAST]


@pytest.fixture(scope="module")
def model(pocket_gguf):
    with Model.load(str(pocket_gguf("Q8_0")), LoadOptions(threads=1, context=512)) as loaded:
        yield loaded


def fit(model, talk, overflow="shift", most=64, **options):
    return fitted(model, talk, overflow=overflow, most=most, **options)


def text(model, prompt):
    return model.detokenize(prompt.tokens, special=True)


def test_a_conversation_that_fits_is_left_whole(model):
    talk = long_talk(1)
    for overflow in ("stop", "shift", "summarise"):
        prompt = fit(model, talk, overflow)
        assert prompt.tokens == model.prompt_tokens(model.render(talk))
        assert (prompt.left_out, prompt.summary) == (0, None)


def test_the_oldest_turns_go_whole_and_the_system_prompt_stays(model):
    talk = long_talk(9)
    prompt = fit(model, talk)
    assert prompt.left_out % 2 == 0
    assert prompt.tokens == model.prompt_tokens(model.render([SYSTEM, *talk[1 + prompt.left_out :]]))
    assert len(prompt.tokens) <= 512 // 2
    # One turn less would have been too much, or it would not have gone.
    assert len(model.prompt_tokens(model.render([SYSTEM, *talk[prompt.left_out - 1 :]]))) > 512 // 2


def test_what_was_left_out_stays_left_out_while_that_is_enough(model):
    talk = long_talk(9)
    before = fit(model, talk).left_out
    talk += [ChatMessage("assistant", "Paris."), ChatMessage("user", "And of Spain?")]
    again = fit(model, talk, left_out=before)
    assert again.left_out == before  # so that the beginning of the prompt is that of the last time
    talk[-1] = ChatMessage("user", "bear and lamp " * 100)
    assert fit(model, talk, left_out=before).left_out > before


def test_a_last_message_that_does_not_fit_is_refused_in_words(model):
    for overflow in ("shift", "summarise"):
        for words in (700, 400_000):
            talk = [*long_talk(2), ChatMessage("assistant", "Paris."), ChatMessage("user", "bear and lamp " * words)]
            with pytest.raises(QuenchError, match="longer than the context") as caught:
                fit(model, talk, overflow)
            assert caught.value.code == "context_full"


def test_stopping_refuses_what_does_not_fit(model):
    prompt = fit(model, long_talk(30), "stop")
    with pytest.raises(QuenchError) as caught:
        next(model.generate(prompt.tokens, ENDLESS, extras=Extras(keep=prompt.keep)))
    assert caught.value.code == "context_full"
    assert "When full" in caught.value.hint


def test_a_summary_by_the_model_stands_for_what_was_left_out(model):
    told = []
    talk = long_talk(9)
    prompt = fit(model, talk, "summarise", on_summary=told.append)
    assert told == [prompt.left_out] == [prompt.summary.covers]
    assert prompt.summary.text
    assert prompt.summary.text in text(model, prompt)
    assert SYSTEM.content in text(model, prompt)
    talk += [ChatMessage("assistant", "Paris."), ChatMessage("user", "And of Spain?")]
    again = fit(model, talk, "summarise", summary=prompt.summary, on_summary=told.append)
    assert again.summary == prompt.summary
    assert len(told) == 1  # it was not written again


def test_a_summary_goes_on_from_the_one_before(model):
    first = fit(model, long_talk(9), "summarise").summary
    told = []
    second = fit(model, long_talk(18), "summarise", summary=first, on_summary=told.append).summary
    assert second.covers > first.covers
    assert len(told) == 1


def test_a_summary_of_another_branch_is_not_used(model):
    talk = long_talk(9)
    prompt = fit(model, talk, "summarise", summary=Summary(5, "Nonsense in the middle of a turn."))
    assert "Nonsense" not in text(model, prompt)


def test_a_full_context_moves_on_and_keeps_the_system_prompt(model, monkeypatch):
    prompt = fit(model, [SYSTEM, ChatMessage("user", "Tell me a story.")])
    system = model.prompt_tokens(model.render([SYSTEM, ChatMessage("user", "?")]))
    assert prompt.keep >= len(system) - 8
    monkeypatch.setattr(native.lib, "llama_vocab_is_eog", lambda vocabulary, token: False)
    endless = msgspec.structs.replace(ENDLESS, max_tokens=1200)
    steps = list(model.generate(prompt.tokens, endless, extras=Extras(keep=prompt.keep)))
    stats = steps[-1].stats
    assert (stats.stop, stats.tokens) == ("max_tokens", 1200)
    assert stats.shifted > 600
    assert model.held.tokens[: prompt.keep] == prompt.tokens[: prompt.keep]
    assert len(model.held.tokens) <= 512


def test_moving_positions_gives_what_the_model_would_have_said(model):
    """The oracle is the library on the same tokens from the beginning: keys that were moved are turned by the
    engine in the cache's own type, so the first choice and nearly all of the distribution stay."""
    drawn = np.random.default_rng(3).integers(300, 2000, 400).tolist()
    held = model.held
    held.clear()
    assert held.feed(drawn, lambda: False)
    assert held.make_room(20, lambda: False) == 190
    assert held.tokens == [*drawn[:20], *drawn[210:]]
    held.advance(500)
    moved = native.logits(model._context, 1, model.vocabulary)[0].copy()
    assert held.reuse([*held.tokens, 7]) == 211  # what stays is held at the positions that it is said to be at
    held.clear()
    held.feed([*drawn[:20], *drawn[210:]], lambda: False)
    held.advance(500)
    fresh = native.logits(model._context, 1, model.vocabulary)[0].copy()
    # What was dropped has left its trace in the layers above the first; so they are alike, not equal.
    assert np.corrcoef(moved, fresh)[0, 1] > 0.9


def test_a_model_that_cannot_move_computes_what_stays_again(model, monkeypatch):
    drawn = np.random.default_rng(3).integers(300, 2000, 300).tolist()
    held = Held(model._model, model._context, model.context, 128)
    monkeypatch.setattr(native.lib, "llama_memory_can_shift", lambda memory: False)
    held.clear()
    held.feed(drawn, lambda: False)
    assert held.make_room(10, lambda: False) == 145
    held.advance(500)
    again = native.logits(model._context, 1, model.vocabulary)[0].copy()
    held.clear()
    held.feed([*drawn[:10], *drawn[155:]], lambda: False)
    held.advance(500)
    np.testing.assert_array_equal(again, native.logits(model._context, 1, model.vocabulary)[0])
    assert held.make_room(10, lambda: True) == 0  # cancelled
    held.clear()
    model.held.clear()


def test_no_room_is_made_where_everything_is_to_be_kept(model):
    model.held.clear()
    model.held.feed([300, 301, 302], lambda: False)
    assert model.held.make_room(3, lambda: False) == 0
    assert model.held.tokens == [300, 301, 302]
