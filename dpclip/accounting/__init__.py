"""Epsilon of a history of steps, and the noise for an epsilon: Opacus' accountants, guarded."""
