# SPDX-License-Identifier: Apache-2.0
"""A process on the software GPU, for tests that look at it from outside.

    python soft_cuda_child.py ROLE

init        prints the result of cuInit and whether the device says that MPS is there
endless     prints "running" when a kernel that never ends runs, then the error that ends it,
            then "again" and the error of a second wait; it ends with its standard input
copy        prints the results of an asynchronous fill of unmapped addresses, and of the wait for it
fork        prints what a child of an initialised process is told, and whether the parent goes on
threads     prints how many threads there are: before cuInit, with a context, with work
"""

import os
import sys

from mpsafe import cuda
from mpsafe.cuda._cuda import ffi
from mpsafe.errors import BadCudaCall


def say(*words: object) -> None:
    """One line that arrives at once."""
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def init(driver: cuda.Driver) -> None:
    result = driver.result("cuInit", 0)
    say(result, driver.attribute("MPS_ENABLED", 0) if result == 0 else "-")


def endless(driver: cuda.Driver) -> None:
    driver.init()
    with (
        cuda.Context(driver, driver.devices()[0]) as context,
        cuda.Module(context, cuda.kernels()) as module,
        cuda.Buffer(context, 4) as flag,
        cuda.Stream(context) as stream,
    ):
        flag.write(bytes(4))
        module.kernel("endless").launch(cuda.U64(flag.address), stream=stream)
        say("running")
        for word in ("ended", "again"):
            try:
                stream.synchronize()
            except BadCudaCall as error:
                say(word, error.result)
        sys.stdin.readline()


def copy(driver: cuda.Driver) -> None:
    driver.init()
    device = driver.devices()[0]
    granule = cuda.granularity(driver, device)
    with cuda.Context(driver, device) as context, cuda.Reservation(context, granule) as place:
        filled = driver.result("cuMemsetD8Async", place.address, 1, granule, ffi.NULL)
        say(filled, driver.result("cuCtxSynchronize"))


def fork(driver: cuda.Driver) -> None:
    driver.init()
    with cuda.Context(driver, driver.devices()[0]) as context, cuda.Buffer(context, 4) as buffer:
        buffer.write(b"kept")
        child = os.fork()
        if child == 0:
            count = driver.result("cuDeviceGetCount", ffi.new("int *"))
            say("child", driver.result("cuInit", 0), count, driver.result("cuMemFree_v2", buffer.address))
            sys.stdin.readline()
            os._exit(0)
        say("parent", buffer.read().decode())
        sys.stdin.readline()


def threads(driver: cuda.Driver) -> None:
    counts = [len(os.listdir("/proc/self/task"))]
    driver.init()
    with cuda.Context(driver, driver.devices()[0]) as context, cuda.Buffer(context, 4) as buffer:
        counts.append(len(os.listdir("/proc/self/task")))
        buffer.write(b"work")
        counts.append(len(os.listdir("/proc/self/task")))
    say(*counts)


ROLES = {"init": init, "endless": endless, "copy": copy, "fork": fork, "threads": threads}

if __name__ == "__main__":
    ROLES[sys.argv[1]](cuda.load())
