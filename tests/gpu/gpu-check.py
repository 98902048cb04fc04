#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend on this machine's GPU: that it computes what the CPU backend computes, that answers are the same in any
company and after the loss of an engine, and how fast it is. `make gpu-check` builds what is needed and runs it.

Each part says passed, failed, or skipped and why, and has a time limit; a part that fails leaves the others as they are. Results go
to gpu-check.json and gpu-check.md below the build folder, or where --output says, after every part. Exit status: 0, 1 where a part
failed, 77 where there is no GPU. It takes at most about --minutes (8), what is left over goes to the benchmarks. With --emulated all
but these runs on the emulated device, with shorter texts.
"""

import argparse
import array
import contextlib
import datetime
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEXT = ("Once upon a time there was a little girl who lived near the forest. She liked to play with her red ball, and one day "
        "the ball rolled far away between the trees. She went after it, and she was not afraid, for the sun was warm and the birds "
        "were singing.")
# Parts and how long each may take, in seconds. The benchmarks have what is left of --minutes, a third of it at least.
PARTS = {"device": 120, "kernels": 200, "models": 150, "company": 100, "loss": 60, "sanitizer": 100, "benchmarks": 0}
BENCHMARKS_SHARE = 0.35
EMULATED_SLOWER = 10
GRACE_SECONDS = 15  # behind the end of a part, for what looks at the time itself
KILLED_SECONDS = 10  # until a process that was killed is given up: a driver may hold it
NO_GPU = ("no NVIDIA GPU", "no NVIDIA driver")
NO_HARNESS = "the programs can't be asked: {} (apt-get install python3-protobuf protobuf-compiler)"

# Normalized mean square error of logits against the CPU backend's, by the format of weights. Float weights differ in the order of
# sums and, unless they are F32, by activations that are rounded to bfloat16; quantized ones, on the CPU, by activations of 8 bits.
ERRORS = {"f32": 1e-6, "f16": 5e-4, "bf16": 5e-4, "": 1e-2}


class Skip(Exception):
    """A part that can't be done here; the message says why."""


class Fail(Exception):
    """What was found to be wrong."""


def run_command(command, timeout, **options):
    """(exit status, stdout, stderr); subprocess.TimeoutExpired after so many seconds, and then the whole group is gone."""
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                   start_new_session=True, **options)
        stack.callback(process.stdout.close)
        stack.callback(process.stderr.close)
        try:
            out, errors = process.communicate(timeout=timeout)
        except BaseException:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(KILLED_SECONDS)
            raise
        return process.returncode, out, errors


def describe_machine():
    """What figures depend on beside the device's name; what can't be found out is left out."""
    commands = {"gpu": ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory,"
                        "temperature.gpu", "--format=csv"],
                "nvcc": [shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc", "--version"],
                "commit": ["git", "-C", ROOT, "describe", "--always", "--dirty"]}
    machine = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "kernel": platform.release(),
               "architecture": platform.machine(), "processors": os.cpu_count()}
    for name, command in commands.items():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            status, out, _ = run_command(command, 20)
            if status == 0:
                lines = out.decode(errors="replace").strip().splitlines()
                machine[name] = lines[-1] if name == "commit" else "; ".join(lines[-2:])
    return machine


def floats(path):
    values = array.array("f")
    values.frombytes(path.read_bytes())
    return values


def error_of(is_, want):
    """Of logits: the mean square of differences over that of what is wanted."""
    noise = sum((a - b) ** 2 for a, b in zip(is_, want))
    return noise / sum(b * b for b in want)


def greedy(logits, width):
    rows = [logits[i:i + width] for i in range(0, len(logits), width)]
    return [max(range(width), key=row.__getitem__) for row in rows]


class Check:
    def __init__(self, options):
        self.build = pathlib.Path(options.build).resolve()
        self.emulated = options.emulated
        self.slower = EMULATED_SLOWER if self.emulated else 1
        self.minutes = options.minutes * self.slower
        self.deadline = time.monotonic() + self.minutes * 60
        self.until = self.deadline  # the end of the part in progress
        self.library = self.build / "lib" / ("libspark-cuda-emu.so" if self.emulated else "libspark-cuda.so")
        self.output = options.output or self.build / "gpu-check"
        testdata = pathlib.Path(os.environ.get("SPARK_TESTDATA", ROOT / "../shared/testdata")).resolve()
        self.models = testdata / "models"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="gpu-check-"))
        self.machine = {} if self.emulated else describe_machine()
        self.results = {}
        self.device = ""
        self.benchmarks = {}
        os.environ["SPARK_BUILD"] = str(self.build)
        sys.path.insert(0, str(ROOT / "tests" / "integration"))
        sys.path.insert(0, str(ROOT / "tests" / "gpu"))

    def rest(self, most=3600):
        """Seconds that something in this part may take."""
        seconds = min(most, self.until - time.monotonic())
        if seconds < 1:
            raise Fail("its time is over")
        return seconds

    def bench(self, *arguments, timeout=3600):
        """What spark-bench writes; a failure is Fail with what it said."""
        command = [self.build / "bin" / "spark-bench", *arguments]
        seconds = self.rest(timeout)
        said = " ".join(map(str, arguments))
        try:
            status, out, errors = run_command(command, seconds)
        except subprocess.TimeoutExpired as error:
            raise Fail(f"{said}: no end after {seconds:.0f} s") from error
        if status != 0:
            raise Fail(f"{said}: exit status {status}: {errors.decode(errors='replace').strip()[-400:]}")
        return out

    @staticmethod
    def harness():
        """The tests' own client and daemon."""
        try:
            import harness  # pylint: disable=import-outside-toplevel
        except (ImportError, OSError, subprocess.SubprocessError) as error:
            raise Skip(NO_HARNESS.format(error)) from error
        return harness

    # --- parts ---------------------------------------------------------------------------------------------------

    def part_device(self):
        """The library opens the device and multiplies."""
        if not self.library.exists():
            said = f"there is no {self.library}: it is built where there is nvcc (make CUDA=1)"
            raise Fail(said) if pathlib.Path("/dev/nvidiactl").exists() else Skip(said)
        try:
            said = json.loads(self.bench("device", "--library", self.library, "--quick", "--json", "--format", "q8_0"))
        except Fail as fail:
            if any(sentence in str(fail) for sentence in NO_GPU):
                raise Skip(str(fail)) from fail
            raise
        self.device = said["device"]
        return self.device

    def part_kernels(self):
        """Every kernel against its C reference, on the device."""
        if self.emulated:
            raise Skip("on the emulated device these are unit tests")
        tests = sorted((self.build / "gpu").glob("test-cuda-*[!o]"))
        tests = [t for t in tests if os.access(t, os.X_OK) and t.suffix == ""]
        if not tests:
            raise Skip("they are not built: make gpu-tests, which needs libcmocka-dev")
        details = self.results["kernels"]["details"] = {}
        for test in tests:
            details[test.name] = self.run_kernels(test)
            print(f"         kernels     {test.name} {details[test.name]['status']}", flush=True)
        failed = [f"{name}: {r['said']}" for name, r in details.items() if r["status"] != "passed"]
        if failed:
            raise Fail("\n".join(failed))
        return f"{len(tests)} programs"

    def run_kernels(self, test):
        began = time.monotonic()
        try:
            status, out, errors = run_command([test], self.rest())
            said = (out + errors).decode(errors="replace")
        except subprocess.TimeoutExpired:
            status, said = -1, "no end in this part's time"
        except Fail as fail:
            status, said = -1, str(fail)
        return {"status": "failed" if status else "passed", "seconds": round(time.monotonic() - began, 1),
                "said": f"exit status {status}: {said[-600:]}" if status else ""}

    def logits(self, model, backend, text, *more):
        out = self.folder / f"{backend}.f32"
        extra = [*(["--library", self.library] if backend == "cuda" else []), *more]
        said = self.bench("logits", "-m", model, "-f", text, "-o", out, "--backend", backend, *extra)
        return floats(out), int(said.split()[-1])

    def check_model(self, model, text):
        """(error, share of positions with the same best token), or Fail."""
        kind = model.stem.rsplit("-", 1)[-1]
        want, width = self.logits(model, "cpu", text)
        got, _ = self.logits(model, "cuda", text)
        if len(got) != len(want):
            raise Fail(f"{model.name}: {len(got) // width} rows, not {len(want) // width}")
        error = error_of(got, want)
        same = [a == b for a, b in zip(greedy(got, width), greedy(want, width))]
        share = sum(same) / len(same)
        most = ERRORS.get(kind, ERRORS[""])
        if not error <= most:
            raise Fail(f"{model.name}: the error of logits is {error:.2e}, allowed are {most:.0e}")
        if kind == "f32" and "rand" not in model.stem and share < 1:
            raise Fail(f"{model.name}: {len(same) - sum(same)} of {len(same)} greedy tokens differ")
        if kind == "bf16" and self.logits(model, "cuda", text, "--lossless")[0].tobytes() != got.tobytes():
            raise Fail(f"{model.name}: losslessly coded, it has other logits")
        return error, share

    def part_models(self):
        """Whole models: every position's logits against the CPU backend's."""
        text = self.folder / "text"
        text.write_text(TEXT[:40] if self.emulated else TEXT, encoding="utf-8")
        models = sorted(self.models.glob("*.gguf")) if self.models.is_dir() else []
        if self.emulated:
            models = [m for m in models if m.stem in ("mini-llama-f32", "rand-llama-q8_0", "rand-llama-bf16")]
        models = models or [ROOT / "share/models/spark-tiny.gguf"]
        details = self.results["models"]["details"] = {}
        for model in models:
            try:
                error, share = self.check_model(model, text)
            except Fail as fail:
                kind = "skipped" if "has no attention for heads" in str(fail) else "failed"
                details[model.stem] = {kind: str(fail).rsplit(": ", 1)[-1] if kind == "skipped" else str(fail)}
            else:
                details[model.stem] = {"nmse": error, "same_greedy": share}
        failed = [d["failed"] for d in details.values() if "failed" in d]
        errors = [d["nmse"] for d in details.values() if "nmse" in d]
        if failed:
            raise Fail("\n".join(failed))
        if not errors:
            raise Fail("none of the models was computed")
        return f"{len(errors)} of {len(models)} models, the largest error {max(errors):.1e}"

    def daemon(self, **settings):
        model = self.models / "mini-llama-f32.gguf"
        if not model.exists() or not self.emulated:
            model = ROOT / "share/models/spark-tiny.gguf"
        settings = {"backend": "cuda", "cuda_library": str(self.library), "memory": {"kv": "64M"},
                    "models": [{"name": "m", "path": str(model), "default": True, "context": 256}], **settings}
        if self.emulated:
            settings["limits"] = {"step_timeout_ms": 120000, "sequences": 4}
        return self.harness().Daemon(**settings)

    @staticmethod
    def requests(harness, count, n):
        kinds = [{"temperature": 0}, {"temperature": 0.9, "top_k": 40}, {"temperature": 1, "top_p": 0.9, "top_k": 0},
                 {"temperature": 0.8, "repetition_penalty": 1.2, "top_k": 0}]
        return [(TEXT[i:i + 30 + 7 * (i % 9)].encode(),
                 harness.pb.Sampling(max_tokens=n, seed=i + 1, logprobs=2, **kinds[i % len(kinds)])) for i in range(count)]

    @staticmethod
    def collect(client, ids):
        """Tokens and log-probabilities of all of them, as they come."""
        got = {id: ([], []) for id in ids}
        left = set(ids)
        while left:
            frame = client.receive()
            kind = frame.WhichOneof("body")
            if kind == "token":
                got[frame.id][0].extend(frame.token.ids)
                got[frame.id][1].extend(frame.token.logprobs)
            elif kind == "error":
                raise Fail(f"a request failed: {frame.error.message}")
            elif kind == "done":
                left.discard(frame.id)
        return [got[id] for id in ids]

    def part_company(self):
        """The same answers alone and together, bit for bit."""
        harness = self.harness()
        count, n = (3, 4) if self.emulated else (24, 48)
        daemon = self.daemon()
        try:
            with daemon.connect() as client:
                client.sock.settimeout(self.rest())
                asked = self.requests(harness, count, n)
                alone = [self.collect(client, [client.generate(p, sampling=s)])[0] for p, s in asked]
                together = self.collect(client, [client.generate(p, sampling=s) for p, s in asked])
                model, = client.ask(models=harness.pb.Models()).done.models.models
        finally:
            log = daemon.log()
            daemon.stop()
            daemon.remove()
        if model.engine_restarts:
            raise Fail(f"the engine was lost {model.engine_restarts} times meanwhile: {log[-600:]}")
        for i, (a, b) in enumerate(zip(alone, together)):
            if a != b:
                raise Fail(f"request {i} got other tokens in company: {b} instead of {a}")
        return f"{count} requests of {n} tokens"

    def part_loss(self):
        """An engine that is killed: its streams go on with the token that was due."""
        harness = self.harness()
        n = 8 if self.emulated else 64
        sampling = harness.pb.Sampling(max_tokens=n, temperature=0)
        daemon = self.daemon()
        try:
            engine = daemon.wait_engine()
            with daemon.connect() as client:
                client.sock.settimeout(self.rest())
                whole = client.answer(client.generate(TEXT[:40].encode(), sampling=sampling))[0]
                id = client.generate(TEXT[:40].encode(), sampling=sampling)
                got = client.tokens(id, 3)
                os.kill(engine, signal.SIGKILL)
                began = time.monotonic()
                rest, _, end = client.answer(id, seen=len(got))
        finally:
            daemon.stop()
            daemon.remove()
        if end.WhichOneof("body") != "done" or got + rest != whole:
            raise Fail(f"the stream went on with {rest}, due were {whole[len(got):]}")
        return f"the rest came within {time.monotonic() - began:.1f} s"

    def part_sanitizer(self):
        """A small model under compute-sanitizer."""
        if self.emulated:
            raise Skip("the emulated device runs under AddressSanitizer")
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not pathlib.Path(tool).exists():
            raise Skip("compute-sanitizer is not installed")
        model = self.models / "rand-llama-q4_k_m.gguf"
        model = model if model.exists() else ROOT / "share/models/spark-tiny.gguf"
        text = self.folder / "short"
        text.write_text(TEXT[:60], encoding="utf-8")
        seconds = self.rest()
        command = [tool, "--tool", "memcheck", "--error-exitcode", "9", self.build / "bin/spark-bench", "logits", "-m", model, "-f", text,
                   "-o", self.folder / "san.f32", "--backend", "cuda", "--library", self.library]
        try:
            status, out, errors = run_command(command, seconds)
        except subprocess.TimeoutExpired as error:
            raise Skip(f"it is too slow here: no end after {seconds:.0f} s") from error
        if status != 0:
            raise Fail((out + errors).decode(errors="replace")[-1500:])
        return "memcheck found nothing"

    def part_benchmarks(self):
        """Speeds."""
        import gpu_bench  # pylint: disable=import-outside-toplevel

        if self.emulated:
            raise Skip("an emulated device has no speed")
        gpu_bench.run(self, self.benchmarks)
        return gpu_bench.summary(self.benchmarks)

    # --- the report ----------------------------------------------------------------------------------------------

    def begin_part(self, name):
        """Sets its end, and an alarm for whatever does not look at that."""
        now = time.monotonic()
        if name == "benchmarks":
            self.until = self.deadline
        else:
            self.until = min(now + PARTS[name] * self.slower, self.deadline - BENCHMARKS_SHARE * self.minutes * 60)
        if self.until - now < 5:
            raise Skip("no time")

        def ring(number, frame):
            raise Fail(f"no end after {time.monotonic() - now:.0f} s")
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, self.until - now + GRACE_SECONDS)

    def run_part(self, name):
        began = time.monotonic()
        part = getattr(self, f"part_{name}")
        self.results[name] = {"status": "failed", "text": "it did not come to its end", "seconds": 0}
        print(f"         {name}: {part.__doc__}", flush=True)
        try:
            self.begin_part(name)
            text, status = part(), "passed"
        except Skip as error:
            text, status = str(error), "skipped"
        except Exception as error:  # pylint: disable=broad-exception-caught
            text, status = str(error) if isinstance(error, (Fail, AssertionError)) and str(error) else repr(error), "failed"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        seconds = time.monotonic() - began
        self.results[name].update(status=status, text=text, seconds=round(seconds, 1))
        print(f"{status:8} {name:11} {text} ({seconds:.1f} s)", flush=True)
        return status

    def write(self):
        import gpu_bench  # pylint: disable=import-outside-toplevel

        self.output.mkdir(parents=True, exist_ok=True)
        report = {"device": self.device, "emulated": self.emulated, "machine": self.machine, "parts": self.results,
                  "benchmarks": self.benchmarks}
        (self.output / "gpu-check.json").write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
        lines = [f"# GPU check: {self.device or 'no device'}", ""]
        lines += [f"- {name}: {value}" for name, value in self.machine.items()]
        lines += ["", "| part | result | s | |", "|---|---|---|---|"]
        lines += [f"| {name} | {r['status']} | {r['seconds']} | {gpu_bench.cell(r['text'])} |" for name, r in self.results.items()]
        lines += gpu_bench.details(self.results)
        lines += gpu_bench.table(self.benchmarks)
        (self.output / "gpu-check.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def run(self, only):
        statuses = {}
        for name in PARTS:
            if name != "device" and only and name not in only:
                continue
            statuses[name] = self.run_part(name)
            self.write()
            if name == "device" and statuses[name] != "passed":
                break
        if statuses["device"] == "skipped":
            return 77
        return 1 if "failed" in statuses.values() else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--emulated", action="store_true", help="on the emulated device, without benchmarks")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--output", type=pathlib.Path, help="a folder for gpu-check.json and gpu-check.md")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="this part; may be repeated")
    options = parser.parse_args()
    check = Check(options)
    try:
        status = check.run(options.only)
        print(f"results are in {check.output}/gpu-check.json and .md", flush=True)
    finally:
        shutil.rmtree(check.folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
