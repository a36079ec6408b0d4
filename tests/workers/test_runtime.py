"""The worker runtime through real child processes."""

from __future__ import annotations

import time

import pytest

from app.child import Child
from app.protocol import Cancelled, Failed, Inspect, Stop
from app.workers.runtime import Throttle
from tests.workers.small import small_worker


def run(folder, body, *commands):
    """(events, verdict, log) of a small worker that got ``commands``."""
    with Child("small", small_worker(folder, body)) as process:
        for command in commands:
            process.send(command)
        events = list(process.events())
        return events, process.wait(120), process.log_tail()


def test_commands_arrive_in_order_and_cancel_ends_them(tmp_path):
    body = """
        for command in connection.commands():
            connection.send(ScanDone(command.request, 0))
            if command.request == 3:
                connection.send(Status("last", 1, 1))
                connection.cancelled.wait(120)
    """
    with Child("small", small_worker(tmp_path, body)) as process:
        for number in (1, 2, 3):
            process.send(Inspect(number, "x"))
        events = process.events()
        assert [next(events).request for _ in range(3)] == [1, 2, 3]
        next(events)
        process.cancel()
        assert list(events) == [Cancelled()]
        assert process.wait(120).cancelled


def test_a_quench_error_becomes_failed_with_its_exit_status(tmp_path):
    events, end, _ = run(tmp_path, "raise QuenchError('no_space', 'Full.', 'disk', 'delete', exit_status=4)")
    assert events == [Failed("no_space", "Full.", "disk", "delete", 0, 4)]
    assert end.error.code == "no_space"
    assert end.error.exit_status == 4


def test_any_other_exception_becomes_internal_with_the_traceback(tmp_path):
    events, end, log = run(tmp_path, "{}['missing key']")
    assert [event.code for event in events] == ["internal"]
    assert "KeyError: 'missing key'" in events[0].detail
    assert "KeyError: 'missing key'" in log
    assert end.error.code == "internal"
    assert end.error.exit_status == 1


@pytest.mark.parametrize(
    ("body", "code"), [("raise MemoryError", "no_memory"), ("sys.exit(0)", "internal")], ids=["memory", "exit"]
)
def test_no_way_out_is_silent(tmp_path, body, code):
    events, end, _ = run(tmp_path, body)
    assert [event.code for event in events] == [code]
    assert end.error.code == code


def test_stopping_because_asked_to_is_cancelled_and_not_failed(tmp_path):
    body = """
        connection.send(Status("up", 0, 1))
        connection.cancelled.wait(120)
        raise Stopped
    """
    with Child("small", small_worker(tmp_path, body)) as process:
        events = process.events()
        next(events)
        process.cancel()
        assert list(events) == [Cancelled()]
        assert process.wait(120).cancelled


def test_a_serve_that_returns_without_a_word_is_not_a_success(tmp_path):
    events, end, _ = run(tmp_path, "pass")
    assert events == []
    assert end.error.code == "engine_died"


def test_poll_does_not_wait_for_what_does_not_come(tmp_path):
    body = """
        start = time.monotonic()
        first = connection.poll()
        connection.send(Status(f"{first}", time.monotonic() - start, 1))
        second = connection.poll(30)
        connection.send(Status(type(second).__name__, 0, 1))
    """
    with Child("small", small_worker(tmp_path, body)) as process:
        events = process.events()
        first = next(events)
        assert first.label == "None"
        assert first.done < 1
        process.send(Inspect(1, "x"))
        assert next(events).label == "Inspect"


def test_a_listener_sees_every_command_first_also_what_came_before_it(tmp_path):
    body = """
        while connection._commands.qsize() < 2:
            time.sleep(0.01)
        seen = []
        third = threading.Event()
        def listener(command):
            seen.append(command.request)
            if len(seen) == 3:
                third.set()
            return isinstance(command, Stop)
        connection.intercept(listener)
        connection.send(Status("listening", 0, 1))
        third.wait(120)
        left = [connection.poll().request, connection.poll()]
        connection.send(Status(f"{seen} {left}", 0, 1))
    """
    with Child("small", small_worker(tmp_path, body)) as process:
        process.send(Stop(1))
        process.send(Inspect(2, "x"))
        events = process.events()
        next(events)
        process.send(Stop(3))
        assert next(events).label == "[1, 2, 3] [2, None]"


def test_a_line_that_is_no_command_is_an_error(tmp_path):
    with Child("small", small_worker(tmp_path, "list(connection.commands())")) as process:
        process._process.stdin.write(b'{"message":"dance"}\n')
        process._process.stdin.flush()
        assert [event.code for event in process.events()] == ["bad_message"]
        assert process.wait(120).error.code == "bad_message"


def test_messages_of_any_length_arrive_whole_from_several_threads(tmp_path):
    body = """
        def talk(letter):
            for number in range(20):
                connection.send(Status(letter * 50_000, number, 20))
        threads = [threading.Thread(target=talk, args=(letter,)) for letter in "abc"]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        connection.send(BenchResult((), "", 0.0))
    """
    events, end, _ = run(tmp_path, body)
    assert end.ok
    assert len(events) == 61
    for letter in "abc":
        mine = [event for event in events[:-1] if event.label[0] == letter]
        assert [event.done for event in mine] == list(range(20))
        assert all(event.label == letter * 50_000 for event in mine)


def test_throttle_lets_only_so_many_through():
    throttle = Throttle(50)
    passed, start = 0, time.monotonic()
    while time.monotonic() - start < 0.2:
        passed += throttle.ready()
    assert 1 <= passed <= 11
