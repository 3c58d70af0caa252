"""Learning: filters, projections, small descriptors and trunks, from photos."""
