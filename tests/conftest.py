"""For all tests: one thread, as every model here is too small to share, and workers run beside."""

import os

# before torch is imported, and inherited by the commands that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if not torch.cuda.is_available():
    # before Triton is imported: its kernels run on the CPU then
    os.environ.setdefault("TRITON_INTERPRET", "1")
