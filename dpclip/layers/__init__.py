"""Rules that turn what a layer saw into rows: one gradient for each group."""

from dpclip.layers.registry import GROUP_RULES, LOOKS, Rule, rule_for

__all__ = ["GROUP_RULES", "LOOKS", "Rule", "rule_for"]
