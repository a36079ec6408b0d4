"""Who guesses ahead for a loaded model: found, measured and kept from reply to reply."""

from __future__ import annotations

from collections.abc import Callable

from app.chat_messages import LOOKUP
from app.engine.ahead import MOST, Costs, Draft, Guesser, Lookup, can_go_back, check_draft, measure_costs
from app.engine.model import Model
from app.protocol import LoadOptions
from converter.spec import QuenchError


class Drafting:
    """The guessers of ``model``. A draft model stays loaded until another one is asked for, or none."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._draft: Model | None = None
        self._known: dict[str, tuple[Guesser, Costs]] = {}

    def knows(self, name: str) -> bool:
        """Whether :meth:`find` has nothing to load or to measure."""
        return name in self._known

    def find(self, name: str, on_progress: Callable[[float], bool] | None = None) -> tuple[Guesser, Costs] | None:
        """The guesser ``name`` (``lookup``, or a model's file; empty: none) and what tokens cost.

        The first time it loads the draft model and measures, which empties the context.

        Raises:
            QuenchError: ``cannot_guess`` for a model that cannot take a guess back, ``other_vocabulary``, and the codes
                of :meth:`Model.load` for the draft model.
        """
        if name not in self._known:
            self.close()
            if not name:
                return None
            self._known[name] = self._made(name, on_progress)
        return self._known[name]

    def close(self) -> None:
        """Free the draft model, and forget what was measured."""
        self._known.clear()
        if self._draft is not None:
            self._draft.close()
            self._draft = None

    def _made(self, name: str, on_progress: Callable[[float], bool] | None) -> tuple[Guesser, Costs]:
        model = self._model
        if not can_go_back(model) or model.context <= 4 * MOST:
            raise QuenchError(
                "cannot_guess",
                "Tokens cannot be guessed ahead with this model.",
                f"{model.description}: its memory cannot take a wrong guess back.",
                "Switch guessing ahead off.",
            )
        if name == LOOKUP:
            return Lookup(), measure_costs(model)
        mine = model.options
        layers = 0 if mine.machines else mine.gpu_layers  # those of other machines are no measure for a small model
        options = LoadOptions(model.context, model.threads, layers, mine.kv_type, mine.flash_attention)
        draft = Model.load(name, options, on_progress, outputs=1)
        try:
            check_draft(model, draft)
            costs = measure_costs(model, draft)
        except BaseException:
            draft.close()
            raise
        self._draft = draft
        return Draft(draft), costs


__all__ = ["Drafting"]
