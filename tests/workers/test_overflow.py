"""What the worker tells of a conversation that does not fit, and that it can be stopped while it sums it up."""

from __future__ import annotations

import pytest

from app.child import Child
from app.context_messages import ContextFitted
from app.protocol import ChatMessage, Failed, Generate, Load, Loaded, LoadOptions, Replied, Sampling, Stop

GREEDY = Sampling(temperature=0, max_tokens=8)


def talk(turns):
    said = []
    for number in range(turns):
        said += [ChatMessage("user", f"{number} " + "bear and lamp " * 30), ChatMessage("assistant", f"{number}.")]
    return (*said, ChatMessage("user", "What is the capital of France?"))


@pytest.fixture
def chat(pocket_gguf):
    with Child("chat") as child:
        child.send(Load(str(pocket_gguf("Q8_0")), LoadOptions(threads=1, context=512)))
        events = child.events()
        assert any(isinstance(event, Loaded) for event in events)

        def answer(command, stop_at=None):
            child.send(command)
            seen = []
            for event in events:
                seen.append(event)
                if stop_at is not None and stop_at(event):
                    child.send(Stop(command.request))
                if isinstance(event, Replied | Failed):
                    return seen
            raise AssertionError(child.wait(60))

        yield answer
        child.kill()


def test_the_parent_is_told_before_the_answer_and_the_next_request_works(chat):
    assert isinstance(chat(Generate(1, talk(20), GREEDY))[-1], Failed)
    seen = chat(Generate(2, talk(20), GREEDY, overflow="shift"))
    told = next(at for at, event in enumerate(seen) if isinstance(event, ContextFitted))
    assert not any(event.text for event in seen[:told])
    fit = seen[told]
    assert fit.request == 2 and fit.left_out % 2 == 0 and fit.summary is None
    assert isinstance(seen[-1], Replied) and seen[-1].tokens > 0
    # The next turn leaves out the same, so that what was computed is of use.
    more = (*talk(20), ChatMessage("assistant", "Paris."), ChatMessage("user", "And of Spain?"))
    again = chat(Generate(3, more, GREEDY, overflow="shift"))
    assert next(event for event in again if isinstance(event, ContextFitted)).left_out == fit.left_out
    assert again[-1].prompt_reused > seen[-1].prompt_tokens // 2


def test_a_summary_can_be_stopped_and_is_told(chat):
    command = Generate(4, talk(20), GREEDY, overflow="summarise")
    stopped = chat(command, stop_at=lambda event: isinstance(event, ContextFitted) and event.summarising)
    assert isinstance(stopped[-1], Replied) and stopped[-1].stop == "cancelled" and stopped[-1].tokens == 0
    seen = chat(Generate(5, talk(20), GREEDY, overflow="summarise"))
    fits = [event for event in seen if isinstance(event, ContextFitted)]
    assert [fit.summarising for fit in fits] == [True, False]
    assert fits[1].summary is not None and fits[1].summary.covers == fits[1].left_out
    assert seen[-1].stop in {"end", "max_tokens"}
