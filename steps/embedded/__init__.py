"""The embedded example: real handwritten digits, and a backbone that the project trained itself on other characters."""
