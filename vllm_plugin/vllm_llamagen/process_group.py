"""Gives the engine's processes their own process group.

A Ctrl-C in a terminal reaches every process of the group. The engine must not see it: the server first lets requests in
flight finish and then stops the engine. Processes outside the group do not end with it, so they watch their parent.
"""

import multiprocessing
import os
import threading
from functools import cache

OWN_PROCESS_GROUP = "LLAMAGEN_OWN_PROCESS_GROUP"
"""Environment variable. 1: the engine's processes leave the group of their parent, and end when their parent ends."""


def leave_process_group_if_asked() -> None:
    """Leaves the parent's process group if the environment asks for it. Does nothing in the first process."""
    if os.environ.get(OWN_PROCESS_GROUP) == "1":
        _leave_process_group()


@cache
def _leave_process_group() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    os.setpgrp()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
