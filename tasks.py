"""The tasks live in the package, so that another repository can mount them too."""

from polyladder_ops.tasks import ns

__all__ = ["ns"]
