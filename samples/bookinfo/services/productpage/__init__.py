"""The productpage service: the page of a book, put together from details and reviews."""
