"""Roles, types and the composition. Imports nothing of the rest of the package."""
