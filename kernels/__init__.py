"""The kernels, one op a file, each beside its reference in plain torch; they know no diffusers."""
