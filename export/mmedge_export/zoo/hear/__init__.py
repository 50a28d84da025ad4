"""``zoo:hear``: spoken requests to English or Chinese text."""
