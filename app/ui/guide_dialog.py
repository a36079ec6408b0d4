"""Three questions, and the recipe for the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QDialog, QDoubleSpinBox, QFormLayout, QHBoxLayout, QVBoxLayout, QWidget

from app import guide, hardware
from app.ui import format as fmt
from app.ui.widgets import button, label, type_words

if TYPE_CHECKING:
    from app.ui.context import Context


class GuideDialog(QDialog):
    """``source``: the model that is asked about; its size is filled in, and Convert opens with it."""

    def __init__(self, context: Context, parent: QWidget | None = None, source: str = "") -> None:
        super().__init__(parent)
        self._context = context
        self._source = source
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Which recipe?"))
        self.setMinimumWidth(520)
        self.hardware = QComboBox()
        self.hardware.addItem(self.tr("This computer's processor"), guide.PROCESSOR)
        self.hardware.addItem(self.tr("A graphics card"), guide.GRAPHICS)
        self.hardware.setAccessibleName(self.tr("Hardware that the model runs on"))
        self.memory = _number(0.5, 2048, " GiB", self.tr("Memory for the model"))
        self.memory.setValue(hardware.memory_available() / guide.GIB)
        self.use = QComboBox()
        for words, use in (
            (self.tr("Chat"), guide.CHAT),
            (self.tr("Code, mathematics, facts"), guide.EXACT),
            (self.tr("Long documents"), guide.LONG),
            (self.tr("Several users at once"), guide.SERVING),
        ):
            self.use.addItem(words, use)
        self.use.setAccessibleName(self.tr("What the model is for"))
        self.parameters = _number(0.01, 2000, self.tr(" billion"), self.tr("Parameters of the model"))
        info = context.library.entry(source) if source else None
        self.parameters.setValue(info.parameters / 1e9 if info is not None else 8.0)
        self.recipe = label("", "title")
        self.facts = label("", "muted", wrap=True)
        self.reason = label("", "", wrap=True)
        self.make_button = button(self.tr("Make it"), self.make_it, "primary")
        self._lay_out()
        for box in (self.hardware, self.use):
            box.currentIndexChanged.connect(self._answer)
        for number in (self.memory, self.parameters):
            number.valueChanged.connect(self._answer)
        self._answer()

    def question(self) -> guide.Question:
        """What is asked now."""
        return guide.Question(
            memory=round(self.memory.value() * guide.GIB),
            hardware=str(self.hardware.currentData()),
            use=str(self.use.currentData()),
            parameters=self.parameters.value() * 1e9,
        )

    def make_it(self) -> None:
        """Open Convert with the recipe."""
        found = guide.advise(self.question())
        request: dict[str, object] = {"types": [found.recipe]}
        if self._source:
            request["source"] = self._source
        self._context.navigate.emit("convert", request)
        self.accept()

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(8)
        form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        form.addRow(self.tr("Runs on"), self.hardware)
        form.addRow(self.tr("Memory"), self.memory)
        form.addRow(self.tr("For"), self.use)
        form.addRow(self.tr("Model"), self.parameters)
        bottom = QHBoxLayout()
        bottom.setSpacing(8)
        bottom.addStretch(1)
        bottom.addWidget(button(self.tr("Close"), self.reject))
        bottom.addWidget(self.make_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 20, 24, 16)
        layout.setSpacing(12)
        layout.addLayout(form)
        for widget in (self.recipe, self.facts, self.reason):
            layout.addWidget(widget)
        layout.addStretch(1)
        layout.addLayout(bottom)

    def _answer(self, *_: object) -> None:
        found = guide.advise(self.question())
        self.make_button.setEnabled(bool(found.recipe))
        self.recipe.setText(found.recipe or self.tr("Nothing fits"))
        self.recipe.setToolTip(type_words(found.recipe) if found.recipe else "")
        facts = []
        if found.recipe:
            facts.append(self.tr("File about {0}").format(fmt.size(found.bytes)))
        tokens = fmt.number(guide.CONTEXTS[str(self.use.currentData())])
        facts.append(self.tr("context of {0} tokens about {1}").format(tokens, fmt.size(found.cache)))
        self.facts.setText(" · ".join(facts))
        words = [found.reason]
        if found.importance:
            words.append(self.tr("Take an importance matrix: Convert makes one from calibration text."))
        if found.fitted:
            words.append(self.tr("“Fit to size” in Convert loses less at the same size."))
        if found.elsewhere:
            words.append(found.elsewhere)
        self.reason.setText("\n".join(words))


def _number(least: float, most: float, suffix: str, name: str) -> QDoubleSpinBox:
    made = QDoubleSpinBox()
    made.setRange(least, most)
    made.setDecimals(2 if least < 0.1 else 1)
    made.setSuffix(suffix)
    made.lineEdit().setTextMargins(6, 0, 0, 0)  # as the window gives them to its pages
    for each in (made, made.lineEdit()):
        each.setAccessibleName(name)
    return made


__all__ = ["GuideDialog"]
