"""TensorRT: NVIDIA's runtime for its GPUs, as TensorRT 10 or 11 or as TensorRT-RTX."""
