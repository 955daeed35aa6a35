"""Pages: self-contained HTML, its figures and its words."""
