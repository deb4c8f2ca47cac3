"""What was found, for people: verdict, overview, and reports in HTML and Markdown."""
