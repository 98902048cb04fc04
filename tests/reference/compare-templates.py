#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Renders every template of a folder with jinja2, set up the way transformers does it, and with spark-bench, for the
conversations of a cases.json in several variants, and prints where the bytes or the refusals differ (needs the jinja2
package).

Usage: compare-templates.py FOLDER [--cases cases.json] [--bench build/bin/spark-bench] [-j JOBS] [-v]
"""

import argparse
import concurrent.futures
import copy
import importlib.util
import json
import os
import subprocess
import sys
from datetime import datetime

HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("template_cases", os.path.join(HERE, "make-template-cases.py"))
template_cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(template_cases)


def variants(cases):
    """(name, variables) of every conversation, as it is and with thinking, generation prompt or tools the other way."""
    common = {k: cases[k] for k in ("bos_token", "eos_token", "unk_token") if k in cases}
    for name, c in cases["cases"].items():
        base = {"messages": c["messages"], "tools": c.get("tools"), "documents": None,
                "add_generation_prompt": c["gen"], **common, **c.get("kw", {})}
        yield name, base
        yield name + "+thinking", {**base, "enable_thinking": True}
        yield name + "+nothinking", {**base, "enable_thinking": False}
        yield name + "+gen", {**base, "add_generation_prompt": not c["gen"]}
        parts = copy.deepcopy(base)
        for m in parts["messages"]:
            m["content"] = [{"type": "text", "text": m["content"]}]
        yield name + "+parts", parts
        if c.get("tools"):
            text = copy.deepcopy(base)
            for m in text["messages"]:
                for call in m.get("tool_calls", []):
                    call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
            yield name + "+argtext", text
            yield name + "+notools", {**base, "tools": None}


def reference(template, variables):
    try:
        text = template.render(**copy.deepcopy(variables))
        text.encode()
        return text, None
    except Exception as e:  # whatever it is, it is a refusal
        return None, f"{type(e).__name__}: {e}"


def ours(bench, path, variables, now):
    r = subprocess.run([bench, "template", "-f", path], input=json.dumps({**variables, "now": now}).encode(),
                       capture_output=True, timeout=60)
    if r.returncode == 0:
        return r.stdout.decode(errors="replace"), None
    if r.returncode == 65:
        return None, r.stderr.decode(errors="replace").strip()
    return None, f"CRASH {r.returncode} {r.stderr.decode(errors='replace')}"


def compare(args, cases, path):
    out, n = [], 0
    env = template_cases.environment()
    with open(path, encoding="utf-8", newline="") as f:
        source = f.read()
    try:
        template, refused = env.from_string(source), None
    except Exception as e:
        template, refused = None, f"{type(e).__name__}: {e}"
    for name, variables in variants(cases):
        n += 1
        want, error = (None, refused) if refused else reference(template, variables)
        got, said = ours(args.bench, path, variables, cases["now"])
        if want != got or (said or "").startswith("CRASH"):
            out.append((os.path.basename(path), name, want, error, got, said))
        if refused and n > 3:
            break
    return out, n


def show(difference):
    path, name, want, error, got, said = difference
    print(f"{path} [{name}]")
    if want is not None and got is not None:
        at = next((i for i, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))
        print(f"  at character {at}\n  want {want[max(0, at - 30):at + 60]!r}\n  got  {got[max(0, at - 30):at + 60]!r}")
    else:
        print(f"  want {error or repr(want[:100])}\n  got  {said or repr(got[:100])}")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("folder")
    p.add_argument("--cases", default=os.path.join(os.environ.get("SPARK_TESTDATA", "../shared/testdata"),
                                                   "reference/templates/cases.json"))
    p.add_argument("--bench", default="build/bin/spark-bench")
    p.add_argument("-j", type=int, default=2)
    p.add_argument("-v", action="store_true", help="every difference, not one a template")
    args = p.parse_args()
    with open(args.cases, encoding="utf-8") as f:
        cases = json.load(f)
    datetime.fromisoformat(cases["now"])
    template_cases.NOW = cases["now"]
    paths = sorted(os.path.join(args.folder, x) for x in os.listdir(args.folder))
    with concurrent.futures.ThreadPoolExecutor(args.j) as pool:
        results = list(pool.map(lambda path: compare(args, cases, path), paths))
    bad = 0
    for differences, _ in results:
        bad += bool(differences)
        for d in differences if args.v else differences[:1]:
            show(d)
    print(f"{len(paths)} templates, {sum(n for _, n in results)} renders: {bad} templates differ")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
