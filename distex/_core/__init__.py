"""The compiled core: framing, values, the asyncio protocol, dispatch and execution.

The sources are in ``_core/*.pyx`` at the top of the project; the headers (``.pxd``) and the
stubs (``.pyi``) are here, beside the built modules.
"""
