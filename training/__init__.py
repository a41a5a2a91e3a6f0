"""Training of the edge network: sources, simulated and real exposures, flow, deblurring, evaluation."""
