# SPDX-License-Identifier: Apache-2.0
"""spark-bench clients: what it asks for and what it counts. Null backend, and a small HTTP server of our own."""

import http.server
import json
import os
import subprocess
import sys
import threading
import unittest

from harness import *

MIXES = ("chat", "long", "burst", "slow", "cancel")


def load(*arguments, status=0, env=None):
    """Runs it; the report, or with a status other than 0 (report or None, standard error)."""
    done = subprocess.run([BUILD / "bin" / "spark-bench", "clients", "--json", *map(str, arguments)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120 * SLOW, check=False,
                          env={**os.environ, **(env or {})})
    if done.returncode != status:
        raise AssertionError(f"status {done.returncode}, not {status}: {done.stderr}")
    report = json.loads(done.stdout) if done.stdout else None
    return report if status == 0 else (report, done.stderr)


class LoadCase(TestCase):
    def check_sums(self, report, refused=0):
        """Whole, groups and clients tell the same. refused: clients that were not let in."""
        for key in ("requests", "failed", "cancelled", "cut", "tokens", "prompt_tokens", "served_tokens"):
            for part in ("groups", "per_client"):
                self.assertEqual(sum(p[key] for p in report[part]), report[key], (key, part))
        self.assertEqual(len(report["per_client"]), report["clients"])
        self.assertEqual(sum(g["clients"] for g in report["groups"]), report["clients"])
        self.assertEqual(sum(report["errors"].values()), report["failed"])
        self.assertEqual(report["connect_ms"]["n"], report["clients"] - refused)
        self.assertEqual(report["total_ms"]["n"] + report["failed"] - refused, report["requests"] - report["cancelled"])
        for part in [report] + report["groups"] + report["per_client"]:
            for name in ("ttft_ms", "gap_ms", "queue_ms", "total_ms", "cancel_ms", "connect_ms"):
                times = part[name]
                self.assertTrue(0 <= times["p50"] <= times["p95"] <= times["p99"] <= times["max"], (name, times))
            self.assertEqual(part["cancel_ms"]["n"], part["cancelled"])

    def group(self, report, name):
        found, = (g for g in report["groups"] if g["group"] == name)
        return found


class Sparkd(LoadCase):
    def run_it(self, *arguments, daemon=None, status=0, refused=0, **settings):
        daemon = daemon or self.daemon(**settings)
        daemon.wait_engine()
        result = load("-S", daemon.socket, *arguments, status=status)
        self.check_sums(result if status == 0 else result[0], refused)
        return result

    def test_plain_counts(self):
        report = self.run_it("-c", 3, "-r", 5, "-n", 7)
        self.assertEqual((report["target"], report["clients"], report["requests"], report["failed"], report["tokens"]),
                         ("sparkd", 3, 15, 0, 105))
        for client in report["per_client"]:
            self.assertEqual((client["requests"], client["tokens"], client["ttft_ms"]["n"], client["gave_up"]),
                             (5, 35, 5, False))
            self.assertAlmostEqual(client["share"], 1 / 3, places=3)
        self.assertEqual((report["jain"], report["jain_groups"]), (1, 1))
        self.assertEqual((report["connect_ms"]["n"], report["queue_ms"]["n"]), (3, 15))
        self.assertGreater(report["tokens_per_second"], 0)

    def test_mixes(self):
        daemon = self.daemon(null={"step_us": 500})
        for mix in MIXES:
            with self.subTest(mix):
                # so that a slow reader's answer does not take seconds, and none ends before its client has cancelled it
                extra = {"slow": ("-n", 6), "cancel": ("-n", 100000)}.get(mix, ())
                report = self.run_it("--mix", mix, "-c", 3, "-r", 4, *extra, daemon=daemon)
                self.assertEqual((report["requests"], report["failed"], report["cut"]), (12, 0, 0))
                self.assertEqual([g["group"] for g in report["groups"]], [mix])
                self.assertEqual(report["groups"][0]["mode"], "open" if mix == "burst" else "closed")
                self.assertEqual([c["requests"] for c in report["per_client"]], [4] * 3)
                if mix == "cancel":
                    self.assertEqual(report["cancelled"], 12)
                    self.assertLess(report["tokens"], 12 * 100000)
                    continue
                self.assertEqual(report["cancelled"], 0)
                self.assertEqual(report["ttft_ms"]["n"], 12)
                if mix == "chat":
                    self.assertTrue(12 * 32 <= report["tokens"] <= 12 * 96)
                else:
                    self.assertEqual(report["tokens"], 12 * {"long": 32, "burst": 32, "slow": 6}[mix])
                if mix == "long":
                    self.assertTrue(12 * 790 <= report["prompt_tokens"] <= 12 * 800, report["prompt_tokens"])

    def test_mixed(self):
        report = self.run_it("--mix", "mixed", "-c", 12, "-r", 2, "-n", 5, null={"step_us": 200})
        self.assertEqual([(g["group"], g["clients"], g["requests"]) for g in report["groups"]],
                         [("chat", 6, 12), ("long", 2, 4), ("burst", 2, 4), ("slow", 1, 2), ("cancel", 1, 2)])
        self.assertEqual(report["failed"], 0)

    def test_same_seed_same_requests(self):
        daemon = self.daemon()

        def counts(seed):
            report = self.run_it("--group", "c:mix=chat,clients=4,requests=6,think_ms=0", "--seed", seed, daemon=daemon)
            return [(c["asked"], c["prompt_tokens"], c["tokens"]) for c in report["per_client"]]
        first = counts(5)
        self.assertEqual(first, counts(5))
        self.assertNotEqual(first, counts(6))
        self.assertEqual(len(set(first)), 4)

    def test_conversations_grow(self):
        """Each turn repeats the conversation so far: prompt, answer, more."""
        sizes = [self.run_it("--group", f"c:clients=1,requests={n},turns=3,prompt=40,tokens=8")["prompt_tokens"]
                 for n in (1, 2, 3, 4)]
        first, second, third, fourth = [b - a for a, b in zip([0] + sizes, sizes)]
        self.assertLess(first + 8, second)
        self.assertLess(second + 8, third)
        self.assertTrue(abs(fourth - first) <= 5)  # a new one

    def test_groups_open_and_closed(self):
        report = self.run_it("--group", "desk:clients=1,requests=6,tokens=3,think_ms=1-5,priority=normal",
                             "--group", "feed:clients=2,requests=10,tokens=4,mode=open,rate=400,burst=5",
                             "--group", "deep:clients=2,requests=9,depth=4,tokens=2")
        self.assertEqual({g["group"]: (g["requests"], g["tokens"], g["mode"], g["priority"]) for g in report["groups"]},
                         {"desk": (6, 18, "closed", "normal"), "feed": (20, 80, "open", "unspecified"),
                          "deep": (18, 36, "closed", "unspecified")})
        self.assertEqual([c["group"] for c in report["per_client"]], ["desk", "feed", "feed", "deep", "deep"])
        self.assertEqual([c["requests"] for c in report["per_client"]], [6, 10, 10, 9, 9])
        self.assertAlmostEqual(sum(g["share"] for g in report["groups"]), 1, places=3)

    def test_background_lasts_as_long_as_the_others(self):
        report = self.run_it("--group", "one:clients=1,requests=5,tokens=20",
                             "--group", "flood:clients=3,requests=0,tokens=100000,depth=2", null={"step_us": 500})
        self.assertEqual((self.group(report, "one")["requests"], self.group(report, "one")["tokens"]), (5, 100))
        flood = self.group(report, "flood")
        self.assertGreater(flood["tokens"], 0)
        self.assertEqual(flood["cut"], 6)  # three clients with two each under way; none has ended
        self.assertEqual(report["failed"], 0)

    def test_time_bounded(self):
        daemon = self.daemon(null={"step_us": 500})
        report = self.run_it("--group", "a:clients=2,requests=0,tokens=10", "--seconds", 0.5, "--warmup", 0.2,
                             daemon=daemon)
        self.assertGreater(report["requests"], 0)
        self.assertLessEqual(report["cut"], 2)
        self.assertGreaterEqual(report["seconds"], 0.25)  # from first to last answer
        with daemon.connect() as client:  # nothing stays behind
            until(lambda: client.ask(status=pb.Status()).done.status.requests_running == 0, what="an idle daemon")

    def test_slow_reader_holds_back_only_itself(self):
        report = self.run_it("--group", "slow:clients=1,requests=1,tokens=40,read=100,window=4",
                             "--group", "fast:clients=1,requests=20,tokens=40")
        self.assertEqual((self.group(report, "slow")["tokens"], self.group(report, "fast")["tokens"]), (40, 800))
        # 36 tokens had to wait for credit, which comes 100 times per second
        self.assertGreater(self.group(report, "slow")["total_ms"]["p50"], 300)

    def test_failures_are_counted_by_code(self):
        report, errors = self.run_it("-m", "nope", "-c", 2, "-r", 5, status=1)
        self.assertEqual((report["requests"], report["failed"], report["errors"]), (6, 6, {"MODEL_NOT_FOUND": 6}))
        self.assertEqual([c["gave_up"] for c in report["per_client"]], [True, True])
        self.assertIn("MODEL_NOT_FOUND", errors)

    def test_busy_comes_back(self):
        report, _ = self.run_it("--group", "a:clients=1,requests=9,depth=4,tokens=30", limits={"requests": 2},
                                null={"step_us": 500}, status=1)
        self.assertEqual(report["requests"], 9)
        self.assertTrue(report["failed"] > 0 and report["tokens"] == 30 * (9 - report["failed"]))
        self.assertEqual(set(report["errors"]), {"BUSY"})
        self.assertFalse(report["per_client"][0]["gave_up"])

    @unittest.skipUnless(os.geteuid() == 0, "needs root to become somebody else")
    def test_users(self):
        daemon = self.daemon(limits={"connections_per_user": 2})
        daemon.folder.chmod(0o755)
        report = self.run_it("--group", "u:clients=6,requests=2,tokens=3,uid=1001-1003", daemon=daemon)
        self.assertEqual([c["uid"] for c in report["per_client"]], [1001, 1002, 1003] * 2)
        self.assertEqual((report["requests"], report["failed"]), (12, 0))
        report, _ = self.run_it("--group", "u:clients=6,requests=2,tokens=3,uid=1001", daemon=daemon, status=1,
                                refused=4)
        self.assertEqual((report["requests"], report["failed"]), (4, 4))
        self.assertEqual([c["gave_up"] for c in report["per_client"]].count(True), 4)

    def test_the_daemon_goes(self):
        daemon = self.daemon(null={"step_us": 2000})
        daemon.wait_engine()
        process = subprocess.Popen([BUILD / "bin" / "spark-bench", "clients", "--json", "-S", daemon.socket, "-c", "2",
                                    "-n", "100000", "-r", "5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with daemon.connect() as client:
            until(lambda: client.ask(status=pb.Status()).done.status.requests_running == 2, what="two requests")
        daemon.signal(9)
        daemon.process.wait()
        daemon.process = None  # not to be ended in order
        output, _ = process.communicate(timeout=60 * SLOW)
        report = json.loads(output)
        self.assertEqual((process.returncode, report["failed"], report["requests"]), (1, 2, 2))
        self.assertEqual(set(report["errors"]), {"DISCONNECTED"})


class Command(unittest.TestCase):
    def test_no_daemon(self):
        self.assertIn("/nonexistent/s", load("-S", "/nonexistent/s", status=69)[1])
        said = load(status=69, env={"SPARK_SOCKET": "/nonexistent/e"})[1]
        self.assertRegex(said, r"/nonexistent/e: .*\n.*is sparkd running\?")
        self.assertNotIn("/nonexistent/e", load("-S", "/nonexistent/s", status=69, env={"SPARK_SOCKET": "/nonexistent/e"})[1])
        self.assertRegex(load("--nonsense", status=64)[1], r"^spark-bench: .*nonsense")

    def test_usage(self):
        for arguments, expected in (
                (("--group", "x:clients=0"), "clients=0: from 1 to 100000"),
                (("--group", "x:colour=red"), "no key 'colour'"),
                (("--group", "x", "--group", "x"), "same name"),
                (("--group", "x:requests=0"), "nothing ends this run"),
                (("--mix", "wild"), "no mix 'wild'"),
                (("--mix", "chat", "--group", "x"), "exclude"),
                (("-c", "none"), "clients=none"),
                (("--seconds", "soon"), "soon"),
                (("--http", "127.0.0.1:1", "--group", "x:read=5"), "slow reader"),
                (("--http", "127.0.0.1:1", "--group", "x:priority=normal"), "priorities"),
                (("extra",), "Usage"),
        ):
            with self.subTest(arguments):
                self.assertIn(expected, load(*arguments, status=64)[1])

    def test_table(self):
        done = subprocess.run([BUILD / "bin" / "spark-bench", "clients", "--help"], capture_output=True, text=True,
                              check=True)
        for word in MIXES + ("--group", "--http", "priority", "think_ms"):
            self.assertIn(word, done.stdout)


class Script(unittest.TestCase):
    def test_crowd(self):
        """The measuring script itself, small: it starts a daemon, measures, says so, and leaves nothing behind."""
        done = subprocess.run([sys.executable, ROOT / "tests/bench/fairness.py", "--build", BUILD, "--only", "crowd",
                               "--crowd", "12", "--json", "-"], capture_output=True, text=True, timeout=120 * SLOW,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        figures = json.loads(done.stdout[done.stdout.index("\n{"):])["figures"]
        self.assertEqual(figures["crowd_served"]["value"], 12)
        for key in ("crowd_connections", "crowd_requests", "crowd_kv_used", "crowd_control_fds", "crowd_engine_fds"):
            self.assertTrue(figures[key]["met"], (key, figures[key]))
        self.assertIn("crowd:clients=12", done.stderr)


class FakeServer(http.server.ThreadingHTTPServer):
    """Speaks what the load tool speaks to llama-server. A word is a token."""
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behaviour="good"):
        self.behaviour, self.prompts, self.connections, self.lock = behaviour, [], 0, threading.Lock()
        super().__init__(("127.0.0.1", 0), FakeHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # clients that cancel


class FakeHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def log_message(self, *unused):
        pass

    def answer(self, status, text):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def event(self, **fields):
        data = f"data: {json.dumps(fields)}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self.answer(200, json.dumps({"tokens": list(range(len(body["content"].split()) + 1))}))
            return
        with self.server.lock:
            self.server.prompts.append(body["prompt"])
        behaviour = self.server.behaviour
        if behaviour == "busy":
            self.answer(503, '{"error": {"message": "loading"}}')
            return
        if behaviour == "refuses":
            self.answer(400, '{"error": {"type": "exceed_context_size_error"}}')
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        prompt = len(body["prompt"].split()) + 1
        for i in range(body["n_predict"]):
            if behaviour == "nonsense" and i == 2:
                self.wfile.write(b"zz\r\n")
                return
            if behaviour == "breaks" and i == 2:
                self.close_connection = True
                return
            if not (behaviour == "holds back" and i % 3 == 0):  # characters that are not whole yet
                self.event(content=" w", tokens_predicted=i + 1, tokens_evaluated=prompt, stop=False)
        self.event(content="", tokens_predicted=body["n_predict"], tokens_evaluated=prompt, stop=True,
                   timings={"cache_n": prompt // 2})
        self.wfile.write(b"0\r\n\r\n")
        if behaviour == "closes":
            self.close_connection = True


class Http(LoadCase):
    def server(self, behaviour="good"):
        server = FakeServer(behaviour)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return server

    def test_requests(self):
        for behaviour in ("good", "closes", "holds back"):
            with self.subTest(behaviour):
                server = self.server(behaviour)
                report = load("--http", server.address, "-c", 4, "-r", 3, "-n", 8, "-P", 50)
                self.check_sums(report)
                self.assertEqual((report["target"], report["requests"], report["failed"], report["tokens"]),
                                 ("http", 12, 0, 96))
                self.assertEqual(report["prompt_tokens"], 12 * 50)
                self.assertEqual(report["cached_tokens"], 12 * 25)
                self.assertEqual(len(set(server.prompts)), 12)  # all different
                if behaviour == "good":
                    self.assertEqual(server.connections, 5)  # one per client, kept; one for the measures

    def test_same_prompts_whatever_the_order(self):
        """What is asked depends on the seed alone: two runs, and one with other clients beside them."""
        def prompts(*groups):
            server = self.server()
            report = load("--http", server.address, *(a for g in groups for a in ("--group", g)))
            return sorted(server.prompts), self.group(report, "a")["asked"]
        first, asked = prompts("a:clients=3,requests=3,prompt=30-60,tokens=2-9")
        self.assertEqual((first, asked), prompts("a:clients=3,requests=3,prompt=30-60,tokens=2-9"))
        beside, asked_beside = prompts("a:clients=3,requests=3,prompt=30-60,tokens=2-9", "b:clients=2,requests=2,prompt=20,tokens=3")
        self.assertEqual((len(beside), asked_beside), (13, asked))
        self.assertLess(set(first), set(beside))

    def test_shared_prefix(self):
        server = self.server()
        load("--http", server.address, "--group", "a:clients=3,requests=2,prompt=120,shared=100,tokens=2",
             "--group", "b:clients=1,requests=1,prompt=120,shared=100,tokens=2")
        heads = {" ".join(p.split()[:99]) for p in server.prompts}  # the fake tokenizer adds one in front
        self.assertEqual(len(heads), 2)  # one per group
        self.assertEqual(len({p.split()[99] + p.split()[100] + p.split()[101] for p in server.prompts}), 7)
        self.assertEqual({len(p.split()) for p in server.prompts}, {119})

    def test_one_text_in_several_runs(self):
        """text= names the shared part, whatever the seed and the group; what follows it is new."""
        server = self.server()
        for seed, name, text in ((1, "a", 7), (2, "b", 7), (3, "b", 8)):
            load("--http", server.address, "--seed", seed, "--group", f"{name}:clients=1,requests=1,prompt=80,shared=60,"
                                                                      f"text={text},tokens=2")
        one, two, other = (p.split() for p in server.prompts)
        self.assertEqual(one[:59], two[:59])
        self.assertNotEqual(one[59:], two[59:])
        self.assertNotEqual(one[:59], other[:59])

    def test_cancel(self):
        server = self.server()
        report = load("--http", server.address, "--group", "a:clients=2,requests=5,prompt=20,tokens=5000,cancel=100,"
                                                           "cancel_after=20")
        self.check_sums(report)
        self.assertEqual((report["requests"], report["cancelled"], report["failed"]), (10, 10, 0))

    def test_faults(self):
        for behaviour, code in (("refuses", "CONTEXT_OVERFLOW"), ("nonsense", "PROTOCOL"), ("breaks", "DISCONNECTED")):
            with self.subTest(behaviour):
                report, _ = load("--http", self.server(behaviour).address, "-c", 2, "-r", 3, status=1)
                self.check_sums(report)
                self.assertEqual((report["failed"], set(report["errors"])), (6, {code}))

    def test_busy(self):
        report, errors = load("--http", self.server("busy").address, "-c", 1, "-r", 3, status=1)
        self.assertEqual(report["errors"], {"BUSY": 3})
        self.assertIn("503", errors)

    def test_addresses(self):
        for address in ("192.0.2.1:80", "example.org:80", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", ":80"):
            with self.subTest(address):
                load("--http", address, status=1)
        server = self.server()
        self.assertEqual(load("--http", f"localhost:{server.server_address[1]}", "-c", 1, "-r", 1)["requests"], 1)


if __name__ == "__main__":
    unittest.main()
