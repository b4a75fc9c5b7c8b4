#!/usr/bin/python3
"""test_mamba2.py RINGSCAN: the commands of docs/mamba2.md on a random layer, held to the recurrence in numpy."""
import os
import re
import subprocess
import sys
import tempfile

import h5py
import numpy as np

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")


def make_layer(path, rng, seq=213, heads=4, p=24, groups=2, n=16):
    with h5py.File(path, "w") as f:
        f["x"] = rng.standard_normal((2, seq, heads, p)).astype(np.float32)
        f["dt"] = np.log1p(np.exp(rng.standard_normal((2, seq, heads)) - 2)).astype(np.float32)
        f["A"] = -np.arange(1, heads + 1, dtype=np.float32)
        f["B"] = rng.standard_normal((2, seq, groups, n)).astype(np.float32)
        f["C"] = rng.standard_normal((2, seq, groups, n)).astype(np.float32)
        f["D"] = rng.standard_normal(heads).astype(np.float32)


def recurrence(path):
    """h_t = e^(dt A) h_(t-1) + dt B x^T;  y_t = C h_t + D x_t, token by token in float64."""
    with h5py.File(path) as f:
        x, dt, a, b, c, d = (f[name][:].astype(np.float64) for name in ("x", "dt", "A", "B", "C", "D"))
    batch, seq, heads, p = x.shape
    group = np.arange(heads) // (heads // b.shape[2])
    h = np.zeros((batch, heads, b.shape[3], p))
    y = np.empty_like(x)
    for t in range(seq):
        update = (dt[:, t, :, None] * b[:, t, group])[..., None] * x[:, t, :, None, :]
        h = np.exp(dt[:, t] * a)[..., None, None] * h + update
        y[:, t] = np.einsum("bhn,bhnp->bhp", c[:, t, group], h) + d[:, None] * x[:, t]
    return y


def documented_commands():
    with open(os.path.join(ROOT, "docs/mamba2.md")) as f:
        (commands,) = re.findall(r"^```sh\n(.*?)^```$", f.read(), re.MULTILINE | re.DOTALL)
    return commands


def main():
    ringscan = os.path.abspath(sys.argv[1])
    scripts = os.path.abspath(os.path.join(ROOT, "scripts"))
    environment = {**os.environ, "PATH": f"{os.path.dirname(ringscan)}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        make_layer(os.path.join(folder, "layer.h5"), np.random.default_rng(1))
        os.symlink(scripts, os.path.join(folder, "scripts"))
        subprocess.run(["bash", "-euc", documented_commands()], cwd=folder, env=environment, check=True)
        wanted = recurrence(os.path.join(folder, "layer.h5"))
        with h5py.File(os.path.join(folder, "y.h5")) as f:
            worst = np.abs(f["y"][:] - wanted).max() / np.abs(wanted).max()
        assert worst < 1e-6, worst


if __name__ == "__main__":
    main()
