"""The warm process of the tests: both of its answers may come before the first is read."""

import sys
from pathlib import Path

from tests.warm import Warm

AT_ONCE = """
import json, os, sys
request = json.loads(sys.stdin.readline())
for name in ("out", "err"):
    open(request[name], "w").write(name)
os.write(1, b"%d\\n7\\n" % os.getpid())
sys.stdin.read()
"""


def test_an_end_that_comes_with_the_child_s_number_is_not_waited_for(tmp_path: Path) -> None:
    warm = Warm({}, [sys.executable, "-S", "-c", AT_ONCE])
    try:
        done = warm.run(["regraft", "x" * 200_000], tmp_path, {}, timeout=5)
    finally:
        warm.close()
    assert (done.returncode, done.stdout, done.stderr) == (7, "out", "err")
