"""Inference runtimes behind the boundary of harness.backend.

One module or package each, named by the alias that people import the runtime under.
"""
