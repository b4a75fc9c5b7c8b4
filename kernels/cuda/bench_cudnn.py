#!/usr/bin/env python3
"""The peer: PyTorch's causal attention with its cuDNN backend, on the shapes of bench_cuda_kernels."""
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.testing import do_bench

print("| peer | shape | ms | TFLOP/s |\n|---|---|---|---|")
for heads, seq_len, head_dim in ((16, 8192, 128), (16, 32768, 128), (32, 32768, 64), (16, 131072, 128)):
    q, k, v = (torch.randn(1, heads, seq_len, head_dim, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        ms = do_bench(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),
                      warmup=100, rep=300, return_mode="median")
    print(f"| cuDNN {torch.backends.cudnn.version()} | H{heads} N{seq_len} D{head_dim} bf16 | {ms:.3f} "
          f"| {2 * heads * seq_len**2 * head_dim / ms * 1e-9:.1f} |", flush=True)
