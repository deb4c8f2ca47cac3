"""Reports of recordings: what was found, as HTML, Markdown or JSON."""
