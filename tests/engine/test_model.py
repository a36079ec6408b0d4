"""The engine on Pocket, against the installed library's own high-level class and transformers' golden logits."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from app.engine import native
from app.engine.loading import BATCH
from app.engine.model import Model
from app.protocol import ChatMessage, LoadOptions, Sampling
from converter.spec import Cancelled, QuenchError

GOLDEN = Path(__file__).parent.parent / "golden" / "pocket_logits.npz"
GREEDY = Sampling(temperature=0, max_tokens=200)
STORY = [ChatMessage("user", "Tell me a story about a bear.")]


@pytest.fixture(scope="module")
def q8(pocket_gguf):
    return str(pocket_gguf("Q8_0"))


@pytest.fixture(scope="module")
def shared(q8):
    """One loaded model for tests that leave nothing behind that matters."""
    with Model.load(q8, LoadOptions(threads=1)) as model:
        yield model


def reply(model, messages, sampling=GREEDY, **options):
    """(text, last step) of an answer."""
    steps = list(model.generate(model.prompt_tokens(model.render(messages)), sampling, **options))
    return "".join(step.text for step in steps), steps[-1]


def with_stop(*stop, **changes):
    return msgspec.structs.replace(GREEDY, stop=stop, **changes)


# ---- what a model is


def test_a_loaded_model_says_what_it_is(shared, q8):
    assert shared.path == q8
    assert shared.parameters == 5_246_208
    assert shared.vocabulary == 2048
    assert shared.context == shared.context_trained == 1024
    assert "Q8_0" in shared.description
    assert shared.bos == -1
    assert not shared.adds_bos
    assert shared.eos == 2
    assert "im_start" in shared.template
    assert shared.is_end(2)
    assert not shared.is_end(300)


def test_loading_reports_progress_and_can_be_stopped(q8):
    seen = []
    with Model.load(q8, LoadOptions(threads=1), lambda fraction: seen.append(fraction) or True):
        assert seen[-1] == 1.0
        assert seen == sorted(seen)
    with pytest.raises(Cancelled):
        Model.load(q8, None, lambda fraction: False)
    with pytest.raises(ZeroDivisionError):
        Model.load(q8, None, lambda fraction: 1 / 0)


def test_memory_is_true_and_has_its_parts(shared):
    memory = shared.memory()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert memory.weights == pytest.approx(5_583_872, rel=0.05)
    assert memory.kv == 1024 * 6 * 2 * (64 + 64) * 2
    assert 1 << 20 < memory.compute < 64 << 20
    assert memory.peak == pytest.approx(int(status["VmHWM"].split()[0]) << 10, rel=0.01)
    assert memory.anonymous < memory.share < memory.peak


def test_the_parts_are_known_when_other_code_has_taken_the_librarys_log(q8):
    taken = []
    listener = native.lib.llama_log_callback(lambda level, text, data: taken.append(text))
    native.lib.llama_log_set(listener, None)
    try:
        with Model.load(q8, LoadOptions(threads=1)) as model:
            assert model.memory().kv == 1024 * 6 * 2 * (64 + 64) * 2
            assert model.memory().compute > 1 << 20
        assert taken == []
    finally:
        native.log.install()


# ---- text


def test_tokens_are_those_of_transformers(shared):
    golden = np.load(GOLDEN)
    for index, prompt in enumerate(golden["prompts"]):
        tokens = shared.tokenize(str(prompt), special=True, add_special=False)
        assert tokens == golden[f"tokens_{index}"].tolist()
        assert shared.detokenize(tokens, special=True) == str(prompt)


def test_special_texts_are_special_only_when_asked_for(shared):
    assert shared.tokenize("<|im_end|>", special=True, add_special=False) == [2]
    plain = shared.tokenize("<|im_end|>", special=False, add_special=False)
    assert len(plain) > 1
    assert shared.detokenize(plain) == "<|im_end|>"
    assert shared.piece(2) == b""
    assert shared.piece(2, special=True) == b"<|im_end|>"


def test_long_texts_tokenize_whole(shared):
    text = "bear and lamp " * 5000
    assert shared.detokenize(shared.tokenize(text, special=False, add_special=False)) == text


# ---- golden logits


def test_f16_logits_are_those_of_transformers(pocket_gguf):
    """Within 0.5 % of the spread (largest minus smallest golden logit) at every kept position."""
    golden = np.load(GOLDEN)
    with Model.load(str(pocket_gguf("F16")), LoadOptions(threads=1)) as model:
        for index in range(len(golden["prompts"])):
            logits = model.window_logits(golden[f"tokens_{index}"].tolist(), 0)[golden[f"positions_{index}"]]
            expected = golden[f"logits_{index}"]
            spread = np.ptp(expected, axis=1)
            assert (np.abs(logits - expected).max(axis=1) < 0.005 * spread).all()
            assert (logits.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_window_logits_do_not_depend_on_how_they_are_asked_for(q8):
    windows = [np.random.default_rng(seed).integers(0, 2048, BATCH).tolist() for seed in range(3)]
    options = LoadOptions(context=BATCH, threads=1)
    with Model.load(q8, options) as model:
        expected = [model.window_logits(window, 256).copy() for window in windows]
        assert expected[0].shape == (256, 2048)
        assert expected[0].dtype == np.float32
        assert np.array_equal(model.window_logits(windows[0], 0)[256:], expected[0])
        assert np.array_equal(model.window_logits(windows[0], BATCH - 1)[0], expected[0][-1])
    with Model.load(q8, options, sequences=2) as model:
        for logits, other in zip(model.windows_logits(windows, 256), expected, strict=True):
            assert np.array_equal(logits, other)
    with Model.load(q8, options, outputs=32) as model:
        np.testing.assert_allclose(model.window_logits(windows[0], 256), expected[0], atol=0.5)


def test_a_window_that_does_not_fit_is_refused(shared):
    with pytest.raises(QuenchError) as caught:
        shared.window_logits([5] * 1025, 512)
    assert caught.value.code == "context_full"
    with pytest.raises(ValueError, match="first position"):
        shared.window_logits([5] * 10, 10)


# ---- replies


@pytest.fixture(scope="module")
def high_level(q8):
    """The installed library's own class: greedy tokens after a prompt, up to the end of the turn."""
    import llama_cpp

    llama = llama_cpp.Llama(q8, n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
    native.log.install()

    def answer(tokens, count):
        made = []
        llama.reset()
        for token in llama.generate(tokens, temp=0.0, repeat_penalty=1.0):
            if token in (0, 2) or len(made) >= count:
                return llama.detokenize(made).decode("utf-8", "replace")
            made.append(token)
        return ""

    yield answer
    llama.close()


@pytest.mark.parametrize(
    "question", ["What is the capital of France?", "Calculate 12 x 5.", "Tell me a story about a fox."]
)
def test_greedy_text_is_that_of_the_high_level_class(shared, high_level, question):
    messages = [ChatMessage("user", question)]
    text, last = reply(shared, messages)
    assert text == high_level(shared.prompt_tokens(shared.render(messages)), 200)
    assert text
    assert last.stats.stop == "end"
    assert last.stats.tokens == last.tokens > 3


def test_the_second_turn_computes_only_what_is_new(q8):
    with Model.load(q8, LoadOptions(threads=1)) as model:
        first, _ = reply(model, STORY)
        second = [*STORY, ChatMessage("assistant", first), ChatMessage("user", "What is the capital of Spain?")]
        again, last = reply(model, second)
    with Model.load(q8, LoadOptions(threads=1)) as model:
        fresh, from_nothing = reply(model, second)
    assert again == fresh
    assert from_nothing.stats.prompt_reused == 0
    assert last.stats.prompt_tokens == from_nothing.stats.prompt_tokens
    assert 0.7 * last.stats.prompt_tokens < last.stats.prompt_reused < last.stats.prompt_tokens


def test_the_same_prompt_again_gives_the_same_answer(shared):
    first, _ = reply(shared, STORY)
    again, last = reply(shared, STORY)
    assert again == first
    assert last.stats.prompt_reused == last.stats.prompt_tokens - 1


def test_a_prompt_that_parts_early_gives_the_same_answer(shared):
    other = [ChatMessage("user", "Sort these words: letter, winter, mountain.")]
    expected, _ = reply(shared, STORY)
    reply(shared, other)
    again, last = reply(shared, STORY)
    assert again == expected
    assert last.stats.prompt_reused < last.stats.prompt_tokens // 2


def test_stop_strings_end_the_text_before_them(shared):
    full, _ = reply(shared, STORY)
    for at in (10, 33, 60):
        stop = full[at : at + 9]
        text, last = reply(shared, STORY, with_stop("never to be seen", stop))
        assert text == full[: full.index(stop)]
        assert last.stats.stop == "stop_string"


def test_the_number_of_tokens_is_kept(shared):
    full, _ = reply(shared, STORY)
    text, last = reply(shared, STORY, with_stop(max_tokens=7))
    assert last.stats.stop == "max_tokens"
    assert last.stats.tokens == 7
    assert full.startswith(text)
    text, last = reply(shared, STORY, with_stop(max_tokens=1))
    assert last.stats.tokens == 1
    assert full.startswith(text)


def test_what_was_held_back_for_a_stop_string_is_shown_at_the_end(shared):
    full, _ = reply(shared, STORY)
    text, last = reply(shared, STORY, with_stop(full[-5:] + "never"))
    assert text == full
    assert last.stats.stop == "end"


def test_seeds_repeat_and_differ(shared):
    def draw(seed):
        return reply(shared, STORY, Sampling(temperature=1.5, seed=seed, max_tokens=40, top_k=0, top_p=1, min_p=0))[0]

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(1, 6)}) > 1
    assert len({draw(-1) for _ in range(5)}) > 1


def test_narrow_sampling_is_greedy(shared):
    expected, _ = reply(shared, STORY)
    for sampling in (
        Sampling(temperature=1.0, top_k=1, max_tokens=200),
        Sampling(temperature=1.0, top_k=0, top_p=1e-6, max_tokens=200),
        Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=1.0, max_tokens=200),
    ):
        assert reply(shared, STORY, sampling)[0] == expected


def test_the_repeat_penalty_changes_the_text(shared):
    plain, _ = reply(shared, STORY)
    assert reply(shared, STORY, with_stop(repeat_penalty=1.8))[0] != plain


@pytest.mark.parametrize("changes", [{"temperature": float("nan")}, {"top_p": 2.0}, {"max_tokens": 0}, {"min_p": -0.1}])
def test_sampling_out_of_range_is_refused(shared, changes):
    with pytest.raises(QuenchError) as caught:
        reply(shared, STORY, msgspec.structs.replace(GREEDY, **changes))
    assert caught.value.code == "bad_sampling"


def test_a_full_context_ends_the_reply_and_a_longer_prompt_is_refused(q8):
    with Model.load(q8, LoadOptions(context=256, threads=1)) as model:
        assert model.context == 256
        tokens = model.prompt_tokens(model.render(STORY))
        steps = list(model.generate([*tokens, *[300] * (250 - len(tokens))], GREEDY))
        assert steps[-1].stats.stop in {"context", "end"}
        assert model.used <= 256
        with pytest.raises(QuenchError) as caught:
            list(model.generate([300] * 256, GREEDY))
        assert caught.value.code == "context_full"
        assert reply(model, STORY)[0]
        with pytest.raises(QuenchError) as caught:
            list(model.generate([], GREEDY))
        assert caught.value.code == "empty_prompt"


def test_the_context_fills_to_its_last_token(q8):
    """Drawn almost evenly from all tokens, so that a reply hardly ever ends by itself."""
    even = Sampling(temperature=100, top_k=0, top_p=1, min_p=0, seed=3, max_tokens=1000)
    with Model.load(q8, LoadOptions(context=256, threads=1)) as model:
        prompt = model.tokenize("Once upon a time, ", special=False, add_special=False) * 40
        prompt = prompt[:200]
        last = list(model.generate(prompt, even))[-1]
        assert last.stats.stop == "context"
        assert model.used == 256
        # The token that no longer fits is still shown.
        assert last.tokens == 57


def test_ten_megabytes_are_refused_without_being_split_into_tokens(shared):
    start = time.thread_time()
    with pytest.raises(QuenchError) as caught:
        shared.prompt_tokens("bear and lamp " * 700_000)
    assert caught.value.code == "context_full"
    assert time.thread_time() - start < 1
    assert len(shared.prompt_tokens("bear and lamp " * 2000)) > 1024


# ---- stopping


def test_cancelling_between_tokens(shared):
    count = 0

    def cancelled():
        nonlocal count
        count += 1
        return count > 5

    text, last = reply(shared, STORY, cancelled=cancelled)
    assert last.stats.stop == "cancelled"
    assert last.stats.tokens == 5
    assert reply(shared, STORY)[0].startswith(text)


def test_interrupting_a_long_prompt_takes_effect_at_once(q8):
    with Model.load(q8, LoadOptions(context=16384, threads=1)) as model:
        expected, _ = reply(model, STORY)
        tokens = np.random.default_rng(5).integers(10, 2048, 16000).tolist()
        stop, pressed = threading.Event(), []

        def press():
            pressed.append(model.used)
            stop.set()
            model.interrupt()

        timer = threading.Timer(0.3, press)
        timer.start()
        steps = list(model.generate(tokens, GREEDY, cancelled=stop.is_set))
        timer.join()
        assert steps[-1].stats.stop == "cancelled"
        assert steps[-1].stats.tokens == 0
        # At most the batch in hand was finished, of the many that were left.
        assert model.used - pressed[0] <= BATCH
        assert model.used < len(tokens)
        # What was computed until then is still good, and the next reply is not disturbed.
        assert model.used % BATCH == 0
        assert reply(model, STORY)[0] == expected


def test_a_reply_that_nobody_reads_to_its_end_leaves_the_model_usable(shared):
    expected, _ = reply(shared, STORY)
    steps = shared.generate(shared.prompt_tokens(shared.render(STORY)), GREEDY)
    next(steps)
    next(steps)
    steps.close()
    assert reply(shared, STORY)[0] == expected


def test_interrupting_a_measurement_raises_cancelled(q8):
    with Model.load(q8, LoadOptions(threads=1)) as model:
        model.interrupt()
        with pytest.raises(Cancelled):
            model.bench_prompt(512)
        with pytest.raises(Cancelled):
            model.window_logits([300] * 512, 256)


# ---- speed, options, answers


def test_benchmarks_take_time_and_respect_the_context(shared):
    assert 0 < shared.bench_prompt(64) < shared.bench_prompt(900) < 60
    assert 0 < shared.bench_generate(2) < shared.bench_generate(64, depth=100) < 60
    with pytest.raises(QuenchError) as caught:
        shared.bench_generate(100, depth=1000)
    assert caught.value.code == "context_full"


@pytest.mark.parametrize(("kv_type", "share"), [("q8_0", 34 / 64), ("f32", 2.0)])
def test_cache_types_change_the_size_of_the_cache(q8, shared, kv_type, share):
    with Model.load(q8, LoadOptions(threads=1, kv_type=kv_type)) as model:
        assert model.memory().kv == pytest.approx(shared.memory().kv * share, rel=0.01)
        assert reply(model, [ChatMessage("user", "What is the capital of France?")])[0].startswith("The capital")


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(kv_type="q9"),
        LoadOptions(flash_attention="maybe"),
        LoadOptions(kv_type="q8_0", flash_attention="off"),
        LoadOptions(context=-1),
        LoadOptions(threads=5000),
    ],
)
def test_options_that_would_kill_the_engine_are_refused(q8, options):
    with pytest.raises(QuenchError) as caught:
        Model.load(q8, options)
    assert caught.value.code == "bad_options"


def test_a_context_beyond_the_memory_is_refused_before_it_is_made(q8):
    with pytest.raises(QuenchError) as caught:
        Model.load(q8, LoadOptions(context=1 << 24, kv_type="f32"))
    assert caught.value.code == "no_memory"
    assert caught.value.exit_status == 4


def test_threads_are_chosen_or_taken(q8, shared):
    assert shared.threads == 1
    with Model.load(q8) as model:
        assert 1 <= model.threads <= 64
        expected = model.window_logits([300] * 64, 32).copy()
        model.set_threads(2)
        assert np.array_equal(model.window_logits([300] * 64, 32), expected)


def test_answer_logits_predict_the_answer(shared):
    messages = [ChatMessage("user", "What is 8 x 6?")]
    prompt = shared.prompt_tokens(shared.render(messages))
    answer = shared.continuation_tokens("8 x 6 = 48.")
    whole = shared.window_logits([*prompt, *answer], len(prompt) - 1)[:-1].copy()
    blocks = [(at, rows.copy()) for at, rows in shared.answer_logits(prompt, answer)]
    logits = np.concatenate([rows for _, rows in blocks])
    assert next(at for at, _ in blocks) == 0
    assert logits.shape == (len(answer), 2048)
    np.testing.assert_allclose(logits, whole, atol=0.5)
    assert (logits.argmax(axis=1) == np.array(answer)).mean() > 0.8
    assert list(shared.answer_logits(prompt, [])) == []


@pytest.mark.parametrize("threads", [1, 0])
def test_answer_logits_are_the_same_bits_after_a_reply_and_in_a_fresh_model(q8, threads):
    with Model.load(q8, LoadOptions(threads=threads), outputs=64) as used:
        first, last = reply(used, STORY)
        assert last.tokens > 64
        # In the second turn the first answer's keys and values are those that were made token by token.
        talk = [*STORY, ChatMessage("assistant", first), ChatMessage("user", "Tell me another one.")]
        prompt = used.prompt_tokens(used.render(talk))
        text, last = reply(used, talk)
        assert last.stats.prompt_reused > 64
        answer = used.continuation_tokens(text)
        chosen = used.threads
        after = [rows.copy() for _, rows in used.answer_logits(prompt, answer)]
        assert used.threads == chosen
    with Model.load(q8, LoadOptions(threads=threads), outputs=64) as fresh:
        clean = [rows.copy() for _, rows in fresh.answer_logits(prompt, answer)]
    assert np.array_equal(np.concatenate(after), np.concatenate(clean))
