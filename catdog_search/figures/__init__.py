"""Figures, plotted with matplotlib without a display; nothing is read or kept here."""
