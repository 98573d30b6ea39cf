"""Second-order optimizers of splats, and the residuals they work on."""
