"""LoRA adapters in the inspector: files that change the loaded model, each with a slider that acts at once.

A model's adapters are remembered, and used again when it is loaded the next time.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from weakref import WeakSet

import msgspec
from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QFileDialog, QGridLayout, QHBoxLayout, QSlider, QVBoxLayout, QWidget

from app.adapter_messages import Adapter, AdaptersSet
from app.protocol import Failed
from app.ui.context import Context
from app.ui.engines import DEAD, Engine
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, button, icon_button, label, tip
from converter.spec import QuenchError

MOST_SCALE = 200
"""The slider's end, in hundredths."""
_WAIT_MS = 120
MAX_REMEMBERED = 64
"""Models whose adapters are remembered, and adapters of each."""


class AdapterRow(QWidget):
    """One adapter: its name, its scale, and a button that takes it away."""

    def __init__(self, context: Context, adapter: Adapter, owner: AdapterList) -> None:
        super().__init__(owner)
        self.path = adapter.path
        name = PurePath(adapter.path).name
        title = ElidedLabel(name, Qt.TextElideMode.ElideMiddle)
        title.setToolTip(tip(adapter.path))
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, MOST_SCALE)
        self.slider.setPageStep(10)
        self.slider.setAccessibleName(owner.tr("Scale of {0}").format(name))
        self.slider.setToolTip(owner.tr("How strongly it acts: 1 is as it was trained, 0 is not at all."))
        self.slider.setValue(round(adapter.scale * 100))
        self._value = label("", "number")
        self._value.setFont(context.theme.mono(12))
        self._value.setMinimumWidth(36)
        self._value.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        words = owner.tr("Remove {0}").format(name)
        remove = icon_button(context.theme, "close", words, lambda: owner.remove(self.path))
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(0)
        grid.addWidget(title, 0, 0, 1, 2)
        grid.addWidget(remove, 0, 2, 2, 1)
        grid.addWidget(self.slider, 1, 0)
        grid.addWidget(self._value, 1, 1)
        self._show()
        self.slider.valueChanged.connect(self._show)
        self.slider.valueChanged.connect(owner.changed)

    def adapter(self) -> Adapter:
        return Adapter(self.path, self.slider.value() / 100)

    def _show(self) -> None:
        self._value.setText(f"{self.slider.value() / 100:.2f}")


class AdapterList(QWidget):
    """The adapters of the followed engine. What the engine refuses goes away again, with a sentence."""

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._engine: Engine | None = None
        self._request = 0
        self._restored: WeakSet[Engine] = WeakSet()
        self.rows: list[AdapterRow] = []
        self._box = QVBoxLayout()
        self._box.setSpacing(8)
        self.problem = label("", "small", wrap=True)
        set_role(self.problem, "warn")
        self.problem.hide()
        self.add_button = button(self.tr("Add an adapter…"), self._ask)
        self.add_button.setToolTip(self.tr("A LoRA adapter as a GGUF file, made for this model."))
        foot = QHBoxLayout()
        foot.addWidget(self.add_button)
        foot.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(self._box)
        layout.addWidget(self.problem)
        layout.addLayout(foot)
        self._timer = QTimer(self, singleShot=True, interval=_WAIT_MS)
        self._timer.timeout.connect(self._send)
        context.closed.connect(self._timer.stop)
        self.follow(None)

    def follow(self, engine: Engine | None) -> None:
        """Show this engine's adapters from now on."""
        if self._engine is not None:
            self._engine.adapted.disconnect(self._adapted)
            self._engine.failed.disconnect(self._failed)
            self._engine.state_changed.disconnect(self._show_state)
        self._engine = engine
        self._timer.stop()
        self.problem.hide()
        if engine is not None:
            engine.adapted.connect(self._adapted)
            engine.failed.connect(self._failed)
            engine.state_changed.connect(self._show_state)
        self._show(engine.adapters if engine is not None else ())
        self._show_state()
        if engine is not None and engine not in self._restored:
            self._restored.add(engine)
            self._restore(engine)

    def _restore(self, engine: Engine) -> None:
        """Use again what the model was used with last. Files that are gone are named, and forgotten."""
        remembered = self._context.settings.adapters.get(engine.path, ())[:MAX_REMEMBERED]
        if not remembered or engine.adapters or engine.is_remote:
            return
        there = [adapter for adapter in remembered if Path(adapter.path).is_file()]
        gone = [PurePath(adapter.path).name for adapter in remembered if adapter not in there]
        self._show([msgspec.structs.replace(each, scale=_usable(each.scale)) for each in there])
        if there:
            self._send()
        if gone:
            self._remember(engine.path, tuple(there))
            one, many = self.tr("{0} is gone and was left out."), self.tr("{0} are gone and were left out.")
            self.problem.setText((one if len(gone) == 1 else many).format(", ".join(gone)))
            self.problem.show()

    def _remember(self, path: str, adapters: tuple[Adapter, ...]) -> None:
        kept = {model: each for model, each in self._context.settings.adapters.items() if model != path}
        if adapters:
            kept[path] = adapters[:MAX_REMEMBERED]
        newest = list(kept.items())[-MAX_REMEMBERED:]
        self._context.update_settings(adapters=dict(newest))

    def add(self, path: str) -> None:
        """Use a file from now on, as it was trained."""
        if any(row.path == path for row in self.rows):
            return
        self._append(Adapter(path))
        self.changed()

    def remove(self, path: str) -> None:
        """Use a file no longer."""
        self._show([row.adapter() for row in self.rows if row.path != path])
        self.changed()

    def changed(self) -> None:
        """A slider was moved: the engine hears of it in a moment."""
        self.problem.hide()
        self._timer.start()

    def _ask(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, self.tr("Choose an adapter"), "", self.tr("Adapters (*.gguf)"))
        if path:
            self.add(path)

    def _send(self) -> None:
        if self._engine is not None and self._engine.state != DEAD:
            self._request = self._engine.adapt(tuple(row.adapter() for row in self.rows))

    def _adapted(self, event: AdaptersSet) -> None:
        if event.request != self._request or self._engine is None:
            return
        self._remember(self._engine.path, event.adapters)
        if [row.path for row in self.rows] != [each.path for each in event.adapters]:
            self._show(event.adapters)

    def _failed(self, failure: Failed | QuenchError) -> None:
        if not isinstance(failure, Failed) or failure.request != self._request or self._engine is None:
            return
        self._show(self._engine.adapters)
        self.problem.setText(f"{failure.title} {failure.detail}")
        self.problem.show()

    def _show(self, adapters: tuple[Adapter, ...] | list[Adapter]) -> None:
        for row in self.rows:
            self._box.removeWidget(row)
            row.hide()
            row.deleteLater()
        self.rows = []
        for adapter in adapters:
            self._append(adapter)

    def _append(self, adapter: Adapter) -> None:
        row = AdapterRow(self._context, adapter, self)
        self.rows.append(row)
        self._box.addWidget(row)

    def _show_state(self) -> None:
        self.add_button.setEnabled(self._engine is not None and self._engine.state != DEAD)


def _usable(scale: float) -> float:
    """A scale from a file that anybody may have written, as the slider has it."""
    return scale if 0 <= scale <= MOST_SCALE / 100 else 1.0


__all__ = ["AdapterList", "AdapterRow"]
