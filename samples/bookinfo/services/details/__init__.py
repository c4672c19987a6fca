"""The details service: facts about a book."""
