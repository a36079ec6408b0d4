"""Chat templates: untrusted programs in a model file, rendered as Hugging Face's libraries render them, and bounded.

A template is Jinja. It runs in the immutable sandbox, with a limit on its source, on its output, on its time and on
the values that it computes: a sandbox alone stops neither an endless loop nor a string that doubles sixty times.
"""

from __future__ import annotations

import ctypes
import datetime
import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from app.protocol import ChatMessage
from converter.spec import QuenchError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Used for a model that brings no template of its own."""

MAX_SOURCE = 1 << 20
MAX_OUTPUT = 32 << 20
"""Characters of a template, and of a rendered prompt."""

SECONDS = 2.0
"""Time for one rendering; real templates take milliseconds."""

_MAX_VALUE = 64 << 20  # characters or items that one operation of a template may make
_MAX_BITS = 4096  # size of an integer that a template may compute
_EXTRA_MEMORY = 1 << 30  # bytes that the process may grow by while a template runs


class ChatTemplate:
    """One model's template, compiled.

    Args:
        source: the Jinja source, or None for ChatML.
        special: texts of special tokens under their Hugging Face names (``bos_token``, ``eos_token`` ...).

    Raises:
        QuenchError: ``bad_template`` when it does not compile.
    """

    def __init__(self, source: str | None, special: Mapping[str, str] | None = None) -> None:
        self.source = CHATML if source is None else source
        self._special = dict(special or {})
        if len(self.source) > MAX_SOURCE:
            raise _bad(f"It has {len(self.source)} characters; the limit is {MAX_SOURCE}.")
        with _bounded():
            self._template = _environment().from_string(self.source)

    def knows_tools(self) -> bool:
        """Whether tools that are offered change what it writes."""
        question = (ChatMessage("user", "?"),)
        try:
            return self.render(question, tools=_TOOL) != self.render(question)
        except QuenchError:
            return False

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = True, tools: str = "") -> str:
        """The prompt for ``messages``; ``tools`` is JSON, a list of what may be called.

        Raises:
            QuenchError: ``template_refused`` when the template itself objects to the messages, ``template_limit``
                when it takes too long or makes too much, ``bad_template`` for any other failure in it.
        """
        parts: list[str] = []
        size = 0
        with _bounded():
            variables: dict[str, Any] = {
                **self._special,
                "messages": [_plain(message) for message in messages],
                "tools": json.loads(tools) if tools else None,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            }
            for part in self._template.generate(variables):
                size += len(part)
                if size > MAX_OUTPUT:
                    raise _Limit(f"Its output passes {MAX_OUTPUT} characters.")
                parts.append(part)
            return "".join(parts)


_TOOL = (
    '[{"type": "function", "function": {"name": "f", "description": "f", "parameters": {"type": "object", '
    '"properties": {"x": {"type": "string", "description": "x"}}, "required": ["x"]}}}]'
)


def _plain(message: ChatMessage) -> dict[str, Any]:
    """A message as templates know it."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = json.loads(message.tool_calls)
    if message.tool_call_id:
        plain["tool_call_id"] = message.tool_call_id
    return plain


class _Limit(BaseException):
    """A bound was passed. Not an ``Exception``, so that no handler inside a template swallows it."""


class _RefusedError(Exception):
    """The template called ``raise_exception``."""


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with a bound on what one operation may make."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "//", "/", "-"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "+" and _length(left) + _length(right) > _MAX_VALUE:
            raise _Limit("It joins values that are too long.")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return _BoundedConcat().visit(tree)  # type: ignore[no-any-return]


class _BoundedConcat(NodeTransformer):
    """Turns ``a ~ b`` into a filter of ours, since the sandbox has no hook for it."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        first, *rest = (self.visit(part) for part in node.nodes)
        return nodes.Filter(first, "bounded_concat", rest, [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """``{% generation %} ... {% endgeneration %}`` marks the model's own words for training; here it shows its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own way to declare it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.filters["bounded_concat"] = _concat
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter escapes HTML characters, which would change the prompt."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise _RefusedError(str(message))


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _concat(first: Any, *rest: Any) -> str:
    parts = [str(part) for part in (first, *rest)]
    if sum(map(len, parts)) > _MAX_VALUE:
        raise _Limit("It joins values that are too long.")
    return "".join(parts)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > _MAX_BITS:
            raise _Limit("It computes a number that is too large.")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int) and _length(value) * times > _MAX_VALUE:
            raise _Limit("It repeats a value too often.")


def _check_power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > _MAX_BITS:
        raise _Limit("It computes a number that is too large.")


@contextmanager
def _bounded() -> Iterator[None]:
    """Run a piece of template work within its time and memory, and turn what it raises into QuenchErrors."""
    try:
        with _memory_limit(), _Deadline(SECONDS):
            yield
    except _Limit as error:
        raise _limit(str(error)) from None
    except (MemoryError, OverflowError, RecursionError) as error:
        raise _limit(f"{type(error).__name__}: {error}") from error
    except _RefusedError as error:
        raise QuenchError(
            "template_refused",
            "The model's chat template does not accept this conversation.",
            str(error),
            "Some models take no system prompt, or want user and assistant to alternate. Change the conversation.",
        ) from error
    except SecurityError as error:
        raise _bad(f"It tried something that is not allowed: {error}") from error
    except jinja2.TemplateSyntaxError as error:
        raise _bad(f"Line {error.lineno}: {error.message}") from error
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _bad(f"{type(error).__name__}: {error}") from error


def _bad(detail: str) -> QuenchError:
    return QuenchError(
        "bad_template",
        "The model's chat template does not work.",
        detail,
        "The file was made with a faulty template. Get another version of the model, or convert it again.",
    )


def _limit(detail: str) -> QuenchError:
    return QuenchError(
        "template_limit",
        "The model's chat template takes too much time or memory.",
        detail,
        "The template may be faulty or hostile. Get the model from a source that you trust.",
    )


class _Deadline:
    """Raises :class:`_Limit` in the entering thread after some seconds, even out of a loop that prints nothing.

    The interpreter delivers it between two steps of Python code; a single step is kept short by the other limits.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._over = False
        self._fired = False
        self._timer = threading.Timer(seconds, self._fire)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with self._lock:
            self._over = True
            fired = self._fired
        self._timer.cancel()
        if fired:
            # Perhaps not yet delivered: take it back, so that it cannot hit what comes next.
            _raise_in(self._thread, None)
        self._timer.join()
        if fired and not isinstance(error, _Limit):
            raise _Limit(f"It ran for more than {self._seconds:g} seconds.")

    def _fire(self) -> None:
        with self._lock:
            if not self._over:
                self._fired = True
                _raise_in(self._thread, _OutOfTime)


class _OutOfTime(_Limit):
    def __init__(self) -> None:
        super().__init__(f"It ran for more than {SECONDS:g} seconds.")


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(kind) if kind is not None else None
    )


@contextmanager
def _memory_limit() -> Iterator[None]:
    """Let the process grow by a gigabyte at most while a template runs, where the system can say so."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no need of pathlib for one number
        used = int(file.read().split()[0]) * resource.getpagesize()
    limit = used + _EXTRA_MEMORY
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    if before[0] != resource.RLIM_INFINITY:
        limit = min(limit, before[0])
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


__all__ = ["CHATML", "MAX_OUTPUT", "MAX_SOURCE", "SECONDS", "ChatTemplate"]
