"""Knowledge distillation: trains a model to match another one."""

from sepconv_layers.convert.distillation.training import distill

__all__ = ["distill"]
