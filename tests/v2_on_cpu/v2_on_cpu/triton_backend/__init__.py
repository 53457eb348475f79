"""A Triton backend that compiles nothing: vLLM runs the V2 model runner on a CPU only where a backend ``cpu`` exists.

Triton imports all of its backends. Without the interpreter this one refuses, and with it Triton as a whole: nothing
takes a machine for one that can compile kernels.
"""

import os

if os.environ.get("TRITON_INTERPRET") != "1":
    raise ImportError("Triton runs on this machine only with TRITON_INTERPRET=1")
