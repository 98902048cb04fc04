# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of gpu-check.py: whole models of random weights, single products, and the same products in cuBLASLt and in PyTorch,
most telling first, as long as there is time."""

import json
import os
import shutil
import subprocess
import sys
import time

# shape, format, sequences; the prompt is as long as one sequence's share of 2,048 tokens, but of one alone all of them
ENGINE = [("llama-8b", "q4_k", 1), ("llama-8b", "bf16", 1), ("llama-8b", "bf16_ll", 1), ("llama-70b", "bf16_ll", 1),
          ("llama-70b", "q4_k", 1), ("gpt-oss-120b", "mxfp4", 1), ("llama-8b", "q8_0", 1), ("llama-8b", "mxfp4", 1),
          ("llama-8b", "q4_k", 8), ("llama-8b", "bf16", 8), ("llama-8b", "bf16_ll", 8), ("llama-70b", "bf16_ll", 8),
          ("llama-70b", "q8_0", 1), ("llama-70b", "mxfp4", 1), ("llama-70b", "q4_k", 8), ("llama-8b", "q8_0", 8),
          ("llama-8b", "mxfp4", 8), ("qwen3-32b", "q4_k", 1), ("llama-70b", "mxfp4", 8), ("llama-70b", "q8_0", 8),
          ("llama-70b", "bf16", 1), ("llama-70b", "bf16", 8)]
FORMATS = ["bf16", "bf16_ll", "q8_0", "q4_k", "mxfp4", "q4_0", "q6_k", "nvfp4"]
# The shapes of spark-bench device, as many copies as it has, launched as a graph as it does: the processor's time does not count.
TORCH = """
import json, sys, time, torch
out = []
for model, name, n, k in (("8b", "attn_q", 4096, 4096), ("8b", "attn_k", 1024, 4096), ("8b", "ffn_up", 14336, 4096),
                          ("8b", "ffn_down", 4096, 14336), ("8b", "output", 128256, 4096), ("70b", "attn_q", 8192, 8192),
                          ("70b", "ffn_up", 28672, 8192), ("70b", "ffn_down", 8192, 28672)):
    w = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(max(1, -(-(256 << 20) // (2 * n * k))))]
    for rows in (1, 8, 64, 2048):
        x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
        y = torch.empty(rows, n, device="cuda", dtype=torch.bfloat16)
        def step():
            for m in w:
                torch.mm(x, m.t(), out=y)
        step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        took = []
        ends = time.perf_counter() + 0.15
        while len(took) < 4 or time.perf_counter() < ends:
            torch.cuda.synchronize()
            began = time.perf_counter()
            graph.replay()
            torch.cuda.synchronize()
            took.append((time.perf_counter() - began) / len(w))
        seconds = sorted(took[1:])[(len(took) - 1) // 2]
        out.append({"model": model, "matrix": name, "rows": rows, "us": seconds * 1e6, "bytes_per_second": 2 * n * k / seconds,
                    "ops_per_second": 2 * n * k * rows / seconds})
        del graph
    del w
    torch.cuda.empty_cache()
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "device": torch.cuda.get_device_name(), "products": out}))
"""
RUN_SECONDS = 100  # of one of the programs
PROBE_SECONDS = 60  # PyTorch takes its time to be imported


def left(check):
    return check.deadline - time.monotonic()


def engine(check, shape, fmt, batch):
    """One run; where it can't be done, why."""
    prompt, tokens = (2048, 64) if batch == 1 else (2048 // batch, 32)
    rows = ["-r", "2048"] if batch == 1 else []
    return measured(check, "engine", "--backend", "cuda", "--library", check.library, "--shape", shape, "--format", fmt, "-b", batch,
                    "-p", prompt, "-n", tokens, *rows, "--json")


def measured(check, *arguments):
    """What spark-bench says, or why it says nothing."""
    try:
        return json.loads(check.bench(*arguments, timeout=RUN_SECONDS))
    except Exception as error:  # pylint: disable=broad-exception-caught
        return {"skipped": str(error)[-200:]}


def torch_python():
    """A Python that has PyTorch with a GPU: $SPARK_TORCH_PYTHON, or the first in the path, or this one."""
    pythons = [os.environ.get("SPARK_TORCH_PYTHON"), shutil.which("python3"), shutil.which("python"), sys.executable]
    for python in dict.fromkeys(p for p in pythons if p):
        try:
            probe = subprocess.run([python, "-c", "import torch; assert torch.cuda.is_available()"], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, timeout=PROBE_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError):
            continue
        if probe.returncode == 0:
            return python
    return None


def side_by_side(check):
    python = torch_python()
    if not python:
        return {"skipped": "no PyTorch with a GPU ($SPARK_TORCH_PYTHON)"}
    try:
        done = subprocess.run([python, "-c", TORCH], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              timeout=max(5, min(RUN_SECONDS, left(check))))
    except (OSError, subprocess.SubprocessError) as error:
        return {"skipped": str(error)[-200:]}
    if done.returncode != 0:
        return {"skipped": done.stderr.decode(errors="replace").strip()[-300:]}
    return json.loads(done.stdout)


def yardstick(check):
    """The same products by cuBLASLt (tests/gpu/cublas.c)."""
    program = check.build / "gpu" / "cublas"
    if not program.exists():
        return {"skipped": "not built: the toolkit has no cuBLASLt"}
    try:
        done = subprocess.run([program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              timeout=max(5, min(RUN_SECONDS, left(check))))
        if done.returncode != 0:
            return {"skipped": done.stderr.decode(errors="replace").strip()[-300:]}
        said = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {"skipped": str(error)[-200:]}
    for p in said["products"]:
        p["model"], p["matrix"] = p["matrix"].split(" ", 1)
    return said


def products(check, fmt):
    return measured(check, "device", "--library", check.library, "--format", fmt, "--json")


def run(check, results):
    """Fills results with what there is time for; the rest is listed as skipped."""
    results.update(engine=[], products={}, cublas={"skipped": "no time"}, torch={"skipped": "no time"})
    steps = [("engine", e) for e in ENGINE[:4]] + [("products", f) for f in FORMATS[:3]] + [("cublas", None), ("torch", None)]
    steps += [("engine", e) for e in ENGINE[4:8]] + [("products", f) for f in FORMATS[3:5]]
    steps += [("engine", e) for e in ENGINE[8:]] + [("products", f) for f in FORMATS[5:]]
    for kind, what in steps:
        late = {"skipped": "no time"} if left(check) < 10 else None
        if kind == "engine":
            shape, fmt, batch = what
            got = late or engine(check, *what)
            results["engine"].append({"shape": shape, "format": fmt, "batch": batch, **got})
        elif kind == "products":
            got = results["products"][what] = late or products(check, what)
        else:
            got = results[kind] = late or (yardstick if kind == "cublas" else side_by_side)(check)
        name = what if isinstance(what, str) else " ".join(map(str, what or ()))
        print(f"         {kind:11} {name}{': ' + cell(got['skipped']) if 'skipped' in got else ''}", flush=True)
        check.write()


def summary(results):
    done = [r for r in results["engine"] if "skipped" not in r]
    return f"{len(done)} of {len(results['engine'])} models measured"


def share(value):
    return f"{100 * value:.1f} %" if value else "-"


def cell(text):
    return str(text).replace("|", "/").replace("\n", " ")


def graphs(r):
    """Of the measured steps of decoding: how many were one launch of a graph, of how many nodes."""
    if not r.get("decode_steps"):
        return "-"
    return f"{r.get('decode_graph_steps', 0)} of {r['decode_steps']}, {r.get('graph_nodes', 0)} nodes"


def details(parts):
    """Lines of Markdown: kernels' programs and models, one by one."""
    lines = []
    for name, part in parts.items():
        if not part.get("details"):
            continue
        lines += ["", f"## {name.capitalize()}", "", "| | |", "|---|---|"]
        for what, d in part["details"].items():
            said = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in d.items() if v != "")
            lines.append(f"| {what} | {cell(said)} |")
    return lines


def engine_lines(results):
    lines = ["", "## Models of random weights", "",
             "Decoding is the median step behind a run that made the graphs; shares are of what this device reads, copies and multiplies "
             "with mma.sync in bfloat16, measured in the same run.", "",
             "| shape | format | sequences | decode, tokens/s | of copy bandwidth | of read bandwidth | prefill, tokens/s | of mma rate | graphs |",
             "|---|---|---|---|---|---|---|---|---|"]
    for r in results:
        head = f"| {r['shape']} | {r['format']} | {r['batch']} | "
        if "skipped" in r:
            lines.append(f"{head}skipped: {cell(r['skipped'])} | | | | | |")
        else:
            lines.append(f"{head}{r['decode_tokens_per_second']:.1f} | {share(r['copy_share'])} | {share(r['bandwidth_share'])} | "
                         f"{r['prefill_tokens_per_second']:.0f} | {share(r['prefill_share'])} | {graphs(r)} |")
    return lines


def coded_lines(results):
    """Losslessly coded BF16 against plain, of the same shape and number of sequences."""
    done = {(r["shape"], r["batch"], r["format"]): r for r in results if "skipped" not in r}
    lines = []
    for (shape, batch, fmt), r in done.items():
        plain = done.get((shape, batch, "bf16"))
        if fmt == "bf16_ll" and plain:
            decode, prefill = (r[k] / plain[k] for k in ("decode_tokens_per_second", "prefill_tokens_per_second"))
            lines.append(f"| {shape} | {batch} | {decode:.2f} | {prefill:.2f} |")
    if not lines:
        return []
    return ["", "## Losslessly coded BF16 against plain BF16", "", "How many times as fast, in the same run.", "",
            "| shape | sequences | decode | prefill |", "|---|---|---|---|", *lines]


def product_lines(results, *sides):
    """Each with the same product by cuBLAS in bfloat16, the faster one of those there are."""
    others = {}
    for p in (p for side in sides for p in side.get("products", [])):
        key = (p["model"], p["matrix"], p["rows"])
        others[key] = min(p["us"], others.get(key, p["us"]))
    lines = ["", "## Products", "", "cuBLAS: the same product with weights in bfloat16 (quantized ones taken apart beforehand), the faster of the "
             "two programs below.", "",
             "| format | matrix | rows | us | GB/s | of read bandwidth | TFLOP/s | of mma rate | cuBLAS, us | cuBLAS / ours |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for fmt, r in results.items():
        if "skipped" in r:
            lines.append(f"| {fmt} | skipped: {cell(r['skipped'])} | | | | | | | | |")
        for p in r.get("products", []):
            other = others.get((p["model"], p["matrix"], p["rows"]))
            side = f"{other:.1f} | {other / p['us']:.2f}" if other else "- | -"
            lines.append(f"| {fmt} | {p['model']} {p['matrix']} | {p['rows']} | {p['us']:.1f} | {p['bytes_per_second'] / 1e9:.0f} | "
                         f"{share(p['of_read'])} | {p['ops_per_second'] / 1e12:.2f} | {share(p['of_ops'])} | {side} |")
    return lines


def table(results):
    """Lines of Markdown."""
    if not results:
        return []
    cublas, torch = results.get("cublas", {"skipped": "none"}), results["torch"]
    lines = engine_lines(results["engine"]) + coded_lines(results["engine"]) + product_lines(results["products"], cublas, torch)
    lines += side_lines(f"cuBLASLt {cublas.get('cublaslt', '')}, bfloat16 (the best of eight rounds)", cublas)
    return lines + side_lines(f"PyTorch {torch.get('torch', '')}, bfloat16", torch)


def side_lines(title, side):
    lines = ["", f"## {title}", ""]
    if "skipped" in side:
        return lines + [f"skipped: {cell(side['skipped'])}"]
    lines += ["| matrix | rows | us | GB/s | TFLOP/s |", "|---|---|---|---|---|"]
    return lines + [f"| {p['model']} {p['matrix']} | {p['rows']} | {p['us']:.1f} | {p['bytes_per_second'] / 1e9:.0f} | "
                    f"{p['ops_per_second'] / 1e12:.2f} |" for p in side["products"]]
