"""A text that is hard to cut: two vocabularies that cut it alike are the same one, as good as always."""

PROBE = (
    "The quick brown fox jumps over 13 lazy dogs; déjà vu, naïve — Straße, 北京, Москва!\n"
    "\tfor (int i = 0; i < 10; i++) { x[i] += 3.14; }\n\n<|im_start|>user"
)

__all__ = ["PROBE"]
