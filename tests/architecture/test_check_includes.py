#!/usr/bin/python3
"""check_includes.py finds each kind of wrong include, and nothing in a tree that is right."""
import os
import sys
import tempfile

sys.dont_write_bytecode = True
from check_includes import violations  # noqa: E402

RIGHT = {
    "src/core/error.hpp": "#include <string>\n",
    "src/mechanism/band.hpp": '#include "core/error.hpp"\n',
    "src/io/file.cpp": '#include <hdf5.h>\n#include "io/file.hpp"\n',
    "src/io/file.hpp": '#include "core/error.hpp"\n',
    "comm/mpi_transport.cpp": '#include <mpi.h>\n#include "mechanism/band.hpp"\n',
    "kernels/cpu/attend.cpp": '#include "hwy/highway.h"\n#include "mechanism/band.hpp"\n',
    "kernels/cuda/stream.hpp": "#include <cuda_runtime_api.h>\n",
    "kernels/cuda/attend.cpp": '#include "kernels/cuda/stream.hpp"\n',
    "comm/nccl_link.hpp": "#include <cuda_runtime_api.h>\n#include <nccl.h>\n",
    "comm/nccl_link.cpp": '#include "comm/nccl_link.hpp"\n',
    "src/engine/run.cpp": '#include "io/file.hpp"\n',
    "apps/main.cpp": "#include <mpi.h>\n",
    "tests/support/main.cpp": "#include <mpi.h>\nint main() {}\n",
}
WRONG = [
    ("src/core/error.cpp", '#include "mechanism/band.hpp"'),
    ("src/mechanism/fold.hpp", '#include "engine/run.hpp"'),
    ("kernels/cpu/other.cpp", '#include "comm/ring.hpp"'),
    ("comm/ring.cpp", '#include "kernels/kernels.hpp"'),
    ("src/io/other.cpp", '#include "comm/ring.hpp"'),
    ("src/engine/other.cpp", "  #  include <mpi.h>"),
    ("src/engine/another.cpp", '#include "io/handle.hpp"'),
    ("apps/run.cpp", "#include <H5Fpublic.h>"),
    ("tests/engine/test_run.cpp", "#include <hdf5.h>"),
    ("tests/comm/test_ring.cpp", "#include <mpi.h>"),
    ("kernels/cpu/device.cpp", "#include <cuda_runtime.h>"),
    ("src/engine/device.cpp", '#include "kernels/cuda/memory.hpp"'),
    ("comm/nccl_transport.cpp", "#include <nccl.h>"),
    ("src/engine/lost.cpp", '#include "nowhere.hpp"'),
]
BESIDE_WRONG = {"src/engine/run.hpp": "", "comm/ring.hpp": "", "kernels/kernels.hpp": "", "src/io/handle.hpp": "#include <hdf5.h>\n",
                "kernels/cuda/memory.hpp": "#include <cuda_runtime_api.h>\n"}


def findings(files):
    with tempfile.TemporaryDirectory() as root:
        for path, text in files.items():
            os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
            with open(os.path.join(root, path), "w") as f:
                f.write(text)
        return list(violations(root))


def main():
    assert findings(RIGHT) == [], findings(RIGHT)
    for path, line in WRONG:
        found = findings({**RIGHT, **BESIDE_WRONG, path: line + "\n"})
        assert len(found) == 1 and found[0].startswith(path + ":"), (path, line, found)
    print(f"{len(WRONG)} kinds of wrong include found")


if __name__ == "__main__":
    main()
