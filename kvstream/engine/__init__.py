"""Events in; windows, alerts and summaries out; synchronous."""
