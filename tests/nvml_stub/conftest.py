"""The stub's own tests make hosts as other tests do."""

from nvml_stub.fixtures import make_gpus

__all__ = ["make_gpus"]
