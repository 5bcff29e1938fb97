"""Models as other programs take them: written, proven against the one that was trained."""
