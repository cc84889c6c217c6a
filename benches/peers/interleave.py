#!/usr/bin/env python3
"""Times several engines turn by turn, so that whatever else the machine does hits all of them, and compares.

    interleave.py --name "extract minilm" --rounds 7 --engine docre="CMD" --engine torch="CMD" --json DIR > table.md

An engine is a command that reads lines `run` and answers each with a line of JSON: `seconds`, `items`, `peak_rss_mib`
and, if it likes, `engine` (its name with its version) and `cpu_seconds`. One after another is started and warms up, and
all stay in memory; then each round begins with another engine. `--engines FILE` reads {"NAME": "CMD", ...} instead. The
table goes to stdout, one docre.bench.v1 report an engine to DIR/NAME.json. Ratios are of time an item, over the first
engine's in the same round: their median, least and greatest. Needs Linux and nothing but Python."""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass, field

SCHEMA = "docre.bench.v1"


@dataclass
class Engine:
    name: str
    process: subprocess.Popen
    passes: list = field(default_factory=list)

    @staticmethod
    def start(name, command):
        pipe = subprocess.PIPE
        return Engine(name, subprocess.Popen(shlex.split(command), stdin=pipe, stdout=pipe, text=True))

    def run(self):
        """One pass; the process has loaded and warmed up when it answers the first."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: ended with status {self.process.wait()}")
        return json.loads(line)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()

    @property
    def title(self):
        return self.passes[0].get("engine", self.name)

    @property
    def seconds(self):
        return [one["seconds"] for one in self.passes]

    @property
    def each(self):
        """Seconds an item, by round."""
        return [one["seconds"] / one["items"] for one in self.passes]


def engines(args):
    """(name, command) pairs."""
    found = []
    if args.engines:
        found += json.loads(args.engines.read_text(encoding="utf-8")).items()
    for given in args.engine:
        name, equals, command = given.partition("=")
        if not equals:
            raise SystemExit(f"--engine {given}: NAME=CMD is wanted")
        found.append((name, command))
    if not found or len(dict(found)) < len(found):
        raise SystemExit("no engine, or two of one name")
    return found


def measure(commands, rounds, all_engines):
    """Fills `all_engines`, whose processes the caller ends."""
    for name, command in commands:
        all_engines.append(Engine.start(name, command))
        all_engines[-1].run()
        print(f"{name}: ready", file=sys.stderr)
    for round in range(rounds):
        first = round % len(all_engines)
        for engine in all_engines[first:] + all_engines[:first]:
            engine.passes.append(engine.run())
        if len({engine.passes[-1]["items"] for engine in all_engines}) > 1:
            raise SystemExit("the engines do not do the same number of items: other documents, or other work")
        print(f"round {round + 1} of {rounds}: " + ", ".join(
            f"{engine.name} {engine.seconds[-1]:.2f} s" for engine in all_engines), file=sys.stderr)


def cpu():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown CPU")
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def load():
    return f"{os.getloadavg()[0]:.1f}"


def report(engine, name, device):
    ms = [1e3 * seconds for seconds in engine.seconds]
    row = {"engine": engine.title, "name": name, "median_ms": statistics.median(ms), "low_ms": min(ms),
           "high_ms": max(ms), "repeats": len(ms), "flops": 0.0, "bytes": 0.0, "items": engine.passes[0]["items"]}
    return {"schema": SCHEMA, "device": device, "peak": None, "rows": [row]}


def line(engine, first):
    rates = [1 / each for each in engine.each]
    ratios = [ours / theirs for ours, theirs in zip(engine.each, first.each)]
    memory = max(one["peak_rss_mib"] for one in engine.passes)
    busy = [one["cpu_seconds"] / one["seconds"] for one in engine.passes if "cpu_seconds" in one]
    return (f"| {engine.name} | {engine.title} | {statistics.median(rates):.4g} | {min(rates):.4g} to {max(rates):.4g} "
            f"| {memory:.0f} | {f'{statistics.median(busy):.2f}' if busy else ''} "
            f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")


def table(all_engines, name, device, loads):
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    return "\n".join([
        f"{name}: {device}; {platform.system()} {platform.release()}, {date}; {len(all_engines[0].passes)} rounds of "
        f"{all_engines[0].passes[0]['items']} items, engines in turn; load average {loads[0]} before, {loads[1]} after",
        "",
        "| engine | version | items/s, median | least to greatest | peak MiB | cores busy | time over the first's "
        "| least to greatest |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *[line(engine, all_engines[0]) for engine in all_engines]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=CMD")
    parser.add_argument("--engines", type=pathlib.Path, help='a file of {"NAME": "CMD", ...}')
    parser.add_argument("--name", required=True, help="what is timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path, help="a folder for the reports")
    args = parser.parse_args()
    started, device = load(), cpu()
    all_engines = []
    try:
        measure(engines(args), args.rounds, all_engines)
    finally:
        for engine in all_engines:
            engine.stop()
    if args.json:
        args.json.mkdir(parents=True, exist_ok=True)
        for engine in all_engines:
            text = json.dumps(report(engine, args.name, device), indent=1)
            (args.json / f"{engine.name}.json").write_text(text + "\n", encoding="utf-8")
    print(table(all_engines, args.name, device, (started, load())))


if __name__ == "__main__":
    main()
