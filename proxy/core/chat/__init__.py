"""Chat calls: what is asked, what is seen of the answer, what that costs."""
