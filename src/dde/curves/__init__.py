"""Curves: what runs observed on the token axis, and its alignment onto a shared grid."""
