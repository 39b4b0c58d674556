"""Inference runtimes behind the boundary of harness.backend, one module each, named by the runtime's usual import alias."""
