# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of gpu-check.py: whole models of random weights, single products, and the same products in PyTorch (cuBLAS), most
telling first, as long as there is time."""

import json
import os
import subprocess
import sys
import time

# shape, format, sequences; the prompt is as long as one sequence's share of 2,048 tokens, but of one alone all of them
ENGINE = [("llama-8b", "q4_k", 1), ("llama-8b", "bf16", 1), ("llama-70b", "q4_k", 1), ("gpt-oss-120b", "mxfp4", 1),
          ("llama-8b", "q8_0", 1), ("llama-8b", "mxfp4", 1), ("llama-8b", "q4_k", 8), ("llama-8b", "bf16", 8),
          ("llama-70b", "q8_0", 1), ("llama-70b", "mxfp4", 1), ("llama-70b", "q4_k", 8), ("llama-8b", "q8_0", 8),
          ("llama-8b", "mxfp4", 8), ("qwen3-32b", "q4_k", 1), ("llama-70b", "mxfp4", 8), ("llama-70b", "q8_0", 8),
          ("llama-70b", "bf16", 1), ("llama-70b", "bf16", 8)]
FORMATS = ["bf16", "q8_0", "q4_k", "mxfp4", "q4_0", "q6_k", "nvfp4"]
TORCH = """
import json, time, torch
out = []
for name, n, k in (("8b attn_q", 4096, 4096), ("8b ffn_up", 14336, 4096), ("70b attn_q", 8192, 8192), ("70b ffn_up", 28672, 8192)):
    w = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(max(1, (256 << 20) // (2 * n * k)))]
    for rows in (1, 8, 64, 2048):
        x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
        best = 1e9
        for _ in range(8):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for m in w:
                torch.nn.functional.linear(x, m)
            torch.cuda.synchronize()
            best = min(best, (time.perf_counter() - began) / len(w))
        out.append({"matrix": name, "rows": rows, "us": best * 1e6, "bytes_per_second": 2 * n * k / best, "ops_per_second": 2 * n * k * rows / best})
print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name(), "products": out}))
"""


def left(check):
    return check.deadline - time.monotonic()


def engine(check, shape, fmt, batch):
    """One run; where it can't be done, why."""
    prompt, tokens = (2048, 64) if batch == 1 else (2048 // batch, 32)
    rows = ["-r", "2048"] if batch == 1 else []
    try:
        return json.loads(check.bench("engine", "--backend", "cuda", "--library", check.library, "--shape", shape, "--format", fmt, "-b", batch,
                                      "-p", prompt, "-n", tokens, *rows, "--json", timeout=max(20, left(check))))
    except Exception as error:  # pylint: disable=broad-exception-caught
        return {"skipped": str(error)[-200:]}


def torch_python():
    """A Python that has PyTorch with a GPU: $SPARK_TORCH_PYTHON, or this one."""
    python = os.environ.get("SPARK_TORCH_PYTHON", sys.executable)
    probe = subprocess.run([python, "-c", "import torch; assert torch.cuda.is_available()"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           check=False)
    return python if probe.returncode == 0 else None


def side_by_side(check):
    python = torch_python()
    if not python:
        return {"skipped": "no PyTorch with a GPU ($SPARK_TORCH_PYTHON)"}
    try:
        done = subprocess.run([python, "-c", TORCH], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True, timeout=max(20, min(90, left(check))))
        return json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        return {"skipped": str(error)[-200:]}


def products(check, fmt):
    try:
        return json.loads(check.bench("device", "--library", check.library, "--format", fmt, "--json", timeout=max(20, left(check))))
    except Exception as error:  # pylint: disable=broad-exception-caught
        return {"skipped": str(error)[-200:]}


def run(check):
    """What there was time for; the rest is listed as skipped."""
    results = {"engine": [], "products": {}, "torch": {"skipped": "no time"}}
    steps = [("engine", e) for e in ENGINE[:6]] + [("products", f) for f in FORMATS[:4]] + [("torch", None)]
    steps += [("engine", e) for e in ENGINE[6:]] + [("products", f) for f in FORMATS[4:]]
    for kind, what in steps:
        late = {"skipped": "no time"} if left(check) < 10 else None
        if kind == "engine":
            shape, fmt, batch = what
            results["engine"].append({"shape": shape, "format": fmt, "batch": batch, **(late or engine(check, *what))})
        elif kind == "products":
            results["products"][what] = late or products(check, what)
        else:
            results["torch"] = late or side_by_side(check)
        print(f"         {kind:11} {what or ''}", flush=True)
    return results


def summary(results):
    done = [r for r in results["engine"] if "skipped" not in r]
    return f"{len(done)} of {len(results['engine'])} models measured"


def share(value):
    return f"{100 * value:.1f} %" if value else "-"


def table(results):
    """Lines of Markdown."""
    if not results:
        return []
    lines = ["", "## Models of random weights", "",
             "| shape | format | sequences | decode, tokens/s | of copy bandwidth | of read bandwidth | prefill, tokens/s | of matrix rate |",
             "|---|---|---|---|---|---|---|---|"]
    for r in results["engine"]:
        head = f"| {r['shape']} | {r['format']} | {r['batch']} | "
        if "skipped" in r:
            lines.append(f"{head}skipped: {r['skipped'].replace('|', '/')} | | | | |".replace("\n", " "))
        else:
            lines.append(f"{head}{r['decode_tokens_per_second']:.1f} | {share(r['copy_share'])} | {share(r['bandwidth_share'])} | "
                         f"{r['prefill_tokens_per_second']:.0f} | {share(r['prefill_share'])} |")
    lines += ["", "## Products", "", "| format | matrix | rows | us | GB/s | of read bandwidth | TFLOP/s | of matrix rate |",
              "|---|---|---|---|---|---|---|---|"]
    for fmt, r in results["products"].items():
        if "skipped" in r:
            lines.append(f"| {fmt} | skipped: {r['skipped'].replace('|', '/')} | | | | | | |".replace("\n", " "))
        for p in r.get("products", []):
            lines.append(f"| {fmt} | {p['model']} {p['matrix']} | {p['rows']} | {p['us']:.1f} | {p['bytes_per_second'] / 1e9:.0f} | "
                         f"{share(p['of_read'])} | {p['ops_per_second'] / 1e12:.2f} | {share(p['of_ops'])} |")
    torch = results["torch"]
    lines += ["", f"## PyTorch {torch.get('torch', '')} (cuBLAS, bfloat16)", ""]
    if "skipped" in torch:
        return lines + [f"skipped: {torch['skipped']}"]
    lines += ["| matrix | rows | us | GB/s | TFLOP/s |", "|---|---|---|---|---|"]
    lines += [f"| {p['matrix']} | {p['rows']} | {p['us']:.1f} | {p['bytes_per_second'] / 1e9:.0f} | {p['ops_per_second'] / 1e12:.2f} |"
              for p in torch["products"]]
    return lines
