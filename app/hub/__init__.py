"""The Hugging Face hub: find a model, see what it is and whether it fits, and say exactly what a download takes.

huggingface_hub is loaded when the first question is asked, never by an import; nothing here knows Qt. Whoever asks
sits in a process or a thread that may wait: the network is slow. Everything that the hub answers is bounded and
checked, for a repository can be made by anybody, and everything that goes wrong is a ``QuenchError`` with what to do.

* ``access``      endpoint, proxy, offline mode, cache and token, from environment, settings and keyring
* ``client``      huggingface_hub on our HTTP client: limits, time-outs, errors in words
* ``search``      models by text, order and filters          ``repository``  one model: files, groups, card, fits
* ``remote``      headers of files that are still there      ``planning``    files and bytes of a download
* ``transfer``    one file into the cache: resume, checksum  ``messages``    the structs of all of them
"""
