"""What guessing ahead gains: tokens/s with and without it, in turns, on one model.

Usage: python -m tests.bench.ahead MODEL.gguf [--draft SMALLER.gguf] [--tokens 64] [--repeat 5] [--threads N]

Prints one JSON object. ``together`` is how many times as long as one token 2, 4 and 8 at once take. The guesser of
``known`` is told the answer beforehand, which is the most that guessing can gain here; ``lookup`` reads a question that
holds the beginning of its own answer; ``wrong`` guesses nothing but errors, which is what it can cost.
"""

from __future__ import annotations

import argparse
import json
import statistics

from app import hardware
from app.engine.ahead import Costs, Draft, Guesser, Lookup, check_draft, measure_costs
from app.engine.model import Model
from app.engine.reply import Extras
from app.protocol import ChatMessage, LoadOptions, Sampling
from tests.engine.test_ahead import Parrot

QUESTION = "Tell me a long story about a fox, a bear and the sea."


def rate(model: Model, tokens: list[int], sampling: Sampling, ahead: tuple[Guesser, Costs] | None) -> float:
    model.forget()
    stats = list(model.generate(tokens, sampling, extras=Extras(ahead=ahead)))[-1].stats
    assert stats is not None
    return stats.rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--draft", default="")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=hardware.physical_cores())
    options = parser.parse_args()
    load = LoadOptions(context=1024, threads=options.threads)
    sampling = Sampling(temperature=0.0, max_tokens=options.tokens)
    model = Model.load(options.model, load, outputs=16)
    costs = measure_costs(model)
    question = ChatMessage("user", QUESTION)
    start = model.prompt_tokens(model.render([question]))
    for _ in model.generate(start, sampling):
        pass
    answer = model.held.tokens[len(start) :]
    again = [*start, *answer, *start]
    ways: dict[str, tuple[list[int], tuple[Guesser, Costs] | None]] = {
        "alone": (start, None),
        "known": (start, (Parrot(answer), costs)),
        "wrong": (start, (Parrot(answer, 1), costs)),
        "again_alone": (again, None),
        "lookup": (again, (Lookup(), costs)),
    }
    if options.draft:
        draft = Model.load(options.draft, load, outputs=1)
        check_draft(model, draft)
        ways["draft"] = (start, (Draft(draft), measure_costs(model, draft)))
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.repeat):
        for way, (tokens, ahead) in ways.items():
            rates[way].append(rate(model, tokens, sampling, ahead))
    found = {way: round(statistics.median(values), 2) for way, values in rates.items()}
    together = [round(seconds / costs.seconds[0], 2) for seconds in costs.seconds[1:]]
    print(json.dumps({"cpu": hardware.cpu_name(), "threads": options.threads, "together": together, **found}, indent=1))


if __name__ == "__main__":
    main()
