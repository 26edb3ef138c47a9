# SPDX-License-Identifier: Apache-2.0
"""In the guest: owns /dev/mpsafe for some seconds, reads all records, and tells what it saw as JSON.

    owner.py SECONDS MODE [PAUSE]      PAUSE: seconds at the start in which it does not read

"records" that it read, how many were missed "before_first" and in the "gaps" between, and as the module counts them
"lost" and "made".
"""

import json
import select
import struct
import sys
import time
from pathlib import Path

from mpsafed.driver import Mode, Policy
from mpsafed.driver.uvm import UvmDriver

BEAT_S = 1.0
MODES: dict[str, Mode] = {"observe": "observe", "absorb": "absorb"}
# Where struct mpsafe_record has `seq`: decoding all of it costs more than a storm leaves time for.
SEQ = 16


def main() -> None:
    """As the module says."""
    seconds, mode, pause = float(sys.argv[1]), MODES[sys.argv[2]], float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    driver = UvmDriver(Path("/dev/mpsafe"))
    driver.set_policy(Policy(mode=mode, budget_us=60_000_000))
    print("owns it", flush=True)
    records = gaps = before_first = last = 0
    start = time.monotonic()
    while (now := time.monotonic()) < start + seconds:
        driver.heartbeat()
        if now < start + pause:
            time.sleep(min(BEAT_S, start + pause - now))
            continue
        select.select([driver], [], [], BEAT_S)
        for raw in driver.read():
            (seq,) = struct.unpack_from("=Q", raw, SEQ)
            if last:
                gaps += seq - last - 1
            else:
                before_first = seq - 1
            last = seq
            records += 1
    counted = driver.stats()
    saw = {"records": records, "gaps": gaps, "before_first": before_first}
    print(json.dumps({**saw, "lost": counted.lost, "made": counted.records}), flush=True)
    driver.close()


if __name__ == "__main__":
    main()
