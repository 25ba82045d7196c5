import signal
import subprocess
import sys

import pytest

from learners.process import STOPPED, BusyError, alone

#: A process that starts a child, which names itself and then waits to be stopped.
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(600)
"""

CHILD = """
import os, time
from learners.process import die_with, stop_on_sigterm
stop_on_sigterm()
die_with(os.getppid())
print(os.getpid(), flush=True)
time.sleep(600)
"""


def test_two_learners_never_work_in_one_job(tmp_path):
    with alone(tmp_path), pytest.raises(BusyError, match="another learner is at work"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_sigterm_ends_with_143():
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.terminate()
        assert child.wait(60) == STOPPED == 143


def test_a_learner_does_not_outlive_a_killed_parent():
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.send_signal(signal.SIGKILL)
        # The child holds the other end of the pipe: it reads as ended once the child is gone.
        assert parent.stdout.read() == b""
