#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what many clients mean for each other, against a private daemon: ratios within one run.

    tests/bench/fairness.py [--build build] [--only flood,prefix,crowd] [--json FILE] [--check]

flood   One interactive client beside 15 background clients that never stop asking: its p99 time to first token against
        that on an idle daemon, and the throughput of all 16 against 16 equal clients.
prefix  A shared system prompt: time to first token of a user's second request against the first, and the same for
        another user, for whom nothing may be faster than for the first (needs root, to be two users).
crowd   1,000 clients of 8 users (of one without root), one request each: all served, how soon each is let in, and that
        descriptors and KV memory are back where they were.

Everything is a `spark-bench clients` command, which is printed. The daemons and files made here are gone afterwards.
--check: exit status 1 where a target is missed.
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Bench:
    def __init__(self, options):
        self.options = options
        self.rows = []     # (what, value, unit, target, met)
        self.figures = {}

    def load(self, daemon, *arguments):
        """One run of the load tool; its report."""
        command = ["spark-bench", "clients", *map(str, arguments)]
        print("$ " + shlex.join(command), file=sys.stderr, flush=True)
        done = subprocess.run([harness.BUILD / "bin" / command[0], command[1], "--json", "-S", daemon.socket]
                              + command[2:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout:
            sys.exit(f"the load tool ended with {done.returncode}")
        report = json.loads(done.stdout)
        if report["failed"]:
            print(f"  {report['failed']} requests failed: {report['errors']}", file=sys.stderr)
        return report

    def row(self, key, what, value, unit="", target="", met=None):
        self.rows.append((what, value, unit, target, met))
        self.figures[key] = {"value": value, "unit": unit, "target": target, "met": met}

    def start(self, model, **settings):
        daemon = harness.Daemon(start=False, backend="cpu", threads=self.options.threads, log_level="warning",
                                models=[{"name": "bench", "path": str(model), "default": True}], **settings)
        daemon.folder.chmod(0o755)  # other users connect
        try:
            daemon.start()
            daemon.wait_engine()
        except BaseException:
            self.stop(daemon)
            raise
        return daemon

    @staticmethod
    def stop(daemon):
        if daemon.process:
            daemon.stop()
        daemon.remove()


def group(report, name):
    return next(g for g in report["groups"] if g["group"] == name)


def measure_flood(bench):
    """The same requests for everybody, so that throughputs compare; nobody pauses."""
    daemon = bench.start(bench.options.model)
    asks = f"prompt={bench.options.prompt},tokens={bench.options.tokens},requests=0"
    bounds = ("--seconds", bench.options.seconds, "--warmup", 2)
    desk = f"desk:clients=1,priority=interactive,{asks}"
    try:
        idle = bench.load(daemon, "--seed", 1, "--group", desk, *bounds)
        equal = bench.load(daemon, "--seed", 2, "--group", f"equal:clients=16,{asks}", *bounds)
        flood = bench.load(daemon, "--seed", 3, "--group", desk, "--group",
                           f"flood:clients=15,priority=background,{asks}", *bounds)
    finally:
        bench.stop(daemon)
    alone, beside = idle["ttft_ms"]["p99"], group(flood, "desk")["ttft_ms"]["p99"]
    step = group(flood, "flood")["gap_ms"]["p50"]
    whole = flood["tokens_per_second"] / equal["tokens_per_second"]
    bench.row("ttft_idle_ms", "interactive, idle daemon: p99 time to first token", alone, "ms")
    bench.row("ttft_flood_ms", "interactive beside 15 background clients: the same", beside, "ms",
              f"<= {2 * alone + step:.1f} (2 x idle + a step)", beside <= 2 * alone + step)
    bench.row("ttft_flood_p50_ms", "  median", group(flood, "desk")["ttft_ms"]["p50"], "ms")
    bench.row("step_ms", "a step (median inter-token gap of the background)", step, "ms")
    bench.row("throughput_equal", "16 equal clients", equal["tokens_per_second"], "tokens/s")
    bench.row("throughput_flood", "1 interactive + 15 background", flood["tokens_per_second"], "tokens/s")
    bench.row("throughput_ratio", "  ratio", whole, "", "0.95 to 1.05", 0.95 <= whole <= 1.05)
    bench.row("share_interactive", "  share of the interactive client (1/16 = 0.0625)", group(flood, "desk")["share"])
    bench.row("gap_equal_p99_ms", "16 equal clients: p99 inter-token gap", equal["gap_ms"]["p99"], "ms")
    bench.row("jain_equal", "16 equal clients: Jain index", equal["jain"])


def measure_prefix(bench):
    """Texts are named by text=, so that two users and several runs can have the same one."""
    root = os.geteuid() == 0
    sizes = f"clients=1,requests=1,tokens=4,prompt={bench.options.prefix + 8},shared={bench.options.prefix}"
    first, second, other, other_second, cached = [], [], [], [], []
    with tempfile.TemporaryDirectory(prefix="spark-fairness-") as folder:
        model = pathlib.Path(folder) / "long.gguf"
        subprocess.run([sys.executable, ROOT / "tests/reference/make-gguf.py", "--shape", bench.options.shape, "--format",
                        "q8_0", "--ctx", str(2 * bench.options.prefix), model], check=True)
        daemon = bench.start(model)

        def ask(text, seed, uid):
            who = f",uid={uid}" if root else ""
            report = bench.load(daemon, "--seed", seed, "--group", f"ask:{sizes},text={text}{who}")
            return report["ttft_ms"]["p50"], report["cached_tokens"]
        try:
            ask(1000, 1, 20001)  # whatever the first request of all has to do
            for text in range(1, bench.options.repeat + 1):
                first.append(ask(text, 10 * text, 20001)[0])
                ttft, tokens = ask(text, 10 * text + 1, 20001)
                second.append(ttft)
                cached.append(tokens)
                if root:
                    other.append(ask(text, 10 * text + 2, 20002)[0])
                    other_second.append(ask(text, 10 * text + 3, 20002)[0])
        finally:
            bench.stop(daemon)
    cold, warm = statistics.median(first), statistics.median(second)
    bench.row("prefix_first_ms", f"{bench.options.prefix} shared tokens: first request, time to first token", cold, "ms")
    bench.row("prefix_second_ms", "  second request of the same user", warm, "ms")
    bench.row("prefix_cached", "  tokens of it that were cached", statistics.median(cached))
    bench.row("prefix_ratio", "  first / second", cold / warm, "", ">= 20", cold / warm >= 20)
    if root:
        foreign, ratio = statistics.median(other), cold / statistics.median(other)
        bench.row("prefix_other_ms", "  first request of another user", foreign, "ms")
        bench.row("prefix_other_ratio", "  first / other user's first", ratio, "", "<= 1.1 (no gain)", ratio <= 1.1)
        bench.row("prefix_other_second_ms", "  that user's second", statistics.median(other_second), "ms")
    else:
        print("not root: the other user is left out", file=sys.stderr)


def state_of(daemon):
    """What has to be as before once all have gone; seen from a connection, whose own descriptors always count, therefore."""
    with daemon.connect() as client:
        status = client.ask(status=harness.pb.Status()).done.status
        return {"connections": status.connections, "requests": status.requests_running + status.requests_queued,
                "kv_used": status.memory_kv_used, "control_fds": daemon.fd_count(),
                "engine_fds": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in daemon.children())}


def settled_state(daemon):
    """The state once all clients have left: when it is twice the same."""
    harness.until(lambda: state_of(daemon)["connections"] == 1, what="the clients' leaving")
    states = [state_of(daemon)]
    for _ in range(10):
        time.sleep(2.5)  # the daemon asks its engines once a second
        states.append(state_of(daemon))
        if states[-1] == states[-2]:
            break
    return states[-1]


def measure_crowd(bench):
    users = ",uid=20001-20008" if os.geteuid() == 0 else ""
    daemon = bench.start(bench.options.model)
    try:
        bench.load(daemon, "--group", f"warm:clients=8,requests=1,prompt=16,tokens=4{users}")
        before = settled_state(daemon)
        report = bench.load(daemon, "--group",
                            f"crowd:clients={bench.options.crowd},requests=1,prompt=16,tokens=4{users}")
        after = settled_state(daemon)
    finally:
        bench.stop(daemon)
    served = report["requests"] - report["failed"]
    bench.row("crowd_served", f"{bench.options.crowd} clients, one request each: served", served, "",
              f"{bench.options.crowd}", served == bench.options.crowd)
    bench.row("crowd_connect_p99_ms", "  connect to greeting, p99", report["connect_ms"]["p99"], "ms", "<= 50",
              report["connect_ms"]["p99"] <= 50)
    bench.row("crowd_ttft_p99_ms", "  time to first token, p99 (all ask at once)", report["ttft_ms"]["p99"], "ms")
    for key, value in before.items():
        bench.row(f"crowd_{key}", f"  {key.replace('_', ' ')} afterwards", after[key], "", f"{value} as before",
                  after[key] == value)


MEASURES = {"flood": measure_flood, "prefix": measure_prefix, "crowd": measure_crowd}


def print_table(rows):
    width = max(len(row[0]) for row in rows)
    for what, value, unit, target, met in rows:
        number = f"{value:.3f}" if isinstance(value, float) else str(value)
        verdict = {None: "", True: "met", False: "MISSED"}[met]
        print(f"{what:{width}}  {number:>12} {unit:9} {target:32} {verdict}".rstrip())


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--only", default=",".join(MEASURES), help="of flood,prefix,crowd")
    parser.add_argument("--model", default=str(ROOT / "share/models/spark-tiny.gguf"), help="for flood and crowd")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=20, help="of each run of flood")
    parser.add_argument("--prompt", default="64", help="tokens of flood's prompts")
    parser.add_argument("--tokens", default="64", help="tokens of flood's answers")
    parser.add_argument("--shape", default="small", help="of prefix's model (make-gguf.py)")
    parser.add_argument("--prefix", type=int, default=2000, help="tokens of the shared prompt")
    parser.add_argument("--repeat", type=int, default=5, help="texts of prefix; medians are told")
    parser.add_argument("--crowd", type=int, default=1000, help="clients")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, - for standard output")
    parser.add_argument("--check", action="store_true", help="exit status 1 where a target is missed")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if set(options.only) - set(MEASURES):
        parser.error("--only takes " + ",".join(MEASURES))
    return options


def main():
    bench = Bench(options)
    for name in options.only:
        MEASURES[name](bench)
    print_table(bench.rows)
    if options.json:
        text = json.dumps({"threads": options.threads, "figures": bench.figures}, indent=1) + "\n"
        if options.json == "-":
            print(text, end="")
        else:
            pathlib.Path(options.json).write_text(text, encoding="utf-8")
    return 1 if options.check and any(row[4] is False for row in bench.rows) else 0


if __name__ == "__main__":
    options = parse()
    os.environ["SPARK_BUILD"] = options.build
    sys.path.insert(0, str(ROOT / "tests" / "integration"))
    import harness  # noqa: E402  (looks for the build when it is imported)
    sys.exit(main())
