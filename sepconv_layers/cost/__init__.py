"""The cost of a model: multiply-accumulates, parameters and memory traffic, layer by layer.

`profile` traces a model on abstract tensors, so nothing is computed, and looks up the
multiply-accumulates (MACs) of each layer that is called in `RULES`. The rules follow the
convention of the papers: convolutions, dense layers, attention and recurrent layers count;
element-wise operations are free. A layer without a rule is reported, never counted as zero.
"""

from sepconv_layers.cost.report import LayerCost, Profile
from sepconv_layers.cost.rules import RULES, separable_ratio
from sepconv_layers.cost.trace import profile

__all__ = ["RULES", "LayerCost", "Profile", "profile", "separable_ratio"]
