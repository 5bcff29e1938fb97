"""Families of networks, a row each: params, rules, cost, weights, trainer. Nothing heavy in it."""
