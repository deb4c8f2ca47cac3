"""What flows in: events, the columnar frames that carry them, and how both are written down."""
