"""Libraries that only some baselines need."""

import importlib
from types import ModuleType

from demix_lite.errors import DemixError


def cleanlab(module: str) -> ModuleType:
    """Import a module of Cleanlab.

    Raises
    ------
    DemixError
        If Cleanlab, or what it needs, is not installed.

    Examples
    --------
    >>> cleanlab("rank").get_label_quality_scores.__name__
    'get_label_quality_scores'
    """
    try:
        return importlib.import_module(f"cleanlab.{module}")
    except ImportError as error:
        raise DemixError(
            "the baselines ddc and datalab need Cleanlab: pip install 'demix_lite[baselines]'."
        ) from error
