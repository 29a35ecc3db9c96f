"""What is in force now: settings and keys, and how a reload changes them."""
