"""One encoder trained on many small biomedical image data sets at once: the names that users need.

They are loaded when they are first used (PEP 562), so that this import takes milliseconds; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
