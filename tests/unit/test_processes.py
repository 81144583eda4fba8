"""What the operating system does for our processes."""

import subprocess
import sys

PROGRAM = """
import resource
from ebbtide.processes import keep_freed_memory

keep_freed_memory(4 * 2**20)
pair = [bytearray(b"x") * 2**20, bytearray(b"x") * 2**20]
del pair
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    pair = [bytearray(b"x") * 2**20, bytearray(b"x") * 2**20]
    del pair
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_what_was_freed_is_used_again_without_the_kernel() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    # 100 MiB are 25,600 pages.
    assert int(done.stdout) < 1000
