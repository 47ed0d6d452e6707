"""What stored tensors hold: equal, transposed, quantized."""
