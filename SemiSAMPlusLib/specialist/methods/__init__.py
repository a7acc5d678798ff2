"""The methods by name: how the specialist learns from unlabelled cases, one file each.

A user's own comes through the entry-point group ``semisamplus.methods``: a subclass of
:class:`~SemiSAMPlusLib.specialist.methods.base.Method`.
"""

from __future__ import annotations

from ...plugins import find_plugin
from .base import Method

METHODS = {
    "supervised": f"{__name__}.supervised:Supervised",
    "mean-teacher": f"{__name__}.mean_teacher:MeanTeacher",
    "ua-mt": f"{__name__}.ua_mt:UncertaintyAwareMeanTeacher",
    "dan": f"{__name__}.dan:DeepAdversarialNetwork",
    "cps": f"{__name__}.cps:CrossPseudoSupervision",
    "copy-paste": f"{__name__}.copy_paste:CopyPaste",
}


def find_method(name: str) -> type[Method]:
    """Return the method's class.

    Raises:
        ConfigError: If there is no such method.
    """
    return find_plugin("methods", name, METHODS)
