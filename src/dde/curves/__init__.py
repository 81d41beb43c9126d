"""Curves: observations of runs on the token axis, and their alignment on a shared grid."""
