"""The low-level bindings of llama-cpp-python, without the rest of its package.

``import llama_cpp`` also brings the high-level class, which is not used here, and with it jinja2, a cache on disk and
more: a fifth of the time in which a worker starts. So the package stands in empty while its modules are loaded. Whoever
imports it elsewhere in the process still gets it whole, over the same modules and the same library.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any


def _load() -> tuple[Any, Any, Any]:
    found = importlib.util.find_spec("llama_cpp")
    stands_in = found is not None and "llama_cpp" not in sys.modules
    if found is not None and stands_in:
        sys.modules["llama_cpp"] = importlib.util.module_from_spec(found)
    try:
        import llama_cpp._ctypes_extensions as loader
        import llama_cpp._ggml as ggml
        import llama_cpp.llama_cpp as lib

        return lib, ggml, loader
    finally:
        if stands_in:
            del sys.modules["llama_cpp"]


lib, ggml, loader = _load()
"""The raw functions, one to one with llama.h and ggml.h, and what loads a library. They release the interpreter lock.
"""
