"""Plain words for the terms of the trade. One table feeds tooltips and the help."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication


def _tr(text: str) -> str:
    return QCoreApplication.translate("glossary", text)


GLOSSARY: dict[str, str] = {
    "GGUF": "One file with everything an engine needs of a model: weights, vocabulary, settings.",
    "Quantization": "Storing each weight with fewer bits. Smaller and faster, the answers a little different.",
    "Bits per weight": "Bits that one weight takes on average. 16 is the original, 4 to 5 the usual choice.",
    "K-quants": "Q2_K to Q6_K: types that store weights in blocks of 256 with scales of their own.",
    "BF16, F16": "16 bits for each weight: the precision that models are published in.",
    "KLD": "How far the answers moved from the reference, in nats, averaged over many tokens. 0 is the same; "
    "below 0.03 is hard to notice, above 0.2 easy.",
    "Perplexity": "How surprised a model is by a text. Lower is better; only numbers on the same text can be compared.",
    "Top-1 agreement": "How often the smaller model and its reference think of the same next token first.",
    "Top-5 agreement": "How many of the five likeliest next tokens are the same for both models.",
    "Reverse KLD": "The same distance seen from the smaller model: large where it believes in what the reference "
    "does not.",
    "Shift of the right token": "How much the probability of the word that really came fell or rose, for nine tokens "
    "in ten.",
    "Token": "A piece of text, about three quarters of an English word.",
    "Context": "How many tokens the model has in view at once: your messages and its answers together.",
    "KV cache": "Memory in which the engine keeps what it has read. It grows with the context.",
    "Compute buffer": "Memory that the engine needs while it works, beside weights and KV cache.",
    "Importance matrix": "A measurement of which weights matter most, made on a text. It makes small types better.",
    "Temperature": "How freely the next token is drawn. 0 always takes the likeliest.",
    "Seed": "The number that drawing tokens begins with. The same seed, model and question give the same answer again.",
    "JSON schema": "A description of what a JSON text must look like. An answer can be held to one.",
    "Grammar (GBNF)": "Rules for which texts are allowed, in llama.cpp's notation. An answer can be held to one.",
    "Tool call": "A model's wish to have a function called, as text. Nothing is ever run here.",
    "Pareto front": "The files for which no other is both smaller and better.",
    "Roofline": "The share of this machine's memory bandwidth in use while writing. 100 % is the limit.",
}


def explain(term: str) -> str:
    """The tooltip for a term: ``term: meaning``; just the term if it is not in the table."""
    meaning = GLOSSARY.get(term)
    return f"{_tr(term)}: {_tr(meaning)}" if meaning else term
