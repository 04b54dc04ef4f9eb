"""The papers' networks. Imports nothing else of the project."""
