"""Triton kernels for CUDA GPUs; each public op of `tandem.ops` calls its twin here when `triton_for` its tensors."""
