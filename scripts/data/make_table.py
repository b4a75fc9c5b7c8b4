#!/usr/bin/python3
"""Makes scripts/data/layer0_table.npz from the weights of the small trained language model of the design material.

  scripts/data/make_table.py SHARED_DATA_FOLDER

In layer 0 the q, k and v of a token depend on its byte alone, but for the rotation by its position (RoPE) that the
softmax and cog heads apply to q and k. So 256 rows, taken before that rotation, hold all of layer 0.
"""
import os
import sys

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    shared = os.path.abspath(sys.argv[1])
    sys.path.insert(0, shared)
    import make_activations as model

    with h5py.File(os.path.join(shared, "weights_a.h5")) as weights:
        w = {name: weights[name][:].astype(np.float32)
             for name in ("emb/weight", "layers/0/qkv/weight", "layers/0/dt/weight", "layers/0/dt/bias")}
    y = model.rms(w["emb/weight"])
    qkv = (y @ w["layers/0/qkv/weight"].T).reshape(256, 3, model.H, model.d)
    log_decay = -model.softplus(y @ w["layers/0/dt/weight"].T + w["layers/0/dt/bias"])
    np.savez(os.path.join(HERE, "layer0_table.npz"), qkv=qkv, log_decay=log_decay.astype(np.float32))


if __name__ == "__main__":
    main()
