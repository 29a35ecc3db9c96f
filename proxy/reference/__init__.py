"""What the API says of itself: `/openapi.json`, and `/docs` made from it. Imported when somebody first asks for one of them."""
