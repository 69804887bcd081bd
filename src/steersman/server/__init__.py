"""OpenAI-compatible serving: each request is steered by its own policy, or by none."""
