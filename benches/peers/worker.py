"""The protocol of a peer: for each line `run` on stdin one timed pass and one line of JSON on stdout, until the end."""

import json
import sys
import time


def serve(engine, run):
    """`run()` does one pass and gives the number of its items. One pass before the first line warms up.

    `cpu_seconds` over `seconds` says how many cores the pass had: less than its threads where others use the machine.
    """
    run()
    for line in sys.stdin:
        if line.strip() != "run":
            raise SystemExit(f"not a command: {line.strip()}")
        start, cpu = time.perf_counter(), time.process_time()
        items = run()
        found = {"engine": engine, "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu,
                 "items": items, "peak_rss_mib": peak_rss_mib()}
        print(json.dumps(found), flush=True)


def peak_rss_mib():
    """Of this process since its start, loading included."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
