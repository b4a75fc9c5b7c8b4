#!/usr/bin/python3
"""Holds the source tree to the include directions of the architecture.

  check_includes.py ROOT

Prints each include that goes the wrong way and exits 1 where there is one. Include roots are ROOT and ROOT/src.
"""
import os
import re
import sys

# Which folders a folder may include from, besides itself.
BASE = {"src/core", "src/mechanism", "src/sequence"}
ALLOWED = {
    "src/core": set(),
    "src/mechanism": {"src/core"},
    "src/sequence": {"src/core"},
    "src/io": BASE,
    "kernels": BASE,
    "comm": BASE,
    "src/engine": BASE | {"src/io", "kernels", "comm"},
    "apps": BASE | {"src/io", "kernels", "comm", "src/engine"},
}
ALLOWED["tests"] = set(ALLOWED)

# Libraries that few files may name: header, files that may include it.
RESTRICTED = {
    "MPI": (re.compile(r"mpi(-ext)?\.h"), re.compile(r"apps/main\.cpp|comm/mpi_\w+\.[ch]pp|src/io/.*")),
    "HDF5": (re.compile(r"hdf5\.h|H5\w*\.h"), re.compile(r"src/io/.*")),
    "CUDA": (
        re.compile(r"cuda\w*\.(h|hpp)|cuda/.*"),
        re.compile(r"kernels/cuda/.*|comm/nccl_link\.hpp|tests/(kernels_cuda/.*|comm/test_nccl_transport\.cpp)"),
    ),
    "NCCL": (re.compile(r"nccl\.h"), re.compile(r"comm/nccl_link\.hpp")),
}
# A test may start MPI where it has a main() of its own.
TEST_MAIN = re.compile(r"^int main\(", re.MULTILINE)

# What these folders include may not bring in a restricted library by a detour either.
FREE_OF_RESTRICTED = ("src/core", "src/mechanism", "src/sequence", "kernels", "src/engine")

EXTERNAL_IN_QUOTES = ("hwy/",)  # Highway's own way of being included
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def folder_of(path):
    """The architecture's folder that a path from the root lies in, or None."""
    return next((folder for folder in ALLOWED if path.startswith(folder + "/")), None)


class Tree:
    def __init__(self, root):
        self.includes = {}  # path -> [(is_quoted, name, resolved path or None)]
        self.test_mains = set()
        for top in ("src", "kernels", "comm", "apps", "tests"):
            for folder, _, names in os.walk(os.path.join(root, top)):
                for name in names:
                    if name.endswith((".hpp", ".cpp", ".h", ".cu", ".cuh")):
                        path = os.path.relpath(os.path.join(folder, name), root)
                        with open(os.path.join(folder, name), encoding="utf-8") as f:
                            text = f.read()
                        self.includes[path] = INCLUDE.findall(text)
                        if top == "tests" and TEST_MAIN.search(text):
                            self.test_mains.add(path)
        for path, found in self.includes.items():
            self.includes[path] = [(mark == '"', name, self.resolve(name) if mark == '"' else None) for mark, name in found]

    def resolve(self, name):
        return next((p for p in (name, "src/" + name) if p in self.includes), None)

    def reached(self, path):
        """Names of all system headers that `path` includes, directly or through the tree's own files."""
        headers, seen, todo = set(), {path}, [path]
        while todo:
            for is_quoted, name, target in self.includes[todo.pop()]:
                if not is_quoted:
                    headers.add(name)
                elif target and target not in seen:
                    seen.add(target)
                    todo.append(target)
        return headers


def violations(root):
    tree = Tree(root)
    for path, includes in sorted(tree.includes.items()):
        own = folder_of(path)
        if own is None:
            yield f"{path}: lies in no folder of the architecture"
            continue
        for is_quoted, name, target in includes:
            if not is_quoted:
                for library, (header, users) in RESTRICTED.items():
                    is_user = users.fullmatch(path) or (library == "MPI" and path in tree.test_mains)
                    if header.fullmatch(name) and not is_user:
                        yield f"{path}: includes <{name}>, but {library} is for {users.pattern} alone"
            elif target is None:
                if not name.startswith(EXTERNAL_IN_QUOTES):
                    yield f'{path}: "{name}" is found under neither the root nor src/'
            elif folder_of(target) != own and folder_of(target) not in ALLOWED[own]:
                yield f'{path}: {own} may not include from {folder_of(target)} ("{name}")'
        if own in FREE_OF_RESTRICTED:
            for library, (header, users) in RESTRICTED.items():
                if users.fullmatch(path):
                    continue
                direct = {name for _, name, _ in includes}
                if any(header.fullmatch(name) for name in tree.reached(path) - direct):
                    yield f"{path}: brings in {library} through what it includes"


def main():
    found = list(violations(sys.argv[1]))
    print("\n".join(found) if found else f"{len(Tree(sys.argv[1]).includes)} files follow the include directions")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
