"""Families of networks, a row each: params, rules, cost, weights, trainer. No heavy imports."""
