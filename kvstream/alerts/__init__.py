"""What is wrong: rules over windowed metrics, and the alerts they fire and resolve."""
