"""Image calls: the customer's request, and the calls upstream that it becomes."""
