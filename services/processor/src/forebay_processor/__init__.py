"""The processor service."""

import os

# numpy's algebra library starts a thread per core when it is loaded; nothing here uses it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
