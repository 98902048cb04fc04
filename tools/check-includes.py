#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who includes whom: fails for every quoted #include that goes against the arrows of docs/architecture.md.
Usage: tools/check-includes.py [FOLDER]   (the tree's root; default: where this file is)"""

import pathlib
import re
import sys

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
FORMATS = tuple(f"kernels/{name}.h" for name in ("format", "format-codes", "float8", "half", "lossless"))
# A room, and the folders or single files outside of it that it may name. Everybody may use ipc/base.
ALLOWED = {
    "ipc/base": (),
    "ipc": (),
    "client": ("ipc", "proto"),
    "daemon/control": ("ipc", "proto"),
    "daemon/cage": (),
    "daemon/loader": ("daemon/cage", "daemon/image", *FORMATS, "ipc/loadlink.h", "ipc/modeldir.h"),
    "daemon/store": ("daemon/cage", "ipc/storelink.h"),
    "daemon/engine": ("daemon/cage", "daemon/text", "daemon/image", "kernels", "ipc", "proto"),
    "daemon/text": (),
    "daemon/image": FORMATS,
    "kernels": (),
    "kernels/cuda": ("kernels",),
}
# The rooms of control, and which of the others each may name. What stands in daemon/control itself, all of them may.
CONTROL = {
    "config": (),
    "rights": (),
    "keep": (),
    "users": ("config",),
    "clients": ("keep", "request", "session"),
    "request": ("keep", "memory", "model", "power", "rights", "session", "store", "users"),
    "session": ("config", "keep", "model", "request", "users"),
    "model": ("config", "keep", "memory", "power", "request", "session", "store"),
    "memory": ("keep", "model", "session", "users"),
    "power": ("config", "model", "request", "session", "users"),
    "store": ("config", "model", "request", "users"),
    "bus": ("clients", "keep", "memory", "power", "request", "rights", "session", "store", "users"),
}
ALLOWED["daemon/control"] += tuple(f"daemon/control/{room}" for room in CONTROL)
ALLOWED |= {
    f"daemon/control/{room}": ("ipc", "proto", *(f"daemon/control/{other}" for other in others))
    for room, others in CONTROL.items()
}
SEARCHED = ("", "ipc", "daemon/control", "kernels/cuda/ptx")  # as the compiler is told to


def room_of(path):
    """The longest room that a path is in, or None."""
    parents = [str(parent) for parent in pathlib.PurePosixPath(path).parents]
    return next((parent for parent in parents if parent in ALLOWED), None)


def resolve(root, including, name):
    """Where an included file is, from the tree's root; None where it is not in the tree."""
    if name.endswith(".pb-c.h"):
        return "proto/" + name
    for folder in (str(pathlib.PurePosixPath(including).parent), *SEARCHED):
        if (root / folder / name).is_file():
            return (pathlib.PurePosixPath(folder) / name).as_posix()
    return None


def is_private(target):
    return target.endswith(("-private.h", "-internal.h", "/internal.h"))


def may_include(room, target):
    if target.startswith("ipc/base/") or room_of(target) == room:
        return True
    if is_private(target):
        return False
    if room.startswith("daemon/control/") and room_of(target) == "daemon/control":
        return True
    return any(target == entry or target.startswith(entry + "/") for entry in ALLOWED[room])


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()
    wrong = files = 0
    ours = (path for top in ("client", "daemon", "ipc", "kernels") for path in (root / top).rglob("*"))
    for path in sorted(path for path in ours if path.suffix in (".c", ".h", ".cu", ".cuh")):
        including = path.relative_to(root).as_posix()
        room = room_of(including)
        files += 1
        for match in INCLUDE.finditer(path.read_text(encoding="utf-8")):
            target = resolve(root, including, match.group(1))
            if room and target and not may_include(room, target):
                print(f"{including}: {room} may not include {target} (docs/architecture.md)")
                wrong += 1
    print(f"includes: {files} files, {wrong} wrong")
    return 1 if wrong or not files else 0


sys.exit(main())
