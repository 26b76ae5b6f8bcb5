#!/usr/bin/env python3
"""Runs a fuzzer until it has reached no new edge for so long, and says what that took.

Arguments: seconds without a new edge, seconds at most, then the fuzzer's command line. Prints one line of JSON: executions, edges and
features reached, wall and CPU seconds, when the last new edge and the last new feature came. Meanwhile it says each minute how it goes. Its
exit code is the fuzzer's (a finding), or 0.
"""

import json
import re
import resource
import selectors
import signal
import subprocess
import sys
import time

dry, most, command = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
LINE = re.compile(rb"#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+)")
# Exit codes of libFuzzer that was interrupted, and that had come to its end.
STOPPED = (72, 0)
COUNTS = re.compile(rb"stat::number_of_executed_units: (\d+)")

fuzzer = subprocess.Popen([*command, "-print_final_stats=1"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
began = time.monotonic()
facts = {"target": command[0].rsplit("/", 1)[-1], "executions": 0, "edges": 0, "features": 0, "edges_at_start": 0}
new_edge = new_feature = told = 0.0
tail, rest, stopped = [], b"", None
with selectors.DefaultSelector() as ready:
    ready.register(fuzzer.stderr, selectors.EVENT_READ)
    while True:
        now = time.monotonic() - began
        if stopped is None and (now - new_edge > dry or now > most):
            stopped = "dry" if now - new_edge > dry else "time"
            fuzzer.send_signal(signal.SIGINT)
        if now - told >= 60:
            told = now
            print(f"{now / 60:.0f} min: {facts['edges']} edges, the last {(now - new_edge) / 60:.1f} min ago", file=sys.stderr, flush=True)
        if not ready.select(timeout=5):
            continue
        part = fuzzer.stderr.read1(65536)
        if not part:
            break
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            tail = [*tail[-60:], line]
            if found := COUNTS.search(line):
                facts["executions"] = int(found[1])
            if found := LINE.search(line):
                executions, what, edges, features = int(found[1]), found[2], int(found[3]), int(found[4])
                # What the seeds reach is where the count begins.
                if what == b"INITED":
                    facts["edges_at_start"] = edges
                if edges > facts["edges"]:
                    new_edge = now
                if features > facts["features"]:
                    new_feature = now
                facts.update(executions=executions, edges=edges, features=features)
code = fuzzer.wait()
# With anything else it has found something, be it between the signal and its end.
if code not in STOPPED:
    stopped = None
used = resource.getrusage(resource.RUSAGE_CHILDREN)
facts["wall_s"] = round(time.monotonic() - began)
facts["cpu_s"] = round(used.ru_utime + used.ru_stime)
facts["last_new_edge_s"], facts["last_new_feature_s"] = round(new_edge), round(new_feature)
facts["ended"] = stopped or "finding"
print(json.dumps(facts), flush=True)
if stopped is None:
    sys.stderr.buffer.write(b"\n".join(tail) + b"\n")
    sys.exit(code or 1)
