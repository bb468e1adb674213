"""Real agents, their models, and what those cost."""
