"""A driver library, `libcuda.so.1`, over a simulated GPU: nothing here shows how a real one behaves, or its speed."""
