"""llama.cpp's own converter, and transformers, as the oracle of every architecture.

``models`` is the table of architectures. ``environment`` makes, once, an environment of its own with torch,
transformers and the converter of the pinned engine's source archive. ``worker`` runs there: it builds tiny random
models, converts them and computes their logits. ``compare`` holds ours against it. ``record`` writes the facts that
the quick tests use. See ``test_reference``.
"""
