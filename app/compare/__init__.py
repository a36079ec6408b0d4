"""Comparing answers: who said what, where answers part, which one people prefer. Knows no window.

``results`` what a comparison holds · ``align`` where two answers part · ``votes`` ``rounds`` the blind test ·
``batches`` in which order prompts and models are taken · ``recipes`` models that are made for a comparison ·
``documents`` ``page`` what it looks like outside · ``run`` the same without a window.
"""
