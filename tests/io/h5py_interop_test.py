"""h5py writes, ringscan reads and writes, h5py reads: with no helper on h5py's side. Arguments: the io_h5py_peer program."""
import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np


def bfloat16_bits(x):
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def write_bfloat16(group, name, x):
    """As shared/data/make_activations.py does."""
    t = h5py.h5t.IEEE_F32LE.copy()
    t.set_fields(15, 7, 8, 0, 7)
    t.set_size(2)
    t.set_ebias(127)
    dataset = h5py.h5d.create(group.id, name.encode(), t, h5py.h5s.create_simple(x.shape))
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, bfloat16_bits(x), t)


def write_input(path, kind, values):
    with h5py.File(path, "w") as f:
        f.attrs["source"] = "h5py, \u00e4"
        f.attrs["seed"] = 7
        f.attrs["scales"] = np.array([0.5, 2.0])
        f.attrs["tag"] = np.bytes_("fixed")
        group = f.create_group("layers/0")
        if kind == "bfloat16":
            write_bfloat16(group, "q", values)
        elif kind == "gzip":
            group.create_dataset("q", data=values.astype("f4"), chunks=(1, 5, 2, 3), compression="gzip", shuffle=True)
        else:
            group.create_dataset("q", data=values.astype(kind))


def main(peer):
    rng = np.random.default_rng(1)
    values = rng.integers(-128, 129, (2, 33, 3, 5)).astype(np.float32)  # exact in every type
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("bfloat16", "f2", ">f2", "f4", ">f4", "f8", "gzip"):
            read, written = os.path.join(folder, "in.h5"), os.path.join(folder, f"out-{kind}.h5")
            write_input(read, kind, values)
            subprocess.run([peer, read, written], check=True)
            with h5py.File(written) as f:
                for name, dtype in (("float64", "f8"), ("float32", "f4"), ("float16", "f2"), ("bfloat16", "f4")):
                    dataset = f["layers/0"][name]
                    assert dataset.dtype == np.dtype(dtype), (kind, name, dataset.dtype)
                    assert dataset.chunks is None, (kind, name)
                    assert np.array_equal(dataset[:], values), (kind, name)
                assert f["layers/0/bfloat16"].id.get_storage_size() == values.size * 2
                wanted = {"complete": 1, "seconds": 0.25, "world_size": 3, "input source": "h5py, \u00e4",
                          "input seed": "7", "input scales": "[0.5, 2]", "input tag": "fixed",
                          "type": {"bfloat16": "bfloat16", "f2": "float16", ">f2": "float16",
                                   "f8": "float64"}.get(kind, "float32")}
                found = dict(f.attrs)
                assert found == wanted, (kind, found)
                assert isinstance(found["type"], str) and found["complete"].dtype == np.int64
    print("ok")


main(sys.argv[1])
